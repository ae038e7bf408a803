"""Five people, each from their own files to their result, with nothing imported that only insiders know."""

import csv
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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

    @contextmanager
    def serving(self, command: str) -> Iterator[str]:
        """Type ``arcface-pl serve ...``; yield the address that it prints."""
        words = [sys.executable, "-m", "arcface_pl", *command.split(), "--port", "0"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(words, cwd=self.folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                yield process.stdout.readline().split("/openapi.json")[0]
            finally:
                process.kill()

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


def write_products(folder: Path, num_products: int, mislabelled: int) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Write eight photos of each of some made-up products, and a table of them with wrong labels on some training rows.

    Returns:
        The rows as they should be, and the wrong label by path.
    """
    random = np.random.default_rng(0)
    rows = []
    (folder / "photos").mkdir()
    for product in range(num_products):
        background, ink = random.integers(0, 256, (2, 3)).tolist()
        corners = random.uniform(4, 28, (4, 2))
        for shot, split in enumerate(("train",) * 4 + ("val",) * 2 + ("test",) * 2):
            picture = Image.new("RGB", (32, 32), tuple(background))
            outline = [tuple(corner) for corner in corners + random.normal(0, 0.7, (4, 2))]
            ImageDraw.Draw(picture).polygon(outline, fill=tuple(ink))
            path = f"photos/{product:03}_{shot}.png"
            picture.save(folder / path)
            rows.append({"path": path, "label": f"product {product:03}", "split": split})
    train = [row for row in rows if row["split"] == "train"]
    planted = random.choice(len(train), mislabelled, replace=False).tolist()
    wrong = {train[i]["path"]: train[(i + 4 * 7) % len(train)]["label"] for i in planted}
    write_table(folder / "products.csv", [{**row, "label": wrong.get(row["path"], row["label"])} for row in rows])
    return rows, wrong


def get(address: str, body: bytes | None = None) -> Any:
    """Ask an address as ``curl [--data-binary @FILE]`` does."""
    with urllib.request.urlopen(address, body, timeout=60) as response:
        return json.load(response)


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["path", "label", "split"])
        writer.writeheader()
        writer.writerows(rows)


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
    assert list((desk.folder / "figures").rglob("*.png"))


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


@pytest.mark.timeout(600)
def test_an_engineer_goes_from_a_table_of_product_photos_to_a_service(desk: Desk) -> None:
    """300 products of eight photos; the table names thirty training photos wrongly."""
    rows, wrong = write_products(desk.folder, num_products=300, mislabelled=30)
    small = "--data TableDataModule --data.image_size 32 --data.num_workers 0 --model.backbone FastCNN"
    small += " --model.head.margin 0.2"
    out = desk(f"fit {small} --data.table products.csv --max_epochs 10")
    assert "1,200 train, 600 val, 600 test" in out
    runs = desk.folder / "lightning_logs"
    before = json.loads((runs / "version_0" / "results.json").read_text())
    assert before["notices"] == []
    assert before["test/accuracy"] > 0.5  # by chance 1 of 300

    # The audit lists all the wrong labels in its first tenth
    desk("inspect best --split train --output audit")
    with (desk.folder / "audit" / "labels.csv").open(encoding="utf-8") as file:
        ranked = [row["path"] for row in csv.DictReader(file)]
    assert len(ranked) == 1200
    assert wrong.keys() <= set(ranked[:120])

    # The corrected table, trained from a local file of weights
    write_table(desk.folder / "corrected.csv", rows)
    desk.python(
        "import torch\n"
        "from arcface_pl import ArcFaceModule\n"
        "module = ArcFaceModule.load_from_checkpoint('lightning_logs/version_0/checkpoints/best.ckpt')\n"
        "weights = {f'module.{name}': each for name, each in module.backbone.state_dict().items()}\n"
        "torch.save({'state_dict': weights}, 'pretrained.pth')\n"
    )
    out = desk(f"fit {small} --data.table corrected.csv --max_epochs 4 --model.init_from pretrained.pth")
    assert "loaded       18 of 18" in out
    after = json.loads((runs / "version_1" / "results.json").read_text())
    share = before["test/accuracy"]  # fewer epochs: as good but for two standard errors of a difference
    assert after["test/accuracy"] >= share - 2 * (2 * share * (1 - share) / 600) ** 0.5

    # The audit: the network that was trained on the wrong labels has them among the first of its list
    desk("inspect lightning_logs/version_0/checkpoints/best.ckpt --split train --output audit")
    with (desk.folder / "audit" / "labels.csv").open(newline="") as file:
        ranked = [row["path"] for row in csv.DictReader(file)]
    assert wrong.keys() <= set(ranked[: 4 * len(wrong)])

    # Threshold: most photos are known, noise is not
    noise = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(desk.folder / "noise.png")
    answers = json.loads(desk("predict best photos noise.png --json"))
    unknown = {each["file"]: each["unknown"] for each in answers}
    assert unknown["noise.png"]
    assert sum(not unknown[row["path"]] for row in rows if row["split"] == "test") > 300  # of 600

    # Retrieval, printed and from the embeddings themselves
    desk("evaluate best --json scores.json")
    scores = json.loads((desk.folder / "scores.json").read_text())["trained"]["retrieval"]
    desk("embed best photos --output products.npz")
    with np.load(desk.folder / "products.npz") as embedded:
        test = np.flatnonzero([path[-5] in "67" for path in embedded["paths"]])
        unit, product = embedded["embeddings"][test], [path[-9:-6] for path in embedded["paths"][test]]
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    nearest = (unit @ unit.T - 2 * np.eye(len(unit))).argmax(axis=1)
    hits = [product[i] == product[j] for i, j in enumerate(nearest)]
    assert scores["recall_at_1"] == pytest.approx(sum(hits) / len(hits), abs=1.5 / len(hits))  # but for a near tie
    assert scores["recall_at_1"] > 0.8

    assert "256 of 256 in the same class" in desk("export best --format safetensors --output products.safetensors")
    assert (desk.folder / "products.safetensors").is_file()

    # The service's answers are those of the command line
    asked = rows[6]["path"]
    (told,) = (each for each in answers if each["file"] == asked)
    with desk.serving("serve best") as address:
        assert get(f"{address}/health") == {"status": "ok"}
        (found,) = get(f"{address}/predict", (desk.folder / asked).read_bytes())["results"]
    assert (found["label"], found["unknown"]) == (told["label"], told["unknown"])
    assert found["cosine"] == pytest.approx(told["cosine"], abs=1e-4)


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
    for name, path in (("ada", "faces/digit_0/0.png"), ("grace", "faces/digit_1/0.png")):
        (desk.folder / "people" / name).mkdir(parents=True)
        (desk.folder / "people" / name / "only.png").write_bytes((desk.folder / path).read_bytes())
    desk("recognize enroll best people/ada people/grace")
    answer = desk("recognize identify best people/ada/only.png --json")
    assert answer.index('"ada"') < (answer + '"grace"').index('"grace"')  # the nearest comes first


def test_somebody_who_only_uses_a_model_asks_it_in_every_form(desk: Desk) -> None:
    write_digits(desk.folder / "digits", each=30, classes=range(4))
    small = "--data.image_size 24 --data.in_channels 1 --data.flip false --data.num_workers 0"
    desk(f"fit -c folder --data.root digits {small} --model.backbone FastCNN --max_epochs 3")
    desk.python(
        "from arcface_pl import Recognizer\n"
        "recognizer = Recognizer.from_checkpoint('lightning_logs/version_0/checkpoints/best.ckpt')\n"
        "recognizer.save_pretrained('model')\n"
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
        "answers = [recognizer.classify(form)[0] for form in forms]\n"
        "answers += recognizer.classify([path, np.asarray(image)])\n"
        "print(len({(answer.name, round(answer.cosine, 5)) for answer in answers}), len(answers))\n"
    )
    assert out.split()[-2:] == ["1", "7"]
    assert json.loads(desk("predict model digits/digit_2/0.png --json"))
