"""Checkpoints of sharded heads: one file, as torch.save writes it, streamed block by block from all processes."""

import io
import math
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from arcface_pl.checkpoints.atomic import replacing
from arcface_pl.checkpoints.reading import is_finite, nested
from arcface_pl.errors import CheckpointError
from arcface_pl.heads import ShardRows

_STORAGES = {
    torch.float32: torch.FloatStorage,
    torch.float64: torch.DoubleStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.int64: torch.LongStorage,
    torch.int32: torch.IntStorage,
    torch.int16: torch.ShortStorage,
    torch.int8: torch.CharStorage,
    torch.uint8: torch.ByteStorage,
    torch.bool: torch.BoolStorage,
}
_REBUILD = torch.empty(0).__reduce_ex__(2)[0]
"""What torch.load makes a tensor of a storage with."""
_ALIGNMENT = 64  # of storages in the file, as torch.save does, so that it can be mapped into memory
_LOCAL_HEADER, _ZIP64_FIELD, _FIELD_HEADER = 30, 20, 4


def shard_rows(content: Mapping[str, Any]) -> list[ShardRows]:
    """Return the tensors of a checkpoint whose rows are spread over processes, in the same order in each of them."""
    return [value for _, value in nested(content) if isinstance(value, ShardRows)]


@contextmanager
def streams(content: Mapping[str, Any]) -> Iterator[dict[int, Iterator[Tensor]]]:
    """Yield the blocks of each of `shard_rows` by its id, and take those that are left, also after an error.

    Collective call, in which processes that write nothing have an empty body.
    """
    blocks = {id(rows): rows.blocks() for rows in shard_rows(content)}
    try:
        yield blocks
    finally:  # or the other processes would wait for this one
        for left in blocks.values():
            for _ in left:
                pass


def write_streamed(content: Mapping[str, Any], path: str | Path, blocks: Mapping[int, Iterator[Tensor]]) -> None:
    """Write a checkpoint atomically, as `write_checkpoint`, with tensors that no process has whole.

    Args:
        content: The checkpoint's dictionary.
        path: The file; its folder is made if needed.
        blocks: Of the tensors that are spread over processes, see `streams`.

    Raises:
        CheckpointError: If such a tensor is not finite.
        OSError: If the file cannot be written. The file at ``path`` is then unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pickled = io.BytesIO()
    pickler = _Pickler(pickled)
    pickler.dump(content)
    names = {id(value): name for name, value in nested(content) if isinstance(value, ShardRows)}
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        _put(archive, file, "data.pkl", [pickled.getbuffer()])
        _put(archive, file, "byteorder", [sys.byteorder.encode()])
        _put(archive, file, "version", [b"3\n"])
        # In the order of the processes' calls, not in that of their keys
        for number, stream in blocks.items():
            _put(archive, file, f"data/{pickler.keys[number]}", _finite(stream, path, names[number]))
        for key, storage in pickler.storages.items():
            _put(archive, file, f"data/{key}", [_bytes_of(torch.empty(0, dtype=torch.uint8).set_(storage.cpu()))])


def _finite(stream: Iterable[Tensor], path: Path, name: str) -> Iterator[memoryview]:
    for block in stream:
        if not is_finite(block):
            raise CheckpointError(path, f"not written, since {name} is not finite", "use an earlier one")
        yield _bytes_of(block)


def _bytes_of(tensor: Tensor) -> memoryview:
    numbers: Any = tensor.contiguous().flatten().view(torch.uint8).numpy()
    return memoryview(numbers)


def _put(archive: zipfile.ZipFile, file: BinaryIO, name: str, parts: Iterable[bytes | memoryview]) -> None:
    """Write an entry, padded so that its content is aligned."""
    entry = zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0))
    before = file.tell() + _LOCAL_HEADER + len(entry.filename) + _ZIP64_FIELD + _FIELD_HEADER
    padding = -before % _ALIGNMENT
    entry.extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
    with archive.open(entry, "w", force_zip64=True) as record:
        for part in parts:
            record.write(part)


class _Storage:
    """Stands for a tensor's memory, which is written under a key."""

    def __init__(self, key: str, dtype: torch.dtype, size: int) -> None:
        self.key, self.id = key, ("storage", _STORAGES[dtype], key, "cpu", size)


class _Pickler(pickle.Pickler):
    """Writes tensors as torch.save does: by a key of their storage.

    Attributes:
        storages: By key, those of plain tensors.
        keys: By id, those of `ShardRows`.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, protocol=2)
        self.storages: dict[str, torch.UntypedStorage] = {}
        self.keys: dict[int, str] = {}
        self._known: dict[tuple[int, torch.dtype], _Storage] = {}

    def persistent_id(self, value: Any) -> Any:
        """Refer to a storage by its key."""
        return value.id if isinstance(value, _Storage) else None

    def reducer_override(self, value: Any) -> Any:
        """Reduce a tensor to its storage, offset, shape and strides."""
        if isinstance(value, ShardRows):
            storage = self._new(value.dtype, value.shape.numel())
            self.keys[id(value)] = storage.key
            return _REBUILD, (storage, 0, tuple(value.shape), _strides(value.shape), False, OrderedDict())
        if type(value) in (Tensor, nn.Parameter):
            value = value.detach()
            memory = value.untyped_storage()
            place = memory.data_ptr(), value.dtype
            if not memory.nbytes() or place not in self._known:
                self._known[place] = self._new(value.dtype, memory.nbytes() // value.element_size())
                self.storages[self._known[place].key] = memory
            storage = self._known[place]
            return _REBUILD, (storage, value.storage_offset(), tuple(value.shape), value.stride(), False, OrderedDict())
        return NotImplemented

    def _new(self, dtype: torch.dtype, size: int) -> _Storage:
        return _Storage(str(len(self.storages) + len(self.keys)), dtype, size)


def _strides(shape: torch.Size) -> tuple[int, ...]:
    return tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))
