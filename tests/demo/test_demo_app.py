"""The server's answers, asked in this process."""

import asyncio
import base64
import io
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from PIL import Image, ImageOps
from starlette.testclient import TestClient

from arcface_pl import ArcFaceHead, Recognizer, SimpleCNN
from arcface_pl.cli import main
from arcface_pl.demo import Demo, create_app
from arcface_pl.demo.replies import MAX_BYTES, SHOWN
from arcface_pl.preprocessing import Preprocessor
from arcface_pl.recognizer import TrainedModel
from arcface_pl.recognizer.gallery_lock import editing_gallery

pytestmark = pytest.mark.timeout(120)
ADDRESS = "http://127.0.0.1:8765"
TOLERANCE = math.degrees(1e-5)


@pytest.fixture
def recognizer(trained: Path) -> Recognizer:
    return Recognizer.from_checkpoint(trained)


@pytest.fixture
def client(recognizer: Recognizer) -> TestClient:
    return TestClient(create_app(Demo(recognizer)), base_url=ADDRESS)


def png(image: torch.Tensor) -> bytes:
    """A digit on a larger sheet, as a file."""
    file = io.BytesIO()
    drawn = Image.fromarray(image.numpy()).resize((140, 140), Image.Resampling.BICUBIC)
    ImageOps.expand(drawn, border=40, fill=255).save(file, "PNG")
    return file.getvalue()


def ask(client: TestClient, content: bytes) -> dict:
    response = client.post("/api/recognize", content=content)
    assert response.status_code == 200, response.text
    return response.json()


def enroll(client: TestClient, name: str, image: torch.Tensor) -> dict:
    response = client.post("/api/names", params={"name": name}, content=png(image))
    assert response.status_code == 200, response.text
    return response.json()


def test_angles_are_the_recognizers_and_the_decision_is_predicts(
    trained: Path,
    recognizer: Recognizer,
    client: TestClient,
    digits: dict[int, torch.Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    files = []
    for label, images in digits.items():
        files.append(tmp_path / f"{label}.png")
        files[-1].write_bytes(png(images[0]))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["predict", str(trained), *map(str, files), "--json"])
    predicted = json.loads(capsys.readouterr().out)
    assert {row["unknown"] for row in predicted} == {False, True}  # both kinds of answer are compared
    weight = F.normalize(recognizer.model.head.weight.double(), dim=1)
    for file, row in zip(files, predicted, strict=True):
        answer = ask(client, file.read_bytes())
        cosine = (weight @ recognizer.embed(file)[0].double()).clamp(-1, 1)
        assert [each["label"] for each in answer["classes"]] == recognizer.class_names
        assert [each["cosine"] for each in answer["classes"]] == pytest.approx(cosine.tolist(), abs=1e-5)
        degrees = cosine.arccos().rad2deg().tolist()
        assert [each["angle_degrees"] for each in answer["classes"]] == pytest.approx(degrees, abs=TOLERANCE)
        decision = answer["decision"]
        assert (decision["kind"], decision["label"], decision["unknown"]) == ("class", row["label"], row["unknown"])
        assert decision["angle_degrees"] == pytest.approx(row["angle_degrees"], abs=TOLERANCE)


def test_the_picture_shown_is_the_one_the_network_was_given(
    recognizer: Recognizer, client: TestClient, digits: dict[int, torch.Tensor]
) -> None:
    content = png(digits[3][1])
    answer = ask(client, content)
    kind, shown = answer["input"].split(",")
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(base64.b64decode(shown)))))
    assert kind == "data:image/png;base64"
    assert pixels.shape == (28, 28)
    scores = recognizer.class_scores(pixels[None, None])[0]
    assert [each["cosine"] for each in answer["classes"]] == pytest.approx(scores.tolist(), abs=1e-6)


