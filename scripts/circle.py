"""Draw two-dimensional embeddings of the test images on the circle, without a margin and with one.

python scripts/circle.py                                                        into scripts/figures/embedding_2d.png
python scripts/circle.py --out DIR --max_epochs 1 --data.dataset digits         any flag of scripts/fit.py
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from arcface_pl import ArcFaceModule, MNISTDataModule
from arcface_pl.cli import main as arcface_pl

MARGINS = (0.0, 0.3)
# At a scale of 30 ten classes stay crowded where they began: in the plane the centers have far to go, past one another.
SETTINGS = {"model.backbone.embedding_dim": 2, "model.head.scale": 10, "model.head_lr": 0.1, "data.augment": "false"}
# Paul Tol's muted scheme, told apart by every eye; each sector is named by its class as well.
COLOURS = ("#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#777777")


def train(margin: float, flags: Sequence[str]) -> ArcFaceModule:
    """Train a network whose embeddings have two dimensions; return the best one by validation."""
    given = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
    with tempfile.TemporaryDirectory() as folder:
        arcface_pl(["fit", *given, "--model.head.margin", str(margin), *flags, "--default_root_dir", folder])
        (checkpoint,) = Path(folder).glob("lightning_logs/*/checkpoints/best.ckpt")
        return ArcFaceModule.load_from_checkpoint(checkpoint)


@torch.no_grad()
def draw(axes: Axes, module: ArcFaceModule, margin: float) -> None:
    """Draw each test image at its angle, in a band around the circle, and each class's center as a spoke."""
    data = MNISTDataModule(**module.data_facts["kwargs"])
    data.prepare_data()
    data.setup("test")
    batches = [(module(images), labels) for images, labels in data.test_dataloader()]
    embeddings, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    angles, centers = (torch.atan2(each[:, 1], each[:, 0]) for each in (embeddings, module.head.weight))
    # Spread over the band at random: on the line itself thousands of images would be one dot.
    radius = 1.0 + 0.25 * torch.rand(len(angles), generator=torch.Generator().manual_seed(0))
    for label, name in enumerate(data.class_names):
        mine, center, colour = labels == label, centers[label].item(), COLOURS[label % len(COLOURS)]
        axes.scatter(angles[mine], radius[mine], s=2, alpha=0.4, linewidths=0, color=colour)
        axes.plot([center, center], [0, 1], color=colour, linewidth=2)
        axes.text(center, 1.4, name, fontsize=14, fontweight="bold", ha="center", va="center")
    cosine = module.head.cosine(embeddings)
    right = (cosine.argmax(1) == labels).double().mean().item()
    own = torch.rad2deg(cosine.gather(1, labels[:, None]).acos()).mean().item()
    title = f"margin {margin:g} rad" if margin else "no margin"
    axes.set_xlabel(
        f"{title}: {own:.1f}° to the own center on average,\n{right:.1%} of {len(labels):,} test images right"
    )
    axes.set(ylim=(0, 1.5), xticks=[], yticks=[])
    axes.spines["polar"].set_visible(False)


def main(args: Sequence[str] | None = None) -> None:
    """Train once for each margin and draw them side by side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "figures")
    options, flags = parser.parse_known_args(args)
    figure = Figure(figsize=(10, 5.6), layout=ConstrainedLayoutEngine(h_pad=0.2))
    for axes, margin in zip(figure.subplots(1, 2, subplot_kw={"projection": "polar"}), MARGINS, strict=True):
        draw(axes, train(margin, flags), margin)
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "embedding_2d.png", dpi=100)


if __name__ == "__main__":
    main()
