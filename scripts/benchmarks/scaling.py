"""How time and size grow: images, classes, names of a gallery, pairs, and epochs in TensorBoard.

Prints a table per quantity with the slope between neighboring sizes on logarithmic scales (1: as its size; 2: as the
square) and draws one figure. Sizes grow until the budget is spent. Nothing else should run on the machine.

    python scripts/benchmarks/scaling.py --figure scripts/figures/scaling.png
    python scripts/benchmarks/scaling.py --largest 1000 --budget 30
"""

import argparse
import contextlib
import io
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from PIL import Image

from arcface_pl import ArcFaceHead, ImageFolderDataModule
from arcface_pl.cli import main as arcface_pl
from arcface_pl.figures.style import SERIES, new_figure, save
from arcface_pl.metrics.functional import all_pairs_curve
from arcface_pl.recognizer import Gallery

DIM = 64
Measure = dict[str, float]
Curves = dict[str, list[tuple[float, float]]]


def seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """Return the median wall seconds of a call."""
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


def of_images(count: int, folder: Path) -> Measure:
    """Set up ``count`` files of 28 x 28 pixels in 100 folders, which then fit in memory, and go through them once."""
    for number in range(count):
        place = folder / f"{number % 100:03d}"
        place.mkdir(exist_ok=True)
        Image.new("L", (28, 28), number % 256).save(place / f"{number}.bmp")
    data = ImageFolderDataModule(
        root=str(folder), image_size=28, in_channels=1, num_workers=0, batch_size=256, augment=False
    )

    def listed() -> None:
        data.prepare_data()
        data.setup("fit")

    return {
        "list, split and load": seconds(listed),
        "an epoch of batches": seconds(lambda: [len(labels) for _, labels in data.train_dataloader()]),
    }


def of_classes(count: int, folder: Path) -> Measure:
    """Compute the loss of 64 embeddings and its gradients."""
    head = ArcFaceHead(DIM, count)
    head.check_labels = False
    embeddings, labels = torch.randn(64, DIM, requires_grad=True), torch.randint(count, (64,))
    return {"loss and gradients": seconds(lambda: head.loss(embeddings, labels).backward(), repeats=5)}


def of_gallery(count: int, folder: Path) -> Measure:
    """Load ``count`` names and identify one image."""
    if find_spec("faiss") is not None:
        import faiss  # noqa: F401  # the first search would: once per process, at any size
    rows = F.normalize(torch.randn(count, DIM), dim=1)
    gallery = Gallery(DIM)
    for index in range(count):
        gallery.add(f"n{index}", rows[index : index + 1])
    gallery.save(str(folder), "model")
    loaded: list[Gallery] = []
    found = {"load": seconds(lambda: loaded.append(Gallery.load(str(folder), "model")))}
    found["first search"] = seconds(lambda: loaded[0].search(rows[:1], 5))
    return found | {"next search": seconds(lambda: loaded[0].search(rows[:1], 5), repeats=5)}


def of_pairs(count: int, folder: Path) -> Measure:
    """Verify over all pairs of ``count`` embeddings."""
    embeddings, labels = torch.randn(count, DIM), torch.arange(count) % (count // 10)
    return {"verify all pairs": seconds(lambda: all_pairs_curve(embeddings, labels))}


def of_epochs(count: int, folder: Path) -> Measure:
    """Train ``count`` epochs on the digits; bytes of TensorBoard's files."""
    flags = ["--data.dataset", "digits", "--model.backbone", "FastCNN", "--limit_train_batches", "4"]
    with contextlib.redirect_stdout(io.StringIO()):
        arcface_pl(["fit", *flags, "--max_epochs", str(count), "--default_root_dir", str(folder)])
    return {"bytes in TensorBoard": sum(path.stat().st_size for path in folder.rglob("events.*"))}


SIZES: dict[str, tuple[Callable[[int, Path], Measure], tuple[int, ...]]] = {
    "images": (of_images, (1_000, 10_000, 100_000, 1_000_000)),
    "classes": (of_classes, (10, 100, 1_000, 10_000, 100_000, 1_000_000)),
    "names in a gallery": (of_gallery, (1_000, 10_000, 100_000, 1_000_000)),
    "embeddings of all pairs": (of_pairs, (10_000, 20_000, 40_000, 100_000, 300_000)),
    "epochs": (of_epochs, (1, 2, 4, 8)),
}


def measure(largest: int, budget: float) -> Iterator[tuple[str, Curves]]:
    """Yield the curves of each quantity; a size that would likely exceed its share of the budget is left out."""
    for name, (of, sizes) in SIZES.items():
        curves: Curves = {}
        begun = time.perf_counter()
        for size in sizes:
            spent = time.perf_counter() - begun
            if size > largest or (curves and spent * 5 > budget / len(SIZES)):
                break
            with tempfile.TemporaryDirectory() as folder:
                for measured, value in of(size, Path(folder)).items():
                    curves.setdefault(measured, []).append((size, value))
        yield name, curves


def slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the slope between two points on logarithmic scales."""
    return math.log(other[1] / one[1]) / math.log(other[0] / one[0])


def main(arguments: list[str] | None = None) -> None:
    """Print the tables as they are measured, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=1_000_000, help="no size above this")
    parser.add_argument("--budget", type=float, default=280, help="seconds for all")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    figure = new_figure(12, 6.4)
    panels = iter(figure.subplots(2, 3).flat)
    for (name, curves), axes in zip(measure(options.largest, options.budget), panels, strict=False):
        print(f"\n| {name} | | seconds, or bytes | slope |\n|--:|---|--:|--:|")
        for measured, points in curves.items():
            for place, (size, value) in enumerate(points):
                steep = f"{slope(points[place - 1], points[place]):.2f}" if place else ""
                print(f"| {size:,} | {measured} | {value:.4g} | {steep} |", flush=True)
        draw(axes, name, curves)
    for axes in panels:  # one more than there are quantities
        axes.set_axis_off()
    if options.figure is not None:
        save(figure, options.figure)


def draw(axes: Axes, name: str, curves: Curves) -> None:
    """Plot one quantity: seconds on logarithmic scales, bytes on linear ones."""
    for number, (measured, points) in enumerate(curves.items()):
        axes.plot(*zip(*points, strict=True), label=measured, **SERIES[number])
    axes.set(xlabel=name, ylabel="seconds")
    if name == "epochs":
        largest = max((value for points in curves.values() for _, value in points), default=1)
        axes.set(ylabel="bytes", ylim=(0, 1.1 * largest))
        axes.ticklabel_format(style="plain")
    else:
        axes.set(xscale="log", yscale="log")
    if curves:  # none where all its sizes are above --largest, or the budget is spent
        axes.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main()
