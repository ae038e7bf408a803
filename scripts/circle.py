"""Draw embeddings of the test images on the circle, without a margin and with one, or on the sphere.

python scripts/circle.py                                                        into scripts/figures/embedding_2d.png
python scripts/circle.py --dims 3                                               into scripts/figures/embedding_3d.png
python scripts/circle.py --out DIR --max_epochs 1 --data.dataset digits         any flag of scripts/fit.py
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import SubFigure
from torch import Tensor

from arcface_pl import ArcFaceModule, MNISTDataModule
from arcface_pl.cli import main as arcface_pl
from arcface_pl.figures.embeddings import draw_circle_on, draw_sphere_on
from arcface_pl.figures.style import new_figure, save

MARGINS = (0.0, 0.3)
# At a scale of 30 ten classes stay crowded where they started: in two dimensions the centers have to pass one another
SETTINGS = {"model.head.scale": 10, "model.head_lr": 0.1, "data.augment": "false"}


def train(dims: int, margin: float, flags: Sequence[str]) -> ArcFaceModule:
    """Train a network with ``dims`` dimensions and return the best one by validation."""
    settings = {**SETTINGS, "model.backbone.embedding_dim": dims, "model.head.margin": margin}
    given = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    with tempfile.TemporaryDirectory() as folder:
        arcface_pl(["fit", *given, *flags, "--default_root_dir", folder])
        (checkpoint,) = Path(folder).glob("lightning_logs/*/checkpoints/best.ckpt")
        return ArcFaceModule.load_from_checkpoint(checkpoint)


@torch.no_grad()
def embed(module: ArcFaceModule) -> tuple[Tensor, Tensor, list[str]]:
    """Return the test images' embeddings, their labels, and class names."""
    data = MNISTDataModule(**module.data_facts["kwargs"])
    data.prepare_data()
    data.setup("test")
    batches = [(module(images), labels) for images, labels in data.test_dataloader()]
    embeddings, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    return embeddings, labels, data.class_names


def draw(part: SubFigure, module: ArcFaceModule, margin: float) -> None:
    """Draw one network's embeddings and scores."""
    embeddings, labels, names = embed(module)
    centers = module.head.weight.detach()
    if embeddings.shape[1] == 2:
        axes = part.add_subplot(projection="polar")
        draw_circle_on(axes, embeddings, labels, centers, names)
    else:
        for axes, is_back in zip(part.subplots(1, 2), (False, True), strict=True):
            draw_sphere_on(axes, embeddings, labels, centers, names, is_back=is_back)
            axes.set_title("back of the sphere" if is_back else "front of the sphere", fontsize=10)
    cosine = module.head.cosine(embeddings).detach()
    right = (cosine.argmax(1) == labels).double().mean().item()
    angle = torch.rad2deg(cosine.gather(1, labels[:, None]).acos()).mean().item()
    title = f"margin {margin:g} rad" if margin else "no margin"
    part.supxlabel(
        f"{title}: mean angle to the class center {angle:.1f}\N{DEGREE SIGN},\n"
        f"{right:.1%} of {len(labels):,} test images right",
        fontsize=11,
    )


def main(args: Sequence[str] | None = None) -> None:
    """Train once for each margin and draw them side by side, spheres one below the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "figures")
    parser.add_argument("--dims", type=int, choices=(2, 3), default=2, help="of the embeddings: circle or sphere")
    options, flags = parser.parse_known_args(args)
    is_flat = options.dims == 2
    figure = new_figure(10, 5.8) if is_flat else new_figure(9, 10)
    parts = figure.subfigures(*((1, 2) if is_flat else (2, 1)), squeeze=False)
    for part, margin in zip(parts.flat, MARGINS, strict=True):
        draw(part, train(options.dims, margin, flags), margin)
    save(figure, options.out / f"embedding_{options.dims}d.png", dpi=100)


if __name__ == "__main__":
    main()
