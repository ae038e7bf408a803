"""Time an epoch of reading, augmenting and normalising a folder of images: torchvision's ImageFolder, and this project.

    python scripts/benchmarks/folder_loading.py --root photos --num_workers 1 --repeats 5 --json folder.json

Both decode every file, bring the shorter side to --image_size, cut the middle, mirror every other image and normalise
it, in batches of --batch_size, in new order; torchvision's under a stock DataLoader with shuffling. They run in turn, a
fresh process each; the files are read once before, so that both find them in the page cache. Without --root,
--num_images JPEG pictures of 250 x 250 pixels, as in Labeled Faces in the Wild, are made up for it. Starting workers is
part of the time, as it is of every epoch under a stock DataLoader.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms

from arcface_pl import ImageFolderDataModule
from arcface_pl.cli.machine import keep_freed_memory


def make_up(root: Path, num_images: int) -> None:
    """Write smooth pictures with some grain, of ten classes."""
    generator = torch.Generator().manual_seed(0)
    for number in range(num_images):
        folder = root / f"class_{number % 10}"
        folder.mkdir(exist_ok=True)
        coarse = torch.rand(1, 3, 16, 16, generator=generator) * 200
        picture = F.interpolate(coarse, size=(250, 250), mode="bicubic", align_corners=False)[0]
        picture += 30 * torch.rand(picture.shape, generator=generator)
        pixels = picture.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{number:06d}.jpg", quality=90)


def torchvision_epoch(options: argparse.Namespace) -> tuple[float, int]:
    """Read one epoch through ImageFolder under a stock DataLoader."""
    steps = [
        transforms.Resize(options.image_size),
        transforms.CenterCrop(options.image_size),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.5] * 3),
    ]
    images = torchvision.datasets.ImageFolder(str(options.root), transform=transforms.Compose(steps))
    loader = DataLoader(images, batch_size=options.batch_size, shuffle=True, num_workers=options.num_workers)
    begun = time.perf_counter()
    count = sum(len(labels) for _, labels in loader)
    return time.perf_counter() - begun, count


def our_epoch(options: argparse.Namespace) -> tuple[float, int]:
    """Read one epoch as a data module whose images do not fit in memory does."""
    data = ImageFolderDataModule(
        str(options.root),
        image_size=options.image_size,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        val_fraction=0.0,
        test_fraction=0.01,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        rotation=0.0,
        shift=0.0,
        zoom=0.0,
        color=0.0,
        resident=False,
        check_files=False,
    )
    data.setup("fit")
    begun = time.perf_counter()
    count = sum(len(labels) for _, labels in data.train_dataloader())
    return time.perf_counter() - begun, count


CONTENDERS: dict[str, Callable[[argparse.Namespace], tuple[float, int]]] = {
    "torchvision's ImageFolder, stock DataLoader": torchvision_epoch,
    "this project, worker processes": our_epoch,
}


def measure(name: str, options: argparse.Namespace, root: Path) -> float:
    """Images per second of one contender, in a fresh process."""
    keys = ("image_size", "batch_size", "num_workers")
    words = [word for key in keys for word in (f"--{key}", str(getattr(options, key)))]
    command = [sys.executable, __file__, "--root", str(root), "--contender", name, *words]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    seconds, count = done.stdout.split()[-2:]
    return int(count) / float(seconds)


def main() -> None:
    """Time both in turn and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=None, help="folder with a folder for each class")
    parser.add_argument("--num_images", type=int, default=4000, help="how many to make up without --root")
    parser.add_argument("--image_size", type=int, default=112)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--num_workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=None, help="write the figures there too")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        torch.set_num_threads(1)
        if CONTENDERS[options.contender] is our_epoch:
            keep_freed_memory()  # as scripts/fit.py does; workers inherit it
        print(*CONTENDERS[options.contender](options))
        return
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        root = options.root or Path(folder)
        if options.root is None:
            make_up(root, options.num_images)
        for path in root.rglob("*.*"):
            path.read_bytes()
        for _ in range(options.repeats):
            for name in CONTENDERS:
                rates[name].append(measure(name, options, root))
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, {platform.machine()}")
    print(f"{options.num_workers} worker(s), {options.repeats} rounds in turn, a process each\n")
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        print(f"{name:44} {medians[name]:8,.0f} images/s ({min(values):,.0f} to {max(values):,.0f})")
    stock, ours = medians.values()
    print(f"\nthis project / torchvision {ours / stock:.3f}")
    if options.json:
        options.json.write_text(json.dumps({"images_per_second": rates, **vars(options)}, default=str))


if __name__ == "__main__":
    main()