def test_a_threshold_decides_what_is_unknown_and_names_the_nearest(
    recognizer: Recognizer, digits: dict[int, torch.Tensor]
) -> None:
    decisions = []
    for threshold in (-1.0, 1.0):
        client = TestClient(create_app(Demo(recognizer, threshold=threshold)), base_url=ADDRESS)
        about = client.get("/api/model").json()
        degrees = math.degrees(math.acos(threshold))
        assert (about["class_threshold_degrees"], about["enrolled_threshold_degrees"]) == (degrees, degrees)
        enroll(client, "eight", digits[8][0])
        decisions.append(ask(client, png(digits[2][0]))["decision"])
    assert [decision.pop("unknown") for decision in decisions] == [False, True]
    assert decisions[0] == decisions[1]


def test_an_enrolled_class_is_recognised_until_it_is_removed(
    recognizer: Recognizer, digits: dict[int, torch.Tensor]
) -> None:
    client = TestClient(create_app(Demo(recognizer, threshold=0.5)), base_url=ADDRESS)
    queries = {label: [png(image) for image in digits[label][5:9]] for label in (0, 4, 8)}
    before = {label: [ask(client, each) for each in contents] for label, contents in queries.items()}
    for image in digits[8][:5]:
        names = enroll(client, "  an   eight ", image)
    assert names == {"num_enrolled": 1, "enrolled": [{"label": "an eight", "images": 5}]}
    assert client.get("/api/model").json()["enrolled"] == names["enrolled"]

    found: dict[int, list[str]] = {label: [] for label in queries}
    mean = F.normalize(recognizer.embed([Image.open(io.BytesIO(png(each))) for each in digits[8][:5]]).mean(0), dim=0)
    for label, contents in queries.items():
        for content, old in zip(contents, before[label], strict=True):
            answer = ask(client, content)
            assert answer["classes"] == old["classes"]
            (row,) = answer["enrolled"]
            cosine = float(mean @ recognizer.embed(Image.open(io.BytesIO(content)))[0])
            assert (row["label"], row["images"], row["cosine"]) == ("an eight", 5, pytest.approx(cosine, abs=1e-5))
            nearest = max(each["cosine"] for each in old["classes"])
            believed, _, kind = max((nearest >= 0.5, nearest, "class"), (cosine >= 0.5, cosine, "enrolled"))
            assert (answer["decision"]["kind"], answer["decision"]["unknown"]) == (kind, not believed)
            found[label].append(answer["decision"]["label"])

    for label, name in ((0, "0"), (4, "4"), (8, "an eight")):
        assert found[label].count(name) >= 3

    assert client.delete("/api/names", params={"name": "an eight"}).json() == {"num_enrolled": 0, "enrolled": []}
    for label, contents in queries.items():
        assert [ask(client, content) for content in contents] == before[label]


def test_of_many_classes_and_names_the_nearest_are_shown() -> None:
    torch.manual_seed(0)
    names = [f"class {index}" for index in range(1000)]
    to_input = Preprocessor(28, 1, (0.5,), (0.5,), style="object")
    model = TrainedModel(SimpleCNN(16).eval(), ArcFaceHead(16, 1000).eval(), to_input, names)
    recognizer = Recognizer(model)
    client = TestClient(create_app(Demo(recognizer)), base_url=ADDRESS)
    pictures = torch.randint(0, 256, (SHOWN + 5, 28, 28), dtype=torch.uint8)
    for index, picture in enumerate(pictures):
        told = enroll(client, f"name {index}", picture)
    assert (told["num_enrolled"], len(told["enrolled"])) == (SHOWN + 5, SHOWN)
    assert told["enrolled"][-1] == {"label": f"name {SHOWN + 4}", "images": 1}
    assert client.get("/api/model").json()["num_classes"] == 1000

    content = png(pictures[7])
    picture = Image.open(io.BytesIO(content))
    embedding = recognizer.embed(picture)[0].double()
    cosine = F.normalize(model.head.weight.double(), dim=1) @ embedding
    best = cosine.argsort(descending=True)[:SHOWN]
    answer = ask(client, content)
    assert [row["label"] for row in answer["classes"]] == [names[index] for index in best]
    assert [row["cosine"] for row in answer["classes"]] == pytest.approx(cosine[best].tolist(), abs=1e-5)
    scores = [row["cosine"] for row in answer["enrolled"]]
    assert answer["enrolled"][0]["label"] == "name 7"
    assert len(scores) == SHOWN
    assert scores == sorted(scores, reverse=True)
    assert answer["decision"]["kind"] == "enrolled"


