"""Pictures through files and framing to a network trained on genuine MNIST. The test set chooses nothing here."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from drawings import KINDS, printed, written
from PIL import Image

from arcface_pl import MNISTDataModule, Recognizer
from arcface_pl.cli import main
from arcface_pl.data.sources.catalog import CATALOG
from arcface_pl.data.sources.find import find_folder
from arcface_pl.preprocessing import ImageError, from_pil, read_image

FOLDER = os.environ.get("ARCFACE_PL_DATA_DIR", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not FOLDER or find_folder(CATALOG["mnist"], FOLDER) is None, reason="needs genuine MNIST"),
]

NUM_PICTURES = 10
PENS = {"pen": 0.09, "hairline": 0.012, "marker": 0.2}
# Right answers of 10 pictures of a kind, where fewer are asked for than 9.
LEAST = {("squared", "hairline"): 8}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    folder = tmp_path_factory.mktemp("run")
    main(
        f"fit --max_epochs 2 --data.dataset mnist --data.data_dir {FOLDER} --default_root_dir {folder} "
        f"--accelerator cpu --enable_progress_bar false --trainer.logger false".split()
    )
    return Recognizer.from_checkpoint(next(folder.rglob("best.ckpt")))


def test_test_images_as_files_are_as_right_as_directly(trained: Recognizer, tmp_path: Path) -> None:
    data = MNISTDataModule(data_dir=FOLDER, dataset="mnist")
    data.prepare_data()
    data.setup("test")
    images, labels = data.test_dataloader().data
    preprocessor = trained.model.preprocessor

    def num_right(pictures: torch.Tensor) -> int:
        answers = trained.classify(pictures)
        return sum(answer.name == str(label) for answer, label in zip(answers, labels.tolist(), strict=True))

    direct = num_right(images)
    for invert in (False, True):
        framed = []
        for image in images:
            Image.fromarray((255 - image if invert else image)[0].numpy()).save(tmp_path / "digit.png")
            framed.append(preprocessor.frame(read_image(tmp_path / "digit.png", 1)))
        assert abs(num_right(torch.stack(framed)) - direct) <= 0.001 * len(images)


@pytest.mark.parametrize("writing", [*PENS, "typeface"])
@pytest.mark.parametrize("kind", KINDS)
def test_drawings_of_every_kind_are_read(kind: str, writing: str, trained: Recognizer) -> None:
    right = 0
    for index in range(NUM_PICTURES):
        rng, digit = np.random.default_rng((7, index)), index % 10

        def glyph(side: int, rng: np.random.Generator = rng, digit: int = digit) -> Image.Image:
            return written(digit, side, rng, PENS[writing]) if writing in PENS else printed(digit, side, rng)

        try:
            framed = trained.model.preprocessor.frame(from_pil(KINDS[kind](glyph, rng), 1))
        except ImageError:
            continue
        right += trained.classify(framed[None])[0].name == str(digit)
    assert right >= LEAST.get((kind, writing), 9)
