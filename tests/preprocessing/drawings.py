"""Pictures of digits as people have them, drawn from a seed: pens and typefaces on made-up paper."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

FONTS = sorted(
    path
    for pattern in ("DejaVuSans*.ttf", "DejaVuSerif*.ttf", "Liberation*-Regular.ttf", "Liberation*-Bold.ttf")
    for path in Path("/usr/share/fonts").rglob(pattern)
    if "Condensed" not in path.name and "Math" not in path.name
)


def arc(x: float, y: float, across: float, up: float, start: float, stop: float) -> list[tuple[float, float]]:
    """Points on an ellipse from one angle to another, in turns, clockwise from the right."""
    angles = 2 * np.pi * np.linspace(start, stop, 24)
    return [(x + across * float(np.cos(each)), y + up * float(np.sin(each))) for each in angles]


# Each digit as strokes of a pen in the unit square, y downwards.
STROKES: dict[int, list[list[tuple[float, float]]]] = {
    0: [arc(0.5, 0.5, 0.34, 0.5, -0.25, 0.76)],
    1: [[(0.52, 0.0), (0.48, 1.0)]],
    2: [[*arc(0.5, 0.28, 0.36, 0.28, -0.48, 0.05), (0.12, 1.0), (0.9, 1.0)]],
    3: [arc(0.46, 0.26, 0.34, 0.26, -0.42, 0.25) + arc(0.46, 0.75, 0.4, 0.25, -0.25, 0.4)],
    4: [[(0.3, 0.0), (0.1, 0.55), (0.9, 0.55)], [(0.75, 0.1), (0.68, 1.0)]],
    5: [[(0.85, 0.0), (0.25, 0.0), (0.2, 0.42), *arc(0.46, 0.7, 0.38, 0.3, -0.3, 0.38)]],
    6: [[(0.72, 0.0), (0.4, 0.25), (0.2, 0.6), *arc(0.5, 0.73, 0.32, 0.27, -0.5, 0.52)]],
    7: [[(0.1, 0.03), (0.9, 0.0), (0.4, 1.0)]],
    8: [[(0.5 + 0.3 * float(np.sin(2 * t)), 0.5 - 0.5 * float(np.cos(t))) for t in np.linspace(0, 2 * np.pi, 60)]],
    9: [[*arc(0.48, 0.28, 0.32, 0.28, 0.0, 1.0), (0.78, 0.5), (0.68, 1.0)]],
}


def written(digit: int, side: int, rng: np.random.Generator, pen: float = 0.09) -> Image.Image:
    """A mask of a digit drawn with a pen, its width as a share of the digit's height."""
    scale = 4 if side < 500 else 2
    width = max(1, round(pen * side * scale))
    lean, wide = rng.uniform(-0.12, 0.12), rng.uniform(0.7, 0.9)
    mask = Image.new("L", (side * scale * 2, side * scale * 2))
    draw = ImageDraw.Draw(mask)
    for stroke in STROKES[digit]:
        moved = [(side * scale * (0.5 + wide * x + lean * (0.5 - y)), side * scale * (0.4 + y)) for x, y in stroke]
        draw.line(moved, fill=255, width=width, joint="curve")
        for x, y in (moved[0], moved[-1]):
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    cut = mask.crop(mask.getbbox())
    return cut.resize([max(1, each // scale) for each in cut.size], Image.Resampling.BOX)


def printed(digit: int, side: int, rng: np.random.Generator) -> Image.Image:
    """A mask of a digit in a typeface."""
    font = (
        ImageFont.truetype(str(FONTS[int(rng.integers(len(FONTS)))]), side) if FONTS else ImageFont.load_default(side)
    )
    mask = Image.new("L", (2 * side, 2 * side))
    ImageDraw.Draw(mask).text((side // 2, side // 4), str(digit), fill=255, font=font)
    cut = mask.crop(mask.getbbox())
    return cut.resize((max(1, cut.width * side // cut.height), side))


Glyph = Callable[[int], Image.Image]
SIZE = (480, 640)


def noise(size: tuple[int, int], spread: float, rng: np.random.Generator) -> Image.Image:
    values = rng.normal(128, spread, size[::-1])
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def page(rng: np.random.Generator, light: int = 232, size: tuple[int, int] = SIZE) -> Image.Image:
    """Paper with a grain and light from one side."""
    grain = noise(size, 9, rng).filter(ImageFilter.GaussianBlur(0.8))
    ramp = Image.linear_gradient("L").rotate(90 * int(rng.integers(4))).resize(size)
    paper = Image.blend(Image.new("L", size, light), grain, 0.06)
    return Image.blend(paper, ramp, 0.06).convert("RGB")


def put(picture: Image.Image, mask: Image.Image, rng: np.random.Generator, ink: tuple[int, int, int]) -> Image.Image:
    room = [max(1, outer - inner - 40) for outer, inner in zip(picture.size, mask.size, strict=True)]
    picture.paste(ink, tuple(20 + int(rng.integers(each)) for each in room), mask)
    return picture


def photographed(picture: Image.Image, rng: np.random.Generator, quality: int = 80) -> Image.Image:
    """Blur, noise and JPEG, as a camera leaves them."""
    pixels = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.7)).convert("RGB"), np.float32)
    noisy = np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


BLUE, BLACK, GRAPHITE = (30, 40, 130), (25, 25, 25), (150, 150, 152)


def ruled(glyph: Glyph, rng: np.random.Generator, *, squared: bool = False, turn: float = 0.0) -> Image.Image:
    sheet = page(rng, size=(700, 900))
    draw, step = ImageDraw.Draw(sheet), int(rng.integers(30, 56))
    for at in range(10, 900, step):
        draw.line((0, at, 700, at), fill=(150, 175, 215), width=2)
        if squared:
            draw.line((at, 0, at, 900), fill=(150, 175, 215), width=2)
    if not squared:
        draw.line((140, 0, 140, 900), fill=(225, 130, 130), width=2)
    mask = glyph(int(rng.integers(110, 300)))
    sheet.paste(BLUE, (160 + int(rng.integers(120)), 150 + int(rng.integers(250))), mask)
    return photographed(sheet.rotate(turn, Image.Resampling.BICUBIC).crop((80, 100, 620, 800)), rng)


def shaded(glyph: Glyph, rng: np.random.Generator) -> Image.Image:
    """The hard shadow of a hand or a telephone over one side of the page."""
    picture = put(page(rng), glyph(int(rng.integers(160, 380))), rng, BLACK)
    shadow = Image.new("L", picture.size, 255)
    x, lean = int(rng.integers(120, 360)), int(rng.integers(-150, 150))
    ImageDraw.Draw(shadow).polygon([(x, 0), (x + lean, 640), (0, 640), (0, 0)], fill=int(rng.integers(120, 190)))
    shadow = shadow.filter(ImageFilter.GaussianBlur(rng.uniform(1, 12)))
    shade = np.asarray(shadow, np.float32)[..., None] / 255
    return photographed(Image.fromarray((np.asarray(picture) * shade).astype(np.uint8)), rng)


def on_table(glyph: Glyph, rng: np.random.Generator) -> Image.Image:
    """A whole note of paper on a dark table."""
    table = Image.blend(Image.new("L", (640, 640), 60), noise((640, 640), 60, rng), 0.15).convert("RGB")
    note = put(page(rng, size=(360, 400)), glyph(int(rng.integers(130, 280))), rng, BLUE)
    note = note.convert("RGBA").rotate(float(rng.uniform(-6, 6)), Image.Resampling.BICUBIC, expand=True)
    table.paste(note, (100, 90), note)
    return photographed(table, rng)


def speckled(glyph: Glyph, rng: np.random.Generator) -> Image.Image:
    picture = np.asarray(put(Image.new("L", (300, 300), 255), glyph(200), rng, 0)).copy()  # type: ignore[arg-type]
    chance = rng.random(picture.shape)
    picture[chance < 0.03], picture[chance > 0.97] = 0, 255
    return Image.fromarray(picture)


def on_canvas(glyph: Glyph, rng: np.random.Generator) -> Image.Image:
    return put(Image.new("RGBA", (280, 280)), glyph(int(rng.integers(60, 220))), rng, BLACK)


def cropped(glyph: Glyph, rng: np.random.Generator) -> Image.Image:
    mask = glyph(int(rng.integers(60, 300)))
    picture = Image.new("L", [side + 4 for side in mask.size], 255)  # type: ignore[arg-type]
    picture.paste(0, (2, 2), mask)
    return picture


def vignetted(glyph: Glyph, rng: np.random.Generator) -> Image.Image:
    picture = put(page(rng), glyph(int(rng.integers(150, 350))), rng, BLACK)
    off = np.asarray(Image.radial_gradient("L").resize(picture.size), np.float32)[..., None] / 255
    # A lens darkens by the fourth power of the cosine.
    shade = np.cos(np.arctan(0.7 * off)) ** 4
    return photographed(Image.fromarray((np.asarray(picture) * shade).astype(np.uint8)), rng)


KINDS: dict[str, Callable[[Glyph, np.random.Generator], Image.Image]] = {
    "canvas": on_canvas,
    "cropped": cropped,
    "paper": lambda glyph, rng: photographed(put(page(rng), glyph(int(rng.integers(90, 400))), rng, BLUE), rng),
    "pencil": lambda glyph, rng: photographed(put(page(rng), glyph(int(rng.integers(150, 400))), rng, GRAPHITE), rng),
    "board": lambda glyph, rng: photographed(
        put(page(rng, 50), glyph(int(rng.integers(150, 400))), rng, (215, 215, 210)), rng
    ),
    "blurred": lambda glyph, rng: photographed(
        put(page(rng), glyph(int(rng.integers(150, 400))), rng, BLACK).filter(ImageFilter.GaussianBlur(5)), rng
    ),
    "pale": lambda glyph, rng: ImageEnhance.Contrast(
        photographed(put(page(rng), glyph(int(rng.integers(150, 400))), rng, BLACK), rng, 40)
    ).enhance(0.4),
    "vignetted": vignetted,
    "speckled": speckled,
    "ruled": ruled,
    "squared": lambda glyph, rng: ruled(glyph, rng, squared=True),
    "tilted": lambda glyph, rng: ruled(glyph, rng, turn=float(rng.uniform(-5, 5))),
    "shaded": shaded,
    "table": on_table,
}