BLANK = io.BytesIO()
Image.new("L", (60, 60), 255).save(BLANK, "PNG")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "told"),
    [
        ("POST", "/api/recognize", b"", 400, "got an empty request"),
        ("POST", "/api/recognize", b"no picture", 400, "not an image"),
        ("POST", "/api/recognize", BLANK.getvalue(), 400, "nothing is drawn there"),
        ("POST", "/api/recognize", BLANK.getvalue()[:-30], 400, "damaged"),
        ("POST", "/api/recognize", bytes(MAX_BYTES + 1), 413, "expected at most 20,971,520"),
        ("POST", "/api/names?name=", BLANK.getvalue(), 400, "expected 1 to 60 printable characters"),
        ("POST", "/api/names", BLANK.getvalue(), 400, "expected 1 to 60 printable characters"),
        ("POST", f"/api/names?name={'n' * 61}", BLANK.getvalue(), 400, "expected 1 to 60 printable characters"),
        ("POST", "/api/names?name=a%00b", BLANK.getvalue(), 400, "expected 1 to 60 printable characters"),
        ("POST", "/api/names?name=none", BLANK.getvalue(), 400, "nothing is drawn there"),
        ("POST", "/api/names?name=big", bytes(MAX_BYTES + 1), 413, "expected at most 20,971,520"),
        ("DELETE", "/api/names?name=nobody", b"", 400, "got 'nobody'; expected an enrolled name (none)"),
        ("GET", "/api/nothing", b"", 404, "Not Found"),
        ("GET", "/../app.py", b"", 404, "Not Found"),
        ("GET", "/%2e%2e/app.py", b"", 404, "Not Found"),
        ("PUT", "/api/names", b"", 405, "Method Not Allowed"),
        ("POST", "/", b"", 405, "Method Not Allowed"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong_and_changes_nothing(
    method: str,
    path: str,
    body: bytes,
    status: int,
    told: str,
    recognizer: Recognizer,
    client: TestClient,
    digits: dict[int, torch.Tensor],
) -> None:
    response = client.request(method, path, content=body)
    assert (response.status_code, list(response.json())) == (status, ["error"])
    assert told in response.json()["error"]
    assert "/tmp" not in response.json()["error"]
    assert recognizer.names == []
    assert ask(client, png(digits[1][0]))["enrolled"] == []


def test_what_the_server_does_wrong_is_told_too(recognizer: Recognizer, digits: dict[int, torch.Tensor]) -> None:
    recognizer.model.class_names.pop()
    client = TestClient(create_app(Demo(recognizer)), base_url=ADDRESS, raise_server_exceptions=False)
    response = client.post("/api/recognize", content=png(digits[7][0]))
    assert (response.status_code, list(response.json())) == (500, ["error"])


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:8765"},
        {"Host": "127.0.0.1.evil.example:8765"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "null"},
    ],
)
def test_another_site_is_refused(
    headers: dict[str, str], recognizer: Recognizer, client: TestClient, digits: dict[int, torch.Tensor]
) -> None:
    for method, path in (
        ("GET", "/"),
        ("GET", "/api/model"),
        ("POST", "/api/recognize"),
        ("POST", "/api/names?name=a"),
    ):
        response = client.request(method, path, headers=headers, content=png(digits[0][0]))
        assert response.status_code == 403
        assert next(iter(headers)) in response.json()["error"]
    assert recognizer.names == []


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765"])
def test_the_page_itself_is_let_through(host: str, client: TestClient, digits: dict[int, torch.Tensor]) -> None:
    headers = {"Host": host, "Origin": f"http://{host}"}
    assert client.post("/api/recognize", headers=headers, content=png(digits[0][0])).status_code == 200


