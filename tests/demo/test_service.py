"""The HTTP service gives the recognizer's answers, batched, within its limits."""

import base64
import http.client
import io
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from arcface_pl import ArcFaceHead, Recognizer, SimpleCNN
from arcface_pl.cli import main
from arcface_pl.cli.demo import _listen
from arcface_pl.demo import Limits, create_service
from arcface_pl.demo.service import Batcher
from arcface_pl.preprocessing import Preprocessor
from arcface_pl.recognizer import TrainedModel

pytestmark = pytest.mark.timeout(120)
ADDRESS = "http://127.0.0.1:8766"
KINDS = ("embed", "predict", "identify", "verify")


@pytest.fixture
def recognizer() -> Recognizer:
    torch.manual_seed(0)
    names = [f"class {index}" for index in range(4)]
    model = TrainedModel(SimpleCNN(16), ArcFaceHead(16, 4), Preprocessor(28, 1, (0.2,), (0.4,)), names)
    made = Recognizer(model)
    made.enroll("ada", picture(0))
    made.enroll("eve", picture(1))
    return made


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 30), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def client_of(recognizer: Recognizer, **more: Any) -> TestClient:
    return TestClient(create_service(recognizer, **more), base_url=ADDRESS)


def listed(*pictures: bytes) -> dict[str, list[str]]:
    return {"images": [base64.b64encode(each).decode() for each in pictures]}


def test_the_answers_are_the_recognizers(recognizer: Recognizer) -> None:
    pictures = [picture(seed) for seed in range(5)]
    embeddings = recognizer.embed(pictures)
    with client_of(recognizer) as client:
        found = {kind: client.post(f"/{kind}", json=listed(*pictures)).json() for kind in KINDS[:3]}
        torch.testing.assert_close(torch.tensor([row["embedding"] for row in found["embed"]["results"]]), embeddings)
        for row, answer in zip(found["predict"]["results"], recognizer.classify(pictures), strict=True):
            assert (row["label"], row["unknown"]) == (answer.name, answer.unknown)  # type: ignore[union-attr]
            assert row["cosine"] == pytest.approx(answer.cosine, abs=1e-6)  # type: ignore[union-attr]
        assert [row["name"] for row in found["identify"]["results"][:2]] == ["ada", "eve"]
        strict = client.post("/identify?threshold=1", json=listed(pictures[3])).json()
        assert strict["results"][0]["name"] is None
        assert client.post("/predict?threshold=1", content=pictures[0]).json()["results"][0]["unknown"] is True
        expected = recognizer.verify(pictures[0], pictures[1], threshold=0.5)
        same = client.post("/verify?threshold=0.5", json=listed(*pictures[:2])).json()
        assert same == pytest.approx(
            {"cosine": expected.cosine, "angle_degrees": expected.angle, "same": expected.same}
        )


def test_an_unreadable_picture_is_an_error_in_its_place(recognizer: Recognizer) -> None:
    with client_of(recognizer) as client:
        for kind in KINDS[:3]:
            results = client.post(f"/{kind}", json=listed(picture(0), b"no picture", picture(0))).json()["results"]
            assert results[0] == results[2]
            assert list(results[1]) == ["error"]
            alone = client.post(f"/{kind}", content=b"no picture")
            assert (alone.status_code, list(alone.json())) == (400, ["error"])
        both = client.post("/verify", json=listed(picture(0), b"no picture"))
        assert both.status_code == 400
        assert both.json()["error"].startswith("images[1]: ")


def test_requests_at_once_share_batches_and_keep_their_own_answers(recognizer: Recognizer) -> None:
    sizes: list[int] = []
    classify = recognizer.classify

    def counted(images: Any, **more: Any) -> Any:
        sizes.append(len(images))
        return classify(images, **more)

    recognizer.classify = counted  # type: ignore[method-assign]
    pictures = [picture(seed) for seed in range(40)]
    expected = [classify(each)[0].name for each in pictures]  # type: ignore[union-attr]
    with client_of(recognizer, limits=Limits(max_batch=16)) as client, ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda each: client.post("/predict", content=each).json()["results"][0], pictures))
    assert [answer["label"] for answer in answers] == expected
    assert sum(sizes) == 40
    assert len(sizes) < 40
    assert max(sizes) <= 16


def test_what_waits_is_limited(recognizer: Recognizer) -> None:
    release = threading.Event()

    def slow(images: Any, **more: Any) -> list[Any]:
        release.wait(60)
        return [ValueError("not asked")] * len(images)

    recognizer.classify = slow  # type: ignore[method-assign]
    with client_of(recognizer, limits=Limits(max_batch=1, max_waiting=2)) as client, ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(client.post, "/predict", content=picture(0)) for _ in range(8)]
        busy = next(each.result() for each in iter_done(waiting))
        assert (busy.status_code, "busy" in busy.json()["error"]) == (503, True)
        release.set()


def iter_done(futures: list[Any]) -> Any:
    from concurrent.futures import as_completed

    return as_completed(futures, timeout=60)


