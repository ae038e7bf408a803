"""Find, download and load the files of a data set."""

import os
import shutil
import tarfile
import zlib
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from arcface_pl.checkpoints.atomic import replacing
from arcface_pl.data.labelled import LabelledImages
from arcface_pl.data.sources.catalog import DatasetSpec, FileSpec
from arcface_pl.data.sources.cifar import read_batches
from arcface_pl.data.sources.digits import load_digits
from arcface_pl.data.sources.download import TimeLimits, download, md5_of
from arcface_pl.data.sources.idx import read_images, read_labels
from arcface_pl.errors import DataError

DATA_DIR_VARIABLE = "ARCFACE_PL_DATA_DIR"


def find_folder(spec: DatasetSpec, data_dir: str | Path) -> Path | None:
    """Find the first folder that holds every file of a data set, without opening any.

    Args:
        spec: The data set.
        data_dir: Searched first, then ``$ARCFACE_PL_DATA_DIR`` and ``data``.

    Returns:
        The folder of the files, or None.
    """
    for folder in _folders(spec, data_dir):
        if all(_present(folder, file) for file in spec.files):
            return folder
    return None


def fetch_dataset(spec: DatasetSpec, data_dir: str | Path, limits: TimeLimits | None = None) -> Path:
    """Download the missing files of a data set into ``data_dir``; one process at a time.

    Args:
        spec: The data set.
        data_dir: Folder to download into; files are placed in the data set's subfolder.
        limits: Time limits per mirror.

    Returns:
        The folder of the files.

    Raises:
        DataError: If a file cannot be downloaded or the folder cannot be written; says how to get the files by hand.
    """
    limits = limits or TimeLimits()
    root = Path(data_dir).expanduser()
    folder = root / spec.folder
    try:
        with _locked(root, spec, limits):
            if (found := find_folder(spec, data_dir)) is not None:
                return found
            if spec.archive is not None:
                _unpack(spec, spec.archive, root, limits)
            else:
                for file in spec.files:
                    if _present(folder, file) is None:
                        download(file, spec.mirrors, folder, limits)
    except DataError as error:
        raise missing(spec, data_dir, str(error)) from error
    return folder


def missing(
    spec: DatasetSpec, data_dir: str | Path, reason: str = "prepare_data() was not called, or could not download it"
) -> DataError:
    """Return the error of a data set that is not there, which says how to get it."""
    return DataError(f"{spec.title} is missing: {reason}\n{how_to_get(spec, data_dir)}")


def is_first_of_machine() -> bool:
    """Whether this is the first process of its machine, the one that downloads."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))) == 0


def how_to_get(spec: DatasetSpec, data_dir: str | Path) -> str:
    """Describe where the files were searched, and which to download by hand, with checksums."""
    searched = ", ".join(_describe(folder, spec) for folder in _folders(spec, data_dir))
    what = "the files inside this archive" if spec.archive else "these files"
    wanted = (spec.archive,) if spec.archive else spec.files
    return "\n".join(
        (
            f"Searched {searched}. To get it by hand, put {what} into {Path(data_dir) / spec.folder}, "
            f"or set ${DATA_DIR_VARIABLE} to another folder that holds {spec.folder}:",
            *(f"  {file.name}  md5 {file.md5}" for file in wanted),
        )
    )


def load_dataset(spec: DatasetSpec, folder: Path | None) -> tuple[LabelledImages, LabelledImages]:
    """Read and check a data set.

    Args:
        spec: The data set.
        folder: Folder of its files, from :func:`find_folder`; None for the digits of scikit-learn.

    Returns:
        Training and test images, on the CPU.

    Raises:
        DataError: If a file is missing or damaged.
    """
    if not spec.files:
        return load_digits()
    assert folder is not None
    try:
        return _read(spec, folder)
    except DataError as error:
        again = "" if "run again" in str(error) else ". Delete the file and run again"
        raise DataError(f"{error}{again}, or name a folder with whole files by data.data_dir") from None


def _read(spec: DatasetSpec, folder: Path) -> tuple[LabelledImages, LabelledImages]:
    # A file that disappears between the two calls is reported by the reader, under its packed name.
    paths = [_present(folder, file) or folder / file.name for file in spec.files]
    if spec.archive is not None:
        return read_batches(paths[:-1], spec.files[:-1]), read_batches(paths[-1:], spec.files[-1:])
    train, test = (
        LabelledImages(
            read_images(paths[first], spec.files[first], count, spec.image_size),
            read_labels(paths[first + 1], spec.files[first + 1], count, len(spec.class_names)),
        )
        for first, count in ((0, spec.num_train), (2, spec.num_test))
    )
    return train, test


def _folders(spec: DatasetSpec, data_dir: str | Path) -> list[Path]:
    roots = (str(data_dir), os.environ.get(DATA_DIR_VARIABLE, ""), "data")
    return [Path(root).expanduser() / spec.folder for root in dict.fromkeys(roots) if root]


def _describe(folder: Path, spec: DatasetSpec) -> str:
    """Name a folder, and the missing files if it has some of them."""
    lacking = [file.name for file in spec.files if _present(folder, file) is None]
    return f"{folder} (lacks {', '.join(lacking)})" if len(lacking) < len(spec.files) else str(folder)


def _present(folder: Path, file: FileSpec) -> Path | None:
    """Find a file, packed or plain, or an unpacked folder; packed first, since its checksum is known for every set."""
    candidates = (folder / file.name, folder / file.name.removesuffix(".gz"))
    # os.path, because pathlib's is_file raises if a folder may not be entered.
    found = next((path for path in candidates if os.path.isfile(path)), None)
    unpacked = folder / file.name.removesuffix(".zip")
    return unpacked if not found and file.name.endswith(".zip") and os.path.isdir(unpacked) else found


def _locked(root: Path, spec: DatasetSpec, limits: TimeLimits) -> AbstractContextManager[object]:
    """Take a lock in ``root`` until the context ends; the system releases it if the process is killed."""
    lock = FileLock(root / f".{spec.name}.lock")
    try:
        root.mkdir(parents=True, exist_ok=True)
        return lock.acquire(timeout=limits.total)
    except Timeout:
        raise DataError(f"{lock.lock_file}: another process has been downloading for {limits.total:g} s") from None
    except OSError as error:
        raise DataError(f"data.data_dir {root}: cannot be written: {error.strerror or error}") from None


def _unpack(spec: DatasetSpec, archive: FileSpec, root: Path, limits: TimeLimits) -> None:
    """Download an archive and extract the expected files, each completely or not at all."""
    path = root / archive.name
    if not path.is_file() or md5_of(path) != archive.md5:
        download(archive, spec.mirrors, root, limits)
    folder = root / spec.folder
    try:
        folder.mkdir(exist_ok=True)
        with tarfile.open(path) as tar:
            for file in spec.files:
                member = tar.extractfile(f"{spec.folder}/{file.name}")
                if member is None:
                    raise KeyError(f"{file.name} is not a file")
                with member, replacing(folder / file.name) as stream:
                    shutil.copyfileobj(member, stream)
    except (tarfile.TarError, KeyError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked: {error}") from None
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from None
    path.unlink(missing_ok=True)  # another host may have been faster
