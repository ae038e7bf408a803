"""Write a data set of this package as folders of PNG files, and a list of test pairs: an example of own images.

    python scripts/write_folders.py --dataset fashion_mnist --out fashion
    python scripts/fit.py --data ImageFolderDataModule --data.root fashion --data.image_size 28 --data.in_channels 1
    arcface-pl evaluate best --data PairsDataModule --data.root fashion --data.pairs_file fashion/pairs.txt

Below --out come train/CLASS/00000.png, test/CLASS/00000.png and so on, and pairs.txt: as many genuine as impostor pairs
of test images, a path, a path and 1 or 0 a line, drawn by --seed.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from arcface_pl import MNISTDataModule
from arcface_pl.data import LabelledImages
from arcface_pl.data.sources.catalog import CATALOG


def write_part(part: LabelledImages, names: list[str], root: Path, name: str, per_class: int | None) -> list[list[str]]:
    """Write a part's images; returns their paths relative to ``root``, class by class."""
    paths = []
    for label, folder in enumerate(names):
        members = (part.labels == label).nonzero().flatten()[:per_class].tolist()
        (root / name / folder).mkdir(parents=True, exist_ok=True)
        paths.append([f"{name}/{folder}/{number:05d}.png" for number in range(len(members))])
        for index, path in zip(members, paths[-1], strict=True):
            Image.fromarray(part.images[index].permute(1, 2, 0).squeeze(2).numpy()).save(root / path)
    return paths


def draw_pairs(paths: list[list[str]], count: int, seed: int) -> list[str]:
    """Draw ``count`` genuine and ``count`` impostor pairs, in turn, as lines of a list."""
    generator = torch.Generator().manual_seed(seed)
    lines = []
    for _ in range(count):
        one, other = torch.randperm(len(paths), generator=generator)[:2].tolist()
        first, second = torch.randperm(len(paths[one]), generator=generator)[:2].tolist()
        stranger = int(torch.randint(len(paths[other]), (1,), generator=generator))
        lines.append(f"{paths[one][first]}\t{paths[one][second]}\t1")
        lines.append(f"{paths[one][first]}\t{paths[other][stranger]}\t0")
    return lines


def main() -> None:
    """Write folders and pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=CATALOG, default="fashion_mnist")
    parser.add_argument("--data_dir", default="data", help="where its files are, or are downloaded to (default: data)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--per_class", type=int, default=None, help="images of each class and part (default: all)")
    parser.add_argument("--pairs", type=int, default=3000, help="genuine, and impostor, pairs (default: 3000)")
    parser.add_argument("--seed", type=int, default=0, help="draws the pairs (default: 0)")
    options = parser.parse_args()
    data = MNISTDataModule(options.data_dir, dataset=options.dataset)
    data.prepare_data()
    names = [name.replace("/", " or ") for name in data.class_names]
    train, test = data.load()
    write_part(train, names, options.out, "train", options.per_class)
    paths = write_part(test, names, options.out, "test", options.per_class)
    (options.out / "pairs.txt").write_text("\n".join(draw_pairs(paths, options.pairs, options.seed)) + "\n")
    print(f"{sum(map(len, paths)):,} test images, {2 * options.pairs:,} pairs of them in {options.out / 'pairs.txt'}")


if __name__ == "__main__":
    main()
