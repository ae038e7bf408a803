"""Made-up faces: skin, hair, eyes and mouth of a person, drawn by a seed; each picture with its own light and place."""

import random
from pathlib import Path

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]


def _colour(draw: random.Random, low: int, high: int) -> Colour:
    return draw.randint(low, high), draw.randint(low, high), draw.randint(low, high)


def face(person: int, number: int, size: int = 112, seed: int = 0) -> Image.Image:
    """Draw picture ``number`` of ``person``; what is the person's own depends on (seed, person) alone."""
    own, light = random.Random(f"{seed} {person}"), random.Random(f"{seed} {person} {number}")
    skin, hair, eyes, mouth, shirt = (
        _colour(own, *span) for span in ((90, 230), (0, 200), (0, 160), (60, 255), (0, 255))
    )
    wide, apart, high, smile = own.uniform(0.26, 0.38), own.uniform(0.1, 0.2), own.uniform(0.36, 0.48), own.random()
    image = Image.new("RGB", (size, size), _colour(light, 40, 220))
    pen = ImageDraw.Draw(image)
    x, y = 0.5 + light.uniform(-0.05, 0.05), 0.5 + light.uniform(-0.05, 0.05)

    def oval(cx: float, cy: float, rx: float, ry: float, colour: Colour) -> None:
        pen.ellipse([size * (cx - rx), size * (cy - ry), size * (cx + rx), size * (cy + ry)], fill=colour)

    oval(x, y + 0.5, 0.45, 0.2, shirt)
    oval(x, y - 0.08, wide * 1.15, 0.4, hair)
    oval(x, y, wide, 0.38, skin)
    for side in (-1, 1):
        oval(x + side * apart, y + high - 0.5, 0.06, 0.035, (255, 255, 255))
        oval(x + side * apart, y + high - 0.5, 0.03, 0.03, eyes)
    oval(x, y + 0.2, 0.05 + 0.1 * smile, 0.03, mouth)
    return image.point([min(255, int(value * light.uniform(0.99, 1.01))) for value in range(256)] * 3)


def write_faces(root: Path, people: int, pictures: int, size: int = 112, suffix: str = "jpg", seed: int = 0) -> Path:
    """Write folders named Person_000 and so on, with files named as Labeled Faces in the Wild names them."""
    for person in range(people):
        name = f"Person_{person:03d}"
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(1, pictures + 1):
            face(person, number, size, seed).save(folder / f"{name}_{number:04d}.{suffix}")
    return root
