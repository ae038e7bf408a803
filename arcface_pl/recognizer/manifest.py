"""JSON files that carry their own SHA-256 and that of the safetensors file they describe."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from arcface_pl.errors import FileError


class Manifest:
    """How one kind of folder is written and read.

    Args:
        kind: Value of ``format`` in the JSON.
        version: Value of ``version``; other versions are refused.
        digest_key: Key of the JSON's own SHA-256.
        error: Raised about a file that cannot be used.
        remedy: What to do about a damaged file.
        origin: What writes such a folder, for a path that holds none.
    """

    def __init__(
        self, kind: str, version: int, digest_key: str, error: type[FileError], *, remedy: str, origin: str
    ) -> None:
        self.kind, self.version, self.digest_key = kind, version, digest_key
        self.error, self.remedy, self.origin = error, remedy, origin

    def dump(self, values: Mapping[str, Any]) -> bytes:
        """Return the JSON text of ``values`` with format, version and digest."""
        values = {"format": self.kind, "version": self.version, **values}
        text = json.dumps({**values, self.digest_key: _digest(values)}, indent=1, ensure_ascii=False)
        return text.encode(errors="backslashreplace")  # JSON escapes a lone surrogate just so

    def read(self, path: Path) -> dict[str, Any]:
        """Read what `dump` returned.

        Raises:
            FileError: If the file is missing, damaged, or of another format or version.
        """
        if not path.is_file():
            raise self.error(path, "there is no such file", self.origin)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise self.error(path, f"it is damaged, or not JSON ({error})", self.remedy) from error
        if not isinstance(values, dict) or values.get("format") != self.kind:
            raise self.error(path, f"it is not an {self.kind}", self.origin)
        if values.get("version") != self.version:
            fault = f"version: got {values.get('version')!r}; expected {self.version}"
            raise self.error(path, fault, "use the arcface_pl that wrote it")
        if values.pop(self.digest_key, None) != _digest(values):
            raise self.error(path, "it is damaged (it fails its SHA-256)", self.remedy)
        return values

    def read_tensors(self, path: Path, sha256: str) -> dict[str, Tensor]:
        """Read a safetensors file, mapped into memory.

        Raises:
            FileError: If the file is missing or its SHA-256 is not ``sha256``.
        """
        try:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise self.error(path, "it is damaged, or belongs to another (it fails its SHA-256)", self.remedy)
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise self.error(path, f"it cannot be read ({error})", self.remedy) from error


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
