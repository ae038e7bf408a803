"""Digits that the network was never trained on, on genuine MNIST."""

import os
from pathlib import Path

import pytest
import torch

from arcface_pl import MNISTDataModule, Recognizer
from arcface_pl.cli import main
from arcface_pl.data.sources.catalog import CATALOG
from arcface_pl.data.sources.find import find_folder
from arcface_pl.metrics.functional import all_pairs_curve

NUM_DRAWS = 30
FOLDER = os.environ.get("ARCFACE_PL_DATA_DIR", "")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not FOLDER or find_folder(CATALOG["mnist"], FOLDER) is None, reason="needs genuine MNIST")
def test_five_images_each_are_enough_to_tell_two_apart(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    # The recipe, half its width, three epochs and the mean of a name's embeddings were chosen on the held-out digits'
    # training images: 96.9% there
    accurate = Path(__file__).parents[2] / "arcface_pl" / "configs" / "accurate.yaml"
    main(
        f"fit --config {accurate} --max_epochs 3 --model.backbone.width 80 --data.val_fraction 0.1 "
        f"--data.dataset mnist --data.data_dir {FOLDER} --data.held_out_classes [8,9] --default_root_dir {tmp_path} "
        f"--accelerator cpu --precision 32-true --enable_progress_bar false".split()
    )
    data = MNISTDataModule(data_dir=FOLDER, dataset="mnist", held_out_classes=[8, 9])
    data.prepare_data()
    data.setup()
    unseen = data._loaded.held_out_test
    recognizer = Recognizer.from_checkpoint(tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "best.ckpt")
    embeddings = recognizer.embed(unseen.images, framed=True)
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(NUM_DRAWS):
        drawn = {}
        for label, name in enumerate(("8", "9")):
            rows = (unseen.labels == label).nonzero().flatten()
            drawn[name] = rows[torch.randperm(len(rows), generator=generator)[:5]]
            if name in recognizer.names:
                recognizer.remove(name)
            recognizer.enroll(name, unseen.images[drawn[name]], framed=True)
        others = torch.ones(len(embeddings), dtype=torch.bool)
        others[torch.cat(list(drawn.values()))] = False
        # -1: between the two, not whether it is either
        answers = recognizer.identify(unseen.images[others], threshold=-1.0, framed=True)
        labels = unseen.labels[others].tolist()
        right = [answer.name == str(8 + label) for answer, label in zip(answers, labels, strict=True)]
        shares.append(sum(right) / len(right))
    rate, _ = all_pairs_curve(embeddings, unseen.labels).equal_error_rate()
    mean, worst = sum(shares) / NUM_DRAWS, min(shares)
    with capsys.disabled():
        print(f"\nunseen 8 and 9, 5 enrolled: {mean:.2%} right ({worst:.2%} at worst), EER of their pairs {rate:.2%}")
    assert mean >= 0.95
