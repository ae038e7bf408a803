"""Enrolled names and their embeddings: added, searched exactly, and stored on disk."""

import hashlib
import re
import threading
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from arcface_pl.checkpoints.atomic import replacing, writing
from arcface_pl.checkpoints.results import is_ours
from arcface_pl.errors import GalleryError, UserError, expected, listed
from arcface_pl.recognizer.manifest import Manifest
from arcface_pl.recognizer.search import nearest

INDEX = "gallery.json"
MANIFEST = Manifest(
    "arcface_pl gallery",
    1,
    "index_sha256",
    GalleryError,
    remedy="enroll the images again, or restore a copy of the folder",
    origin="enroll a name first, or give a folder that enroll made",
)


Method = TypeVar("Method", bound=Callable[..., Any])


def _locked(method: Method) -> Method:
    """Let one thread at a time into the methods of a gallery."""

    @wraps(method)
    def guarded(self: "Gallery", *values: Any, **named: Any) -> Any:
        with self._lock:
            return method(self, *values, **named)

    return guarded  # type: ignore[return-value]


class Match(NamedTuple):
    """A name of the gallery and its similarity.

    Attributes:
        name: The name.
        score: Cosine between the image and the mean direction of the name's images, in [-1, 1].
    """

    name: str
    score: float


