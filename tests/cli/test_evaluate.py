"""``arcface-pl evaluate`` on checkpoints of real runs."""

import csv
import io
import itertools
import json
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_runs import NO_FIGURES

from arcface_pl import ArcFaceModule, MNISTDataModule, Recognizer
from arcface_pl.cli import main
from arcface_pl.cli.inputs import open_model
from arcface_pl.data import PairsDataModule
from arcface_pl.evaluation.measure import embed, evaluate

pytestmark = pytest.mark.usefixtures("in_folder")

QUICK = ["--data.dataset", "digits", "--max_epochs", "1", "--enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of eight digits."""
    folder = tmp_path_factory.mktemp("runs")
    main(["fit", *QUICK, *NO_FIGURES, "--data.held_out_classes", "[8, 9]", "--default_root_dir", str(folder)])
    return folder / "lightning_logs/version_0/checkpoints/best.ckpt"


def run(*args: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", *map(str, args)])
    assert caught.value.code is None


def refused(capsys: pytest.CaptureFixture, *args: Any) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", *map(str, args)])
    assert caught.value.code == 2
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    return captured


def test_table_and_json_hold_both_sets(trained: Path, capsys: pytest.CaptureFixture) -> None:
    (trained.parent.parent / "config.yaml").write_text("model: {head: {class_path: os.system}}\n")  # nobody reads it
    run(trained)
    printed = capsys.readouterr().out
    found = json.loads((trained.parent.parent / "evaluate-digits.json").read_text())
    tested = json.loads((trained.parent.parent / "results.json").read_text())
    assert found["trained"]["classification"]["accuracy"] == pytest.approx(tested["test/accuracy"], abs=1e-6)
    assert found["trained"]["classification"]["target_mean"] == pytest.approx(
        tested["test/angle/target_mean"], abs=0.01
    )
    assert (found["held_out"]["classes"], found["held_out"]["num_images"]) == (["8", "9"], 71)
    assert "classification" not in found["held_out"]
    pairs = found["held_out"]["verification"]
    assert pairs["num_genuine"] + pairs["num_impostor"] == 71 * 70 // 2
    assert f"{pairs['eer']:.2%}" in printed
    assert f"{found['trained']['retrieval']['recall_at_1']:.2%}" in printed


def test_the_flip_test_is_that_of_the_doubled_network(trained: Path, capsys: pytest.CaptureFixture) -> None:
    run(trained, "--flip")
    assert "digits, test, with mirror images" in capsys.readouterr().out
    found = json.loads((trained.parent.parent / "evaluate-digits-flip.json").read_text())
    module = ArcFaceModule.load_from_checkpoint(trained)
    data = MNISTDataModule(dataset="digits", held_out_classes=[8, 9])
    data.prepare_data()
    data.setup("test")
    data.normalize_as(*module.data_facts["normalization"])
    doubled = embed(lambda images: module(images) + module(images.flip(-1)), data.held_out_dataloader("test"))
    assert found["flip"] is True
    assert found["held_out"]["verification"] == pytest.approx(evaluate(doubled, list("89")).scores["verification"])


def test_validation_looks_at_the_runs_own_validation_images(trained: Path, tmp_path: Path) -> None:
    run(trained, "--split", "val", "--json", tmp_path / "val.json")
    found = json.loads((tmp_path / "val.json").read_text())
    tested = json.loads((trained.parent.parent / "results.json").read_text())
    assert found["trained"]["classification"]["accuracy"] == pytest.approx(tested["val/accuracy"], abs=1e-6)
    assert found["held_out"]["num_images"] == 283


def test_other_data_are_normalised_as_the_network_knows_it(trained: Path, tmp_path: Path) -> None:
    run("--data.held_out_classes", "[0, 1, 2]", trained, "--data.dataset=digits", "--json", tmp_path / "other.json")
    found = json.loads((tmp_path / "other.json").read_text())
    assert set(found) >= {"unseen", "held_out"}  # 3 to 9 are not the classes of the head
    module = ArcFaceModule.load_from_checkpoint(trained)
    data = MNISTDataModule(dataset="digits", normalize=False, held_out_classes=[0, 1, 2])
    data.prepare_data()
    data.setup("test")
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in module.data_facts["normalization"])
    batches = [((images - mean) / std, labels) for images, labels in data.held_out_dataloader("test")]
    expected = evaluate(embed(module, batches), list("012")).scores
    assert found["held_out"]["verification"]["eer"] == pytest.approx(expected["verification"]["eer"], abs=1e-4)


def test_a_list_of_pairs_is_scored_as_listed(trained: Path, tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[:40], digits.target[:40], strict=True)):
        (tmp_path / "photos" / str(label)).mkdir(parents=True, exist_ok=True)
        page = Image.new("L", (100, 100), 255)  # dark ink on paper
        page.paste(Image.fromarray((255 - image * 15).astype("uint8")).resize((60, 60)), (20, 20))
        page.save(tmp_path / "photos" / str(label) / f"{number}.png")
    names = [f"{label}/{number}.png" for number, label in enumerate(digits.target[:40])]
    pairs = [(one, other, int(one[0] == other[0])) for one, other in itertools.combinations(names[:30], 2)]
    (tmp_path / "list.txt").write_text("".join(f"{one} {other} {same}\n" for one, other, same in pairs))
    where = ["--data.root", tmp_path / "photos", "--data.pairs_file", tmp_path / "list.txt"]
    run(trained, "--data", "PairsDataModule", *where, "--json", tmp_path / "pairs.json")
    found = json.loads((tmp_path / "pairs.json").read_text())["unseen"]
    assert found["num_images"] == 30
    assert found["pairs"]["num_genuine"] == sum(same for *_, same in pairs)
    # All pairs are listed, so that both ways count the same scores.
    assert {name: found["pairs"][name] for name in found["verification"]} == found["verification"]


