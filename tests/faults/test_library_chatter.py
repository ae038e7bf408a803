"""What image libraries print about damaged pictures stays out of predict, the service and the page.

libtiff, libjpeg and their like write to file descriptor 2, past Python.
"""

import base64
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from arcface_pl import ArcFaceHead, Recognizer, SimpleCNN
from arcface_pl.cli import main
from arcface_pl.demo import Demo, create_app, create_service
from arcface_pl.preprocessing import Preprocessor
from arcface_pl.recognizer import TrainedModel

SEED = int(os.environ.get("ARCFACE_PL_FAULT_SEED", "0"))
# Format, options of Pillow
KINDS = {
    "tif": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff": ("TIFF", {"compression": "jpeg"}),
    "jpg": ("JPEG", {"progressive": True}),
    "jp2": ("JPEG2000", {}),
    "webp": ("WEBP", {}),
    "png": ("PNG", {}),
}


@pytest.fixture
def recognizer() -> Recognizer:
    torch.manual_seed(0)
    names = [f"class {index}" for index in range(4)]
    return Recognizer(TrainedModel(SimpleCNN(16), ArcFaceHead(16, 4), Preprocessor(28, 1, (0.2,), (0.4,)), names))


def damaged(kind: str, count: int) -> list[bytes]:
    """Cut a picture, or change some of its bytes behind the first eight, by which its format is known."""
    print(f"ARCFACE_PL_FAULT_SEED={SEED}")
    random, buffer = np.random.default_rng(SEED), io.BytesIO()
    pixels = random.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    name, options = KINDS[kind]
    Image.fromarray(pixels).save(buffer, name, **options)
    whole = np.frombuffer(buffer.getvalue(), np.uint8)
    made = []
    for number in range(count):
        broken = whole.copy()
        broken[random.integers(8, len(whole), 8)] = random.integers(0, 256, 8, dtype=np.uint8)
        made.append(broken[: len(whole) // 2 if number % 3 == 0 else None].tobytes())
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_predict_prints_its_table_alone(
    kind: str, recognizer: Recognizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    recognizer.save_pretrained("model")
    contents = damaged(kind, 24)
    for number, content in enumerate(contents):
        Path(f"{number}.{kind}").write_bytes(content)
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["predict", "model", *(f"{number}.{kind}" for number in range(len(contents))), "--json"])
    out, err = capfd.readouterr()
    assert ended.value.code in (1, None, 0)
    assert out.startswith("[")
    assert [line for line in err.splitlines() if not line.startswith("NOTE: ")] == []


def test_the_service_and_the_page_print_nothing(recognizer: Recognizer, capfd: pytest.CaptureFixture) -> None:
    pictures = [each for kind in KINDS for each in damaged(kind, 6)]
    with TestClient(create_service(recognizer), base_url="http://127.0.0.1:8766") as client:
        capfd.readouterr()
        body = {"images": [base64.b64encode(each).decode() for each in pictures]}
        rows = client.post("/predict", json=body).json()["results"]
        with ThreadPoolExecutor(4) as pool:
            answers = [*pool.map(lambda each: client.post("/predict", content=each).status_code, pictures)]
    assert len(rows) == len(pictures)
    assert any("error" in row for row in rows)
    page = TestClient(create_app(Demo(recognizer)), base_url="http://127.0.0.1:8765")
    answers += [page.post("/api/recognize", content=each).status_code for each in pictures]
    assert set(answers) <= {200, 400, 422}
    assert capfd.readouterr() == ("", "")
