"""Five people, each from their own files to their result, with nothing imported that only insiders know."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


class Desk:
    """A folder of somebody's, with a terminal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, command: str) -> str:
        """Type ``arcface-pl ...``; return what it prints."""
        return self._run([sys.executable, "-m", "arcface_pl", *command.split()])

    def python(self, code: str) -> str:
        """Run a script; return what it prints."""
        (self.folder / "script.py").write_text(code)
        return self._run([sys.executable, "script.py"])

    def _run(self, command: list[str]) -> str:
        kept = {name: value for name, value in os.environ.items() if name != "ARCFACE_PL_DATA_DIR"}
        environment = {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, f"{' '.join(command[2:])}\n{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def write_digits(folder: Path, each: int, classes: range = range(10)) -> None:
    """Write pictures of digits, a folder for each class."""
    digits = load_digits()
    for label in classes:
        (folder / f"digit_{label}").mkdir(parents=True)
        for number, image in enumerate(digits.images[digits.target == label][:each]):
            Image.fromarray((image * 255 / 16).astype(np.uint8)).resize((24, 24)).save(
                folder / f"digit_{label}" / f"{number}.png"
            )


def write_products(folder: Path, num_classes: int, each: int, mislabelled: int) -> list[str]:
    """Write photos of made-up products and a CSV of them, of which some rows name the wrong product."""
    random = np.random.default_rng(0)
    rows = []
    for product in range(num_classes):
        background, ink = random.integers(0, 256, (2, 3))
        corners = random.uniform(4, 28, (4, 2))
        for shot in range(each):
            picture = Image.new("RGB", (32, 32), tuple(background.tolist()))
            draw = ImageDraw.Draw(picture)
            draw.polygon(
                [tuple(corner) for corner in corners + random.normal(0, 0.7, (4, 2))], fill=tuple(ink.tolist())
            )
            path = folder / "photos" / f"{product:03}_{shot}.png"
            path.parent.mkdir(exist_ok=True)
            picture.save(path)
            split = "test" if shot == each - 1 else "val" if shot == each - 2 else "train"
            rows.append({"path": f"photos/{path.name}", "label": f"product {product:03}", "split": split})
    planted = [row for row in rows if row["split"] == "train"][:: max(1, num_classes * (each - 2) // mislabelled)]
    for row in planted:
        row["label"] = f"product {(int(row['label'][-3:]) + 1) % num_classes:03}"
    with (folder / "products.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return [row["path"] for row in planted]


def test_a_student_repeats_the_lecture_and_has_its_curves(desk: Desk) -> None:
    out = desk("fit -c source --data.dataset digits --max_epochs 2")
    assert "train acc  with margin  test acc  with margin" in out
    run = desk.folder / "lightning_logs" / "version_0"
    lines = (run / "train.log").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["epoch", "1/2", "2/2"]
    assert json.loads((run / "results.json").read_text())["test/accuracy"] > 0.5
    assert list(run.glob("events.out.tfevents.*"))
    desk("test --ckpt_path last")
    assert desk("evaluate last --figures figures")
    assert list((desk.folder / "figures").glob("*.png"))


def test_a_lightning_user_brings_a_module_a_logger_and_a_callback(desk: Desk) -> None:
    out = desk.python(
        "import lightning as L\n"
        "import torch\n"
        "from lightning.pytorch.loggers import CSVLogger\n"
        "from torch import nn\n"
        "from arcface_pl import ArcFaceHead, MNISTDataModule\n"
        "from arcface_pl.callbacks import EpochLines\n"
        "\n"
        "class Mine(L.LightningModule):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 32))\n"
        "        self.head = ArcFaceHead(32, 10, margin=0.2)\n"
        "    def training_step(self, batch, _):\n"
        "        return self.head.loss(self.net(batch[0]), batch[1])\n"
        "    def validation_step(self, batch, _):\n"
        "        right = self.head(self.net(batch[0])).argmax(1) == batch[1]\n"
        "        self.log('val_acc', right.float().mean(), prog_bar=True)\n"
        "    def configure_optimizers(self):\n"
        "        return torch.optim.Adam(self.parameters(), 1e-3)\n"
        "\n"
        "class Said(L.Callback):\n"
        "    def on_train_end(self, trainer, module):\n"
        "        print('ended at', trainer.global_step)\n"
        "\n"
        "trainer = L.Trainer(max_epochs=2, accelerator='cpu', logger=CSVLogger('mine'),\n"
        "                    callbacks=[EpochLines(), Said()],\n"
        "                    enable_progress_bar=False, enable_model_summary=False)\n"
        "trainer.fit(Mine(), datamodule=MNISTDataModule(dataset='digits'))\n"
    )
    assert "ended at 42" in out
    assert ["epoch", "loss", "val_acc", "seconds"] in [line.split() for line in out.splitlines()]
    assert "val_acc" in next((desk.folder / "mine").rglob("metrics.csv")).read_text()


def test_an_engineer_goes_from_a_csv_of_products_to_an_exported_model(desk: Desk) -> None:
    planted = write_products(desk.folder, num_classes=300, each=8, mislabelled=12)
    assert len(planted) >= 12
    data = "--data TableDataModule --data.table products.csv --data.image_size 32"
    desk(f"fit {data} --model.backbone FastCNN --model.head.margin 0.2 --max_epochs 6 --data.num_workers 0")
    run = desk.folder / "lightning_logs" / "version_0"
    results = json.loads((run / "results.json").read_text())
    assert results["test/accuracy"] > 100 / 300  # by chance 1 of 300
    report = desk("evaluate best")
    assert "equal error rate" in report
    assert "recall" in report.lower()
    answers = json.loads(desk("predict best photos/007_7.png photos/008_7.png --json"))
    assert [answer["file"] for answer in answers] == ["photos/007_7.png", "photos/008_7.png"]
    desk("export best --format safetensors --output products.safetensors")
    desk("embed best photos --output products.npz")
    with np.load(desk.folder / "products.npz") as embedded:
        assert embedded["embeddings"].shape[0] == 2400


def test_a_face_person_measures_pairs_and_enrolls_one_image_each(desk: Desk) -> None:
    write_digits(desk.folder / "faces", each=20)
    lines = ["1\t10"]  # LFW's format: one fold of ten genuine and ten impostor pairs
    (desk.folder / "lfw").mkdir()
    for label in range(10):
        name = f"digit_{label}"
        (desk.folder / "lfw" / name).mkdir()
        for number in (1, 2):
            source = desk.folder / "faces" / name / f"{number}.png"
            (desk.folder / "lfw" / name / f"{name}_{number:04}.png").write_bytes(source.read_bytes())
        lines.append(f"{name}\t1\t2")
    lines += [f"digit_{label}\t1\tdigit_{(label + 1) % 10}\t2" for label in range(10)]
    (desk.folder / "pairs.txt").write_text("\n".join(lines) + "\n")
    small = "--data.image_size 24 --data.in_channels 1 --data.flip false --data.num_workers 0"
    desk(f"fit -c folder --data.root faces {small} --model.backbone FastCNN --max_epochs 4")
    assert "equal error rate" in desk(
        "evaluate best --data PairsDataModule --data.root lfw --data.pairs_file pairs.txt"
    )
    people = "faces/digit_0/0.png faces/digit_1/0.png"
    (desk.folder / "people").mkdir()
    for name, path in zip(("ada", "grace"), people.split(), strict=True):
        (desk.folder / "people" / f"{name}.png").write_bytes((desk.folder / path).read_bytes())
    desk("recognize enroll best people/ada.png people/grace.png")
    (answer,) = json.loads(desk("recognize identify best people/ada.png --json"))
    assert answer["candidates"][0]["name"] == "ada" if "candidates" in answer else "ada" in json.dumps(answer)


def test_somebody_who_only_uses_a_model_asks_it_in_every_form(desk: Desk) -> None:
    write_digits(desk.folder / "digits", each=30, classes=range(4))
    small = "--data.image_size 24 --data.in_channels 1 --data.flip false --data.num_workers 0"
    desk(f"fit -c folder --data.root digits {small} --model.backbone FastCNN --max_epochs 3")
    desk.python(
        "from arcface_pl import Recognizer\nRecognizer.from_checkpoint('lightning_logs/version_0/checkpoints/best.ckpt').save_pretrained('model')\n"
    )
    out = desk.python(
        "import io\n"
        "import numpy as np\n"
        "from PIL import Image\n"
        "from arcface_pl import Recognizer\n"
        "recognizer = Recognizer.from_pretrained('model')\n"
        "path = 'digits/digit_2/0.png'\n"
        "image = Image.open(path)\n"
        "forms = [path, open(path, 'rb').read(), open(path, 'rb'), image, np.asarray(image)]\n"
        "answers = [recognizer.classify(form) for form in forms]\n"
        "answers += recognizer.classify([path, np.asarray(image)])\n"
        "print(len({(answer.name, round(answer.cosine, 5)) for answer in answers}), len(answers))\n"
    )
    assert out.split()[-2:] == ["1", "7"]
    assert json.loads(desk("predict model digits/digit_2/0.png --json"))
