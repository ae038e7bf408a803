"""Models on the Hugging Face Hub: the folder that save_pretrained writes, as a repository (extra ``hub``)."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from arcface_pl.errors import PretrainedError

FILES = ("config.json", "model.safetensors", "README.md")


def is_hub_name(folder: str | Path) -> bool:
    """Return whether this is the name of a repository, ``org/name``, and not of anything on this machine."""
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(folder))) and not os.path.lexists(str(folder))


def download(name: str, revision: str | None = None) -> Path:
    """Return a folder with the three files of a repository; kept in the Hub's cache, so that it works offline later.

    Args:
        name: ``org/name``.
        revision: Branch, tag or commit; None for the main branch.

    Raises:
        PretrainedError: If there is no such repository, the network is missing, or huggingface-hub is not installed.
    """
    with _hub(name, "neither a folder here nor to be had from the Hub", _REMEDY) as hub:
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(FILES)))


def upload(folder: Path, name: str, *, private: bool, message: str) -> str:
    """Create the repository if there is none, and upload a folder.

    Args:
        folder: A folder that save_pretrained wrote.
        name: ``org/name``.
        private: Whether a new repository is private.
        message: The commit's message.

    Returns:
        Address of the commit.

    Raises:
        PretrainedError: If it cannot be uploaded, or huggingface-hub is not installed.
    """
    with _hub(name, "not uploaded", "log in with 'hf auth login'") as hub:
        api = hub.HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=list(FILES), commit_message=message)
        return str(done.commit_url)


_REMEDY = "check the name, and log in with 'hf auth login' if it is private"


@contextmanager
def _hub(name: str, fault: str, remedy: str) -> Iterator[Any]:
    """Give the package huggingface_hub to the body, whose failure is an error about the repository ``name``."""
    try:
        import huggingface_hub as hub
        import huggingface_hub.errors
    except ImportError:
        fault = "not a folder here; models of the Hugging Face Hub need the package huggingface-hub"
        raise PretrainedError(name, fault, "pip install 'arcface_pl[hub]'") from None
    try:
        yield hub
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PretrainedError(name, f"{fault} ({reason})", remedy) from error