@pytest.mark.slow
def test_held_out_folders_are_met_for_the_first_time(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, count in {"ant": 20, "bee": 20, "cow": 16, "dog": 12}.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(count):
            pixels = torch.randint(256, (28, 28), generator=generator, dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    settings = {"root": tmp_path / "photos", "image_size": 28, "in_channels": 1, "num_workers": 0, "test_fraction": 0.5}
    where = [word for name, value in settings.items() for word in (f"--data.{name}", str(value))]
    main(["fit", *QUICK[2:], "--data", "ImageFolderDataModule", *where, "--data.held_out_classes", "[cow, dog]"])
    checkpoint = tmp_path / "lightning_logs/version_0/checkpoints/best.ckpt"
    run(checkpoint, "--json", "test.json")
    run(checkpoint, "--json", "val.json", "--split", "val")
    for split in ("test", "val"):
        found = json.loads((tmp_path / f"{split}.json").read_text())
        assert found["trained"]["classes"] == ["ant", "bee"]
        assert (found["held_out"]["classes"], found["held_out"]["num_images"]) == (["cow", "dog"], 14)
        assert found["held_out"]["verification"]["num_impostor"] == 8 * 6


def test_figures_are_drawn_for_each_set(trained: Path, tmp_path: Path) -> None:
    run(trained, "--figures", tmp_path / "figures", "--json", tmp_path / "found.json")
    drawn = {str(path.relative_to(tmp_path / "figures")) for path in (tmp_path / "figures").rglob("*.png")}
    names = ("roc", "confusion", "mistakes", "angles_over_training")
    assert {"held_out/roc.png", *(f"trained/{name}.png" for name in names)} <= drawn
    assert "held_out/confusion.png" not in drawn


def test_mistakes_and_confusions_are_tables_with_files_and_names(trained: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for name in "01234567":
        (tmp_path / "photos/test" / name).mkdir(parents=True)
        (tmp_path / "photos/train" / name).mkdir(parents=True)
        for number in range(4):
            image = torch.randint(0, 256, (28, 28), generator=generator, dtype=torch.uint8).numpy()
            Image.fromarray(image).save(tmp_path / f"photos/test/{name}/{number}.png")
            Image.fromarray(image).save(tmp_path / f"photos/train/{name}/{number}.png")
    where = ("--data", "ImageFolderDataModule", "--data.root", tmp_path / "photos", "--figures", tmp_path / "figures")
    run(trained, *where, "--json", tmp_path / "found.json")
    run(trained, *where, "--json", tmp_path / "found.json")  # ours are replaced
    with (tmp_path / "figures/trained/mistakes.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = json.loads((tmp_path / "found.json").read_text())["trained"]
    assert len(rows) == round(32 * (1 - found["classification"]["accuracy"])) > 8
    recognizer = Recognizer.from_checkpoint(trained)
    centers = F.normalize(recognizer.model.head.weight.double(), dim=1)
    for row in rows:
        true, index = int(row["label"]), int(row["index"])
        assert Path(row["file"]) == tmp_path / f"photos/test/{true}/{index % 4}.png"
        pixels = torch.from_numpy(np.array(Image.open(row["file"])))[None, None]
        angles = (recognizer.embed(pixels, framed=True).double() @ centers.T).acos().rad2deg().squeeze()
        others = torch.cat((angles[:true], angles[true + 1 :]))
        # Embeddings in float32, whose cosines an arc cosine turns into angles
        assert float(row["angle_degrees"]) == pytest.approx(float(angles[true]), abs=0.02)
        assert float(row["predicted_angle_degrees"]) == pytest.approx(float(angles[int(row["prediction"])]), abs=0.02)
        assert float(row["margin_degrees"]) == pytest.approx(float(others.min() - angles[true]), abs=0.04)
    depths = [float(row["angle_degrees"]) - float(row["predicted_angle_degrees"]) for row in rows]
    assert all(one >= other - 0.002 for one, other in itertools.pairwise(depths))
    with (tmp_path / "figures/trained/confusions.csv").open() as file:
        confusions = {(row["label"], row["prediction"]): row for row in csv.DictReader(file)}
    counted = Counter((row["label"], row["prediction"]) for row in rows)
    assert {pair: int(row["images"]) for pair, row in confusions.items()} == counted
    assert all(float(row["share_of_class"]) == int(row["images"]) / 4 for row in confusions.values())


def test_a_mistake_ends_in_one_line(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for args, message in (
        (["nosuch.ckpt"], "MODEL: got 'nosuch.ckpt'; expected a checkpoint's path"),
        (
            [trained, "--protocol", "mnist-8-9"],
            "got a checkpoint trained on 0, 1, 2, 3, 4, 5, 6, 7 of digits; expected one trained",
        ),
        ([trained, "--protocol", "mnist-8-8"], "--protocol: invalid choice: 'mnist-8-8'"),
        (
            [trained, "--protocol", "mnist-8-9", "--data.dataset", "mnist"],
            "--data.dataset: not accepted with",
        ),
        ([trained, "--data.datasets", "mnist"], "data.datasets: unknown; did you mean data.dataset?"),
        ([trained, "--data.held_out_classes", "[1]"], "data.held_out_classes: got ['1']; expected at least two"),
        ([trained, "--data.dataset", "cifar10"], "data: got images with in_channels 3; expected 1"),
        (
            [trained, "--split", "val", "--data.val_fraction", "0", "--data.held_out_classes", "[]"],
            "--split val: MNISTDataModule has no validation images with these settings",
        ),
        ([trained, "--json", tmp_path], "cannot be written"),
    ):
        assert message in refused(capsys, *args)


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys\nfrom arcface_pl.cli import main\n"
        "try: main(['evaluate', '--help'])\nexcept SystemExit: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "mnist-8-9" in done.stdout


def test_a_verification_set_of_insightface(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same pairs as files and as a .bin: the same scores, insightface's beside ours; figures as far as they go."""
    data = MNISTDataModule(dataset="digits", seed=0)
    data.setup("test")
    images, contents, lines = data.val_images[:80], [], []
    for number, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(image[0].numpy()).save(file, "PNG")
        (tmp_path / f"{number}.png").write_bytes(file.getvalue())
        contents.append(file.getvalue())
    same = (data.val_labels[0:80:2] == data.val_labels[1:80:2]).tolist()
    same[0] = same[11] = True
    lines = [f"{2 * pair}.png {2 * pair + 1}.png {int(alike)}" for pair, alike in enumerate(same)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    (tmp_path / "own.bin").write_bytes(pickle.dumps((contents, same), 2))
    run(trained, "--pairs", "own.bin", "--json", "bin.json", "--figures", "figures")
    printed = capsys.readouterr().out
    run(trained, "--pairs", "pairs.txt", "--insightface", "--json", "txt.json")
    assert "[pairs]XNorm" in capsys.readouterr().out
    found, listed = (json.loads(Path(f"{name}.json").read_text())["unseen"] for name in ("bin", "txt"))
    assert found["pairs"] == pytest.approx(listed["pairs"], abs=1e-9)
    scores = found["insightface"]
    assert scores == pytest.approx(listed["insightface"], abs=1e-6)
    assert f"[own]Accuracy-Flip: {scores['accuracy']:.5f}+-{scores['accuracy_std']:.5f}" in printed.splitlines()
    assert (
        "not measured: verification, retrieval and identification: the classes of the images are not known"
        in " ".join(printed.split())
    )
    assert found["classes"] == []
    model = open_model(str(trained))
    pairs = PairsDataModule(pairs_file="own.bin")
    pairs.use_preprocessing(model.preprocessor)
    pairs.setup("test")
    pixels = next(iter(pairs.test_dataloader()))[0]
    with torch.no_grad():
        lengths = torch.cat([model.backbone(pixels), model.backbone(pixels.flip(3))]).norm(dim=1)
    assert scores["xnorm"] == pytest.approx(float(lengths.mean()), rel=1e-5)
    run(trained, "--pairs", "pairs.txt", "--json", "plain.json")
    assert "insightface" not in json.loads(Path("plain.json").read_text())["unseen"]
    assert "--insightface: got 'data without a list of pairs'; expected --pairs" in refused(
        capsys, trained, "--insightface"
    )
    message = refused(capsys, trained, "--pairs", "none.bin")
    assert "data.pairs_file: got 'none.bin'; expected" in message