class Gallery:
    """Enrolled names: the unit embeddings of their images, and one mean direction per name to compare with.

    The score of an image and a name is the cosine to the normalized mean of the name's embeddings. With five images per
    name this identified held-out digits better than the nearest of the five did.

    Several threads may use one gallery.

    Args:
        embedding_dim: D, the width of the embeddings.
    """

    def __init__(self, embedding_dim: int) -> None:
        self.embedding_dim = embedding_dim
        self._counts: dict[str, int] = {}
        self._names: list[str] = []
        self._positions: dict[str, int] = {}
        self._rows = _Rows(torch.empty(0, embedding_dim))
        self._owners = _Rows(torch.empty(0, dtype=torch.int64))  # position of each row's name
        self._directions = _Rows(torch.empty(0, embedding_dim))
        self._new: list[tuple[int, Tensor]] = []  # position and rows of what was added since the last search
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._names)

    @property
    def names(self) -> list[str]:
        """The names in the order in which they were first enrolled."""
        return list(self._names)

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of images per name, read-only."""
        return MappingProxyType(self._counts)

    def add(self, name: str, embeddings: Tensor) -> None:
        """Enroll images of ``name``; if it is enrolled already, they are added to its images.

        Args:
            name: Any non-empty text.
            embeddings: (N, D) unit rows, N >= 1.

        Raises:
            ValueError: If the name is empty, or the embeddings have another shape or are not finite.
        """
        if not isinstance(name, str) or not name:
            raise ValueError(expected("name", name, "a non-empty text"))
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embedding_dim or not len(embeddings):
            raise ValueError(expected("embeddings", tuple(embeddings.shape), f"(N, {self.embedding_dim}), N >= 1"))
        if not torch.isfinite(embeddings).all():
            raise ValueError(expected(f"embeddings of {name!r}", "NaN or inf", "finite numbers"))
        rows = embeddings.detach().float().cpu()
        with self._lock:
            position = self._positions.setdefault(name, len(self._names))
            if position == len(self._names):
                self._names.append(name)
            self._counts[name] = self._counts.get(name, 0) + len(rows)
            self._new.append((position, rows))

    @_locked
    def remove(self, name: str) -> None:
        """Forget a name and all its images.

        Raises:
            UserError: If there is no such name.
        """
        if name not in self._positions:
            raise UserError(expected("name", name, f"an enrolled name ({listed(self._names) or 'none'})"))
        self._take_in()
        position = self._positions[name]
        others = self._owners.all != position
        owners = self._owners.all[others]
        names = torch.arange(len(self)) != position
        self._fill(
            {each: count for each, count in self._counts.items() if each != name},
            self._rows.all[others],
            owners - (owners > position).long(),
            self._directions.all[names],
        )

    @_locked
    def search(self, embeddings: Tensor, num_matches: int = 1) -> list[list[Match]]:
        """Find the names with the nearest mean directions, exactly.

        Args:
            embeddings: (B, D) unit rows.
            num_matches: Names per row, at least 1.

        Returns:
            The best matches of each row, the best first; fewer if the gallery has fewer names.
        """
        if not self._names:
            return [[] for _ in embeddings]
        self._take_in()
        scores, positions = nearest(embeddings.float().cpu(), self._directions.all, num_matches)
        return [
            [Match(self._names[position], score) for score, position in zip(*row, strict=True)]
            for row in zip(scores.tolist(), positions.tolist(), strict=True)
        ]

    @_locked
    def save(self, folder: str | Path, model: str) -> None:
        """Write the gallery atomically: after a crash the old one or the new one is there.

        Args:
            folder: Receives ``gallery.json``, and the file of embeddings that it names.
            model: Fingerprint of the model that made the embeddings.

        Raises:
            GalleryError: If it cannot be written, or another program's ``gallery.json`` is there.
        """
        self._take_in()
        folder = Path(folder)
        content = save({"embeddings": self._rows.all[self._owners.all.argsort(stable=True)]})
        digest = hashlib.sha256(content).hexdigest()
        embeddings = f"embeddings-{digest[:16]}.safetensors"  # a new name: replacing the index switches to it at once
        index = {
            "model": model,
            "embedding_dim": self.embedding_dim,
            "names": [{"name": name, "images": count} for name, count in self._counts.items()],
            "embeddings": embeddings,
            "embeddings_sha256": digest,
        }
        with writing(folder, GalleryError, "give a writable folder"):
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / INDEX).exists() and not is_ours(folder / INDEX, f'"format": "{MANIFEST.kind}"'.encode()):
                raise GalleryError(folder / INDEX, f"it is not an {MANIFEST.kind}", "give another folder")
            is_new = not (folder / embeddings).exists()
            with replacing(folder / embeddings) as file:
                file.write(content)
            try:
                with replacing(folder / INDEX) as file:
                    file.write(MANIFEST.dump(index))
            except OSError:
                if is_new:  # no index names it
                    (folder / embeddings).unlink(missing_ok=True)
                raise
            for old in folder.glob("embeddings-*.safetensors"):
                if old.name != embeddings and re.fullmatch(r"embeddings-[0-9a-f]{16}\.safetensors", old.name):
                    old.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: str | Path, model: str) -> "Gallery":
        """Read what `save` wrote.

        Args:
            folder: The folder.
            model: Fingerprint of the model that will use it.

        Raises:
            GalleryError: If it is missing, damaged, of another version, or was made by another model.
        """
        path = Path(folder) / INDEX
        index = MANIFEST.read(path)
        if index.get("model") != model:
            raise GalleryError(path, "it was made by another model, whose embeddings differ", "enroll the images again")
        try:
            rows = MANIFEST.read_tensors(path.with_name(index["embeddings"]), index["embeddings_sha256"])["embeddings"]
            counts = {entry["name"]: entry["images"] for entry in index["names"]}
            images = list(counts.values())
            if len(counts) != len(index["names"]) or not all(isinstance(name, str) and name for name in counts):
                raise ValueError("a name is empty or occurs twice")
            if min(images, default=1) < 1 or sum(images) != len(rows) or [*rows.shape[1:]] != [index["embedding_dim"]]:
                raise ValueError("names and embeddings do not fit")
            if not torch.isfinite(rows).all():
                raise ValueError("an embedding is not finite")
            gallery = cls(rows.shape[1])
            owners = torch.arange(len(counts)).repeat_interleave(torch.tensor(images, dtype=torch.int64))
            gallery._fill(counts, rows.float(), owners, _directions(rows.float(), owners, len(counts)))
        except GalleryError:
            raise
        except (LookupError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
            raise GalleryError(path, f"it is damaged ({error})", MANIFEST.remedy) from error
        return gallery

    def _take_in(self) -> None:
        """Append what was added, and update the directions of its names."""
        if not self._new:
            return
        positions = torch.tensor([position for position, _ in self._new])
        counts = torch.tensor([len(rows) for _, rows in self._new])
        self._rows.append(torch.cat([rows for _, rows in self._new]))
        self._owners.append(positions.repeat_interleave(counts))
        self._new = []
        changed = positions.unique()
        chosen = torch.isin(self._owners.all, changed)
        owners = torch.searchsorted(changed, self._owners.all[chosen])
        self._directions.append(torch.empty(len(self) - len(self._directions.all), self.embedding_dim))
        self._directions.all[changed] = _directions(self._rows.all[chosen], owners, len(changed))

    def _fill(self, counts: dict[str, int], rows: Tensor, owners: Tensor, directions: Tensor) -> None:
        self._counts, self._names = counts, list(counts)
        self._positions = {name: position for position, name in enumerate(counts)}
        self._rows, self._owners, self._directions = _Rows(rows), _Rows(owners), _Rows(directions)


class _Rows:
    """A tensor to which rows are appended in amortized constant time.

    Attributes:
        all: (N, ...) the rows.
    """

    def __init__(self, rows: Tensor) -> None:
        self._buffer = self.all = rows

    def append(self, rows: Tensor) -> None:
        count = len(self.all) + len(rows)
        if count > len(self._buffer):
            self._buffer = rows.new_empty(max(64, count + count // 4), *rows.shape[1:])
            self._buffer[: len(self.all)] = self.all
        self._buffer[len(self.all) : count] = rows
        self.all = self._buffer[:count]


def _directions(rows: Tensor, owners: Tensor, count: int) -> Tensor:
    """Return the normalized sum of each name's rows, (count, D); the mean has the same direction."""
    return F.normalize(torch.zeros(count, rows.shape[1]).index_add_(0, owners, rows), dim=1)