def test_limits_and_wrong_requests(recognizer: Recognizer) -> None:
    with client_of(recognizer, limits=Limits(max_bytes=100_000, max_images=3)) as client:
        for response, status, told in (
            (client.post("/predict", content=bytes(100_001)), 413, "expected at most 100,000"),
            (client.post("/predict", json=listed(*[picture(0)] * 4)), 400, "expected 1 to 3"),
            (client.post("/predict", json=listed()), 400, "expected 1 to 3"),
            (client.post("/predict", json={"pictures": []}), 400, '{"images": [picture files as base64'),
            (client.post("/predict", json={"images": ["***"]}), 400, "as base64"),
            (client.post("/predict", json=[5]), 400, "as base64"),
            (client.post("/predict", content=b""), 400, "an empty body"),
            (client.post("/predict?threshold=nan", content=picture(0)), 400, "threshold: got 'nan'; expected a cosine"),
            (client.post("/verify", json=listed(picture(0))), 400, "images: got 1; expected two pictures, as JSON"),
            (client.get("/predict"), 405, "Method Not Allowed"),
            (client.get("/nowhere"), 404, "Not Found"),
            (client.get("/health", headers={"Host": "evil.example"}), 403, "Host: got 'evil.example'"),
            (client.get("/health", headers={"Origin": "http://evil.example"}), 403, "Origin: got"),
        ):
            assert response.status_code == status, response.text
            assert told in response.json()["error"]
    with client_of(recognizer, hosts=()) as client:
        assert client.get("/health", headers={"Host": "photos.example"}).json() == {"status": "ok"}


def test_json_is_read_whatever_it_is_called(recognizer: Recognizer) -> None:
    """As of ``curl -d @pictures.json``."""
    body = json.dumps(listed(picture(0), picture(1)))
    with client_of(recognizer) as client:
        sent = client.post("/verify", content=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
        wanted = client.post("/verify", json=json.loads(body)).json()
    assert sent.json()["cosine"] == pytest.approx(wanted["cosine"], abs=1e-6)


def test_nobody_can_be_identified_without_a_gallery(recognizer: Recognizer) -> None:
    for name in list(recognizer.gallery.counts):
        recognizer.remove(name)
    with client_of(recognizer) as client:
        refused = client.post("/identify", content=picture(0))
    assert refused.status_code == 400
    assert refused.json() == {
        "error": "gallery: got 'none enrolled'; expected at least one name. Serve with --gallery DIR"
    }


def test_the_document_lists_every_route(recognizer: Recognizer) -> None:
    app = create_service(recognizer, limits=Limits(max_images=7))
    with TestClient(app, base_url=ADDRESS) as client:
        document = client.get("/openapi.json").json()
        about = client.get("/model").json()
    assert set(document["paths"]) == {route.path for route in app.routes}  # type: ignore[attr-defined]
    assert document["openapi"].startswith("3.1")
    images = document["paths"]["/embed"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert images["properties"]["images"]["maxItems"] == about["limits"]["max_images"] == 7
    assert (about["embedding_dim"], about["num_enrolled"]) == (16, 2)


def test_a_failure_is_told_to_all_who_wait_and_the_next_is_served() -> None:
    import asyncio

    def work(key: Any, pictures: list[bytes]) -> list[Any]:
        if key == "bad":
            raise RuntimeError("out of memory")
        return [len(each) for each in pictures]

    async def ask() -> list[Any]:
        batcher = Batcher(bytes, work, Limits())
        asked = [
            batcher.answers("bad", [b"1"]),
            batcher.answers("good", [b"22", b"333"]),
            batcher.answers("bad", [b""]),
        ]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    first, second, third = asyncio.run(ask())
    assert second == [2, 3]
    assert [str(first), str(third)] == ["out of memory"] * 2


def test_no_answer_waits_for_the_clients_word_that_its_headers_came() -> None:
    with _listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere.ckpt", "--port", "0"], "There is no such file"),
        (["unread.ckpt", "--port", "65536"], "--port: got '65536'; expected a port, 0 to 65535"),
        (["unread.ckpt", "--max_batch", "0"], "--max_batch: got '0'; expected a whole number of at least 1"),
        (["unread.ckpt", "--host", "256.1.1.1"], "--host: got '256.1.1.1'; expected an address of this machine"),
        (["unread.ckpt", "--host", "192.0.2.1"], "--host: got '192.0.2.1'; expected an address of this machine"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("unread.ckpt").touch()
    with pytest.raises(SystemExit) as ended:
        main(["serve", *words])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_it_serves_and_ends_in_order(trained: Path) -> None:
    import signal
    import subprocess
    import sys

    code = "from arcface_pl.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "serve",
        str(trained),
        "--port",
        "0",
        "--threshold",
        "0.5",
        "--accelerator",
        "cpu",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0].removeprefix("http://").removesuffix("/openapi.json")
            connection = http.client.HTTPConnection(address, timeout=60)
            connection.request(
                "POST", "/embed", body=json.dumps(listed(picture(0))), headers={"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            assert response.status == 200
            assert "results" in json.load(response)
            connection.close()
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60)[1] == ""
            assert process.returncode == 0
        finally:
            process.kill()