def test_the_page_comes_whole_and_names_no_other_host(client: TestClient) -> None:
    for name, kind in (
        ("", "text/html"),
        ("style.css", "text/css"),
        ("page.js", "javascript"),
        ("paper.js", "javascript"),
        ("angles.js", "javascript"),
    ):
        response = client.get(f"/{name}")
        assert response.status_code == 200
        assert kind in response.headers["content-type"]
        assert not re.search(r"\w+:[/][/]|[\"'(=]//|@import", response.text)
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
        assert response.headers["x-content-type-options"] == "nosniff"


def test_requests_at_once_are_answered_as_one_after_another(
    client: TestClient, digits: dict[int, torch.Tensor]
) -> None:
    contents = [png(image) for image in digits[5][:12]]
    alone = [ask(client, content)["classes"] for content in contents]
    with ThreadPoolExecutor(8) as threads:
        enrolling = [threads.submit(enroll, client, f"name {index % 3}", digits[8][index]) for index in range(24)]
        asking = [threads.submit(ask, client, content) for content in contents]
        assert [each.result()["classes"] for each in asking] == alone
        for each in enrolling:
            each.result()
    counts = {row["label"]: row["images"] for row in client.get("/api/model").json()["enrolled"]}
    assert counts == {"name 0": 8, "name 1": 8, "name 2": 8}


def test_a_gallery_is_kept_and_shared_with_the_command(
    trained: Path, digits: dict[int, torch.Tensor], tmp_path: Path
) -> None:
    def started() -> TestClient:
        recognizer = Recognizer.from_checkpoint(trained)
        editing = partial(editing_gallery, recognizer, str(tmp_path / "gallery"))
        with editing():
            pass
        return TestClient(create_app(Demo(recognizer, editing=editing)), base_url=ADDRESS)

    first = started()
    enroll(first, "eight", digits[8][0])
    second = started()
    assert second.get("/api/model").json()["enrolled"] == [{"label": "eight", "images": 1}]
    enroll(second, "nine", digits[9][0])
    # What the second one enrolled is not lost by the first one's next change
    enroll(first, "eight", digits[8][1])
    kept = Recognizer.from_checkpoint(trained)
    kept.load_gallery(tmp_path / "gallery")
    assert kept.gallery.counts == {"eight": 2, "nine": 1}
    (tmp_path / "gallery" / "gallery.json").write_text("{")
    response = first.delete("/api/names", params={"name": "eight"})
    assert response.status_code == 400
    assert "damaged" in response.json()["error"]


def test_a_gallery_that_another_process_holds_is_told_and_then_the_page_goes_on(
    recognizer: Recognizer, digits: dict[int, torch.Tensor], tmp_path: Path
) -> None:
    editing = partial(editing_gallery, recognizer, str(tmp_path), timeout=0.1)
    client = TestClient(create_app(Demo(recognizer, editing=editing)), base_url=ADDRESS)
    with FileLock(tmp_path / ".lock"):
        response = client.post("/api/names", params={"name": "eight"}, content=png(digits[8][0]))
        assert (response.status_code, recognizer.names) == (400, [])
        assert "another process is changing it; try again" in response.json()["error"]
        assert ask(client, png(digits[1][0]))["enrolled"] == []
    assert enroll(client, "eight", digits[8][0])["num_enrolled"] == 1


def test_a_page_that_is_closed_while_it_sends_is_no_error(recognizer: Recognizer) -> None:
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/api/names",
        "query_string": b"name=eight",
        "headers": [(b"host", b"127.0.0.1:8765")],
    }
    parts = iter([{"type": "http.request", "body": b"half a pic", "more_body": True}])
    sent = []

    async def receive() -> dict:
        return next(parts, {"type": "http.disconnect"})

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(create_app(Demo(recognizer))(scope, receive, send))
    assert sent[0]["status"] == 499
    assert recognizer.names == []
