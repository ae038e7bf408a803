"""Changes of a stored gallery, by one process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from arcface_pl.checkpoints.atomic import missing_folders
from arcface_pl.errors import GalleryError
from arcface_pl.recognizer.gallery import INDEX
from arcface_pl.recognizer.recognizer import Recognizer


@contextmanager
def editing_gallery(recognizer: Recognizer, folder: str, *, timeout: float = -1) -> Iterator[None]:
    """Lock the gallery, load it if there is one, and write it after the body.

    Args:
        recognizer: Its enrolled names are replaced by those of the gallery.
        folder: The gallery's, made if needed.
        timeout: Seconds to wait for another process that holds the lock; below 0: no limit.

    Raises:
        GalleryError: If it cannot be read or written, or the lock is not released in time. What this call made,
            folder or lock file, is then removed.
    """
    from filelock import FileLock, Timeout

    made, lock_file = missing_folders(Path(folder).absolute()), Path(folder) / ".lock"
    is_new = not lock_file.exists()
    if (Path(folder) / INDEX).exists():
        recognizer.load_gallery(folder)  # an error before a lock file is made
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_file).acquire(timeout=timeout)
    except Timeout as error:
        raise GalleryError(folder, "another process is changing it", "try again when it has finished") from error
    except OSError as error:
        raise GalleryError(folder, f"cannot be written ({error.strerror})", "give a writable folder") from error
    with lock:
        try:
            if (Path(folder) / INDEX).exists():
                recognizer.load_gallery(folder)
            yield
            recognizer.save_gallery(folder)
        except BaseException:
            if is_new:
                lock_file.unlink(missing_ok=True)
            with suppress(OSError):  # others hold files by now
                for each in made:
                    each.rmdir()
            raise
