"""RecordIO files and `.bin` verification sets, written from the description of their formats alone."""

import struct
from collections.abc import Sequence
from pathlib import Path

MAGIC = struct.pack("<I", 0xCED7230A)


def piece(content: bytes, flag: int) -> bytes:
    """Magic, then 3 bits of continuation flag and 29 of length, then the content padded to 4 bytes."""
    word = flag << 29 | len(content)
    return MAGIC + struct.pack("<I", word) + content + bytes(-len(content) % 4)


def record(payload: bytes) -> bytes:
    """One record: cut at every magic at a multiple of 4, which is left out."""
    pieces, start = [], 0
    for at in range(0, len(payload) - 3, 4):
        if payload[at : at + 4] == MAGIC:
            pieces.append(payload[start:at])
            start = at + 4
    pieces.append(payload[start:])
    last = len(pieces) - 1
    flags = [0] if last == 0 else [1 if n == 0 else 3 if n == last else 2 for n in range(last + 1)]
    return b"".join(map(piece, pieces, flags))


def packed(content: bytes, key: int, label: float | Sequence[float]) -> bytes:
    """A header IfQQ, labels in a list after it, and the content."""
    if isinstance(label, Sequence):
        return struct.pack("<IfQQ", len(label), 0.0, key, 0) + struct.pack(f"<{len(label)}f", *label) + content
    return struct.pack("<IfQQ", 0, label, key, 0) + content


def write_records(path: Path, payloads: dict[int, bytes]) -> Path:
    """Write payloads by their keys, in that order, and the index."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content, lines = b"", []
    for key, payload in payloads.items():
        lines.append(f"{key}\t{len(content)}\n")
        content += record(payload)
    path.write_bytes(content)
    path.with_suffix(".idx").write_text("".join(lines))
    return path


def write_set(folder: Path, images: Sequence[tuple[bytes, int]], *, lists: bool = False) -> Path:
    """Write train.rec, train.idx and property as insightface lays them out: images, then an identity per class.

    Args:
        folder: Where to.
        images: Content and class of each image, sorted by class.
        lists: Write the class as a list of two labels.
    """
    classes = [label for _, label in images]
    end = len(images) + 1
    numbers = sorted(set(classes))
    payloads = {0: packed(b"", 0, [float(end), float(end + len(numbers))])}
    for key, (content, label) in enumerate(images, start=1):
        payloads[key] = packed(content, key, [float(label), 0.0] if lists else float(label))
    for number, label in enumerate(numbers):
        first = classes.index(label) + 1
        payloads[end + number] = packed(b"", end + number, [float(first), float(first + classes.count(label))])
    write_records(folder / "train.rec", payloads)
    (folder / "property").write_text(f"{max(numbers) + 1},112,112\n")
    return folder
