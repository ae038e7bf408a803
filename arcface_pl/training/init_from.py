"""``init_from``: a backbone that starts from the weights of a file, whatever wrote it."""

import os
import re
import warnings
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from arcface_pl.backbones import TimmBackbone
from arcface_pl.checkpoints.find_checkpoint import find_checkpoint
from arcface_pl.checkpoints.reading import is_finite, read_checkpoint
from arcface_pl.checkpoints.runs import NAMES
from arcface_pl.errors import PretrainedError, SettingsError, UserError, expected, listed, printable
from arcface_pl.recognizer.as_checkpoint import as_checkpoint
from arcface_pl.recognizer.hub import download, is_hub_name
from arcface_pl.recognizer.pretrained import CONFIG, MANIFEST, WEIGHTS

ACCEPTED = (
    f"a checkpoint (.ckpt, {', '.join(NAMES)}), a folder of save_pretrained, a state dict (.pt, .pth, .safetensors) "
    "or a Hugging Face repository (org/name)"
)
_SETTING = "model.init_from"
# Under these keys, training programs keep the weights of a network next to other things
_NESTED = ("state_dict", "model_state_dict", "model", "backbone", "network", "net", "teacher", "student")
_PREFIXES = ("module.", "backbone.", "model.", "_orig_mod.", "network.", "net.", "encoder.")
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".tar")


class Fit(NamedTuple):
    """What fitted of a file's weights.

    Attributes:
        loaded: Names of the network's weights that were replaced.
        missing: Names that the file does not have: they keep their initial values.
        unexpected: Names in the file that the network does not have.
        wrong_shape: Name, shape in the file and shape in the network; these keep their initial values.
    """

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    wrong_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]]

    def table(self) -> str:
        """Return a table of four rows."""
        shapes = [f"{name} {theirs} in the file, {ours} in the network" for name, theirs, ours in self.wrong_shape]
        rows = {
            "loaded": f"{len(self.loaded)} of {len(self.loaded) + len(self.missing) + len(self.wrong_shape)}",
            "missing": listed(self.missing) or "none",
            "unexpected": listed(self.unexpected) or "none",
            "wrong shape": listed(shapes) or "none",
        }
        return "\n".join(f"  {name:<12} {value}" for name, value in rows.items())


def load_weights(network: nn.Module, source: str | Path, root: str | Path = ".") -> Fit:
    """Copy those weights of a file into a network that fit by name and shape.

    Prefixes that wrappers add to names (``module.``, ``backbone.``, ``model.``, ``_orig_mod.``, ...) are removed, or
    added, as fits most weights.

    Args:
        network: The backbone.
        source: See `read_weights`.
        root: See `read_weights`.

    Raises:
        SettingsError: If it cannot be read, or no weight fits.
        CheckpointError: If a checkpoint is damaged or unsafe.
        PretrainedError: If a folder is damaged.
    """
    saved, wanted = read_weights(source, root), network.state_dict()
    named = max(_renamings(saved, wanted), key=lambda names: _num_fitting(names, wanted))
    fitting = {name: tensor for name, tensor in named.items() if name in wanted and tensor.shape == wanted[name].shape}
    if not any(name in fitting for name, _ in network.named_parameters()):
        names = f"a file with {listed(list(saved)[:3])}, ... of which nothing fits {type(network).__name__}"
        remedy = f"It has {listed(list(wanted)[:3])}, ...: choose the network of the file with --model.backbone"
        raise SettingsError(f"{_SETTING}: got {printable(source)}, {names}; expected weights of the backbone. {remedy}")
    network.load_state_dict(fitting, strict=False)
    return Fit(
        loaded=list(fitting),
        missing=[name for name in wanted if name not in named],
        unexpected=[name for name in named if name not in wanted],
        wrong_shape=[
            (name, tuple(tensor.shape), tuple(wanted[name].shape))
            for name, tensor in named.items()
            if name in wanted and name not in fitting
        ],
    )


def unlike_pretraining(backbone: nn.Module, facts: Mapping[str, Any]) -> str:
    """Describe in one line how a run's images differ from those that its pretrained weights expect.

    Args:
        backbone: The network; only those of timm tell what their pretrained weights expect.
        facts: The run's ``normalization`` (mean and std), and the data module's settings ``kwargs``.

    Returns:
        Both, and the flags that mend it where the data module has such settings; empty if nothing differs.
    """
    if not isinstance(backbone, TimmBackbone) or not backbone.trained_on:
        return ""
    mean, std = facts.get("normalization") or (None, None)
    order = (facts.get("preprocessing") or {}).get("channel_order", "rgb")
    found = {"image_size": backbone.input_size, "mean": mean, "std": std, "channel_order": order}
    wanted = {**backbone.trained_on, "channel_order": "rgb"}  # all weights of timm
    differing = [name for name, value in found.items() if value is not None and not _close(value, wanted[name])]
    settings = facts.get("kwargs", {})
    flags = [f'--data.{name} "{_short(wanted[name])}"' for name in differing if name in settings]
    if "image_size" in differing and "image_size" not in settings:
        flags.append(f"--model.backbone.input_size {wanted['image_size']}")
    remedy = f". To match: {' '.join(flags)}" if flags else ""
    pairs = [f"{name} {_short(wanted[name])}, here {_short(found[name])}" for name in differing]
    return f"pretrained weights of {backbone.name} expect {'; '.join(pairs)}{remedy}" if pairs else ""


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, str):
        return bool(one == other)
    return torch.allclose(torch.tensor(one).double(), torch.tensor(other).double(), rtol=0, atol=1e-3)


def _short(value: Any) -> str:
    return str([round(each, 4) for each in value]) if isinstance(value, list | tuple) else str(value)


def local_path(source: str | Path, root: str | Path = ".") -> Path:
    """Return the file or folder that a name stands for; a repository of the Hub is downloaded. See `read_weights`."""
    text = str(source)
    if text in NAMES:
        return find_checkpoint(text, str(root), option=_SETTING).path
    if not is_hub_name(text):
        return Path(text)
    try:
        return download(text)
    except PretrainedError as error:
        raise SettingsError(expected(_SETTING, text, ACCEPTED, str(error).removeprefix(f"{text}: "))) from error


def read_weights(source: str | Path, root: str | Path = ".") -> dict[str, Tensor]:
    """Read the weights of a backbone; nothing that a file names is imported or run.

    Args:
        source: A checkpoint of this package by path or name (best, last, last-good), a folder that `save_pretrained`
            wrote, a state dict (.pt, .pth, .safetensors), alone or among what a training program saved, or the name
            of a Hugging Face repository, for which the extra ``hub`` must be installed.
        root: Folder that holds lightning_logs/, for names.

    Returns:
        Tensors on the CPU by name, finite. Of this package's files, those of the backbone.

    Raises:
        SettingsError: If it cannot be read.
        CheckpointError: If a checkpoint of this package is damaged.
        PretrainedError: If a folder is damaged.
    """
    path = local_path(source, root)
    text = str(path)
    if os.path.isdir(path):
        return _read_folder(path)
    if not os.path.isfile(path):
        raise SettingsError(expected(_SETTING, text, ACCEPTED, "There is no such file"))
    if path.suffix == ".safetensors":
        return _checked(path, _load_safetensors(path))
    if path.suffix not in _PICKLES:
        raise SettingsError(expected(_SETTING, text, ACCEPTED))
    content = _unpickle(path)
    if isinstance(content, Mapping) and "format_version" in content:
        return _of_backbone(read_checkpoint(path)["state_dict"])  # with all of its checks
    return _checked(path, _find_tensors(content))


def _read_folder(folder: Path) -> dict[str, Tensor]:
    if not (folder / WEIGHTS).is_file():
        raise SettingsError(expected(_SETTING, str(folder), ACCEPTED, f"The folder has no {WEIGHTS}"))
    try:
        config = MANIFEST.read(folder / CONFIG)
    except PretrainedError as error:
        if "damaged" in str(error):
            raise
        return _checked(folder / WEIGHTS, _load_safetensors(folder / WEIGHTS))  # another package's folder
    return _of_backbone(MANIFEST.read_tensors(folder / WEIGHTS, config["weights_sha256"]))


def _load_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise SettingsError(expected(_SETTING, str(path), ACCEPTED, f"It cannot be read: {error}")) from error


def _unpickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # about old formats
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile file can make torch raise anything
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if kind := re.search(r"GLOBAL (\S+) was not", str(error)):  # else torch says how to load it nevertheless
            reason = kind[1]
        fault = f"It is damaged, or holds more than tensors and plain values ({reason})"
        remedy = "Save the network's state_dict() alone"
        raise SettingsError(expected(_SETTING, str(path), ACCEPTED, f"{fault}. {remedy}")) from error


def _find_tensors(content: Any) -> Any:
    """Return the largest mapping of names to tensors among what a training program saved."""
    if not isinstance(content, Mapping):
        return {}
    tensors = {name: each for name, each in content.items() if isinstance(each, Tensor)}
    inner = [_find_tensors(content.get(key)) for key in _NESTED]
    return max([tensors, *inner], key=len)


def _of_backbone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if name.startswith("backbone.")}


def _checked(path: Path, weights: Mapping[Any, Tensor]) -> dict[str, Tensor]:
    if not weights:
        raise SettingsError(expected(_SETTING, str(path), ACCEPTED, "It holds no tensors by name"))
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or not is_finite(tensor):
            raise SettingsError(expected(_SETTING, str(path), "finite weights", f"{printable(name)} is not"))
    found = {str(name): tensor for name, tensor in weights.items()}
    # Training programs save their head and loss with the backbone
    return _of_backbone(found) if any(name.startswith("backbone.") for name in found) else found


def _renamings(saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return the weights under the names they may have in the network: as they are, without prefixes, with others."""
    starts = {name.partition(".")[0] + "." for name in wanted}
    added = ["", *(start for start in starts if start in _PREFIXES)]
    found = []
    for depth, prefix in product(range(5), added):
        renamed = {prefix + _stripped(name, depth): tensor for name, tensor in saved.items()}
        if len(renamed) == len(saved):  # no two weights of one name
            found.append(renamed)
    return found


def _stripped(name: str, depth: int) -> str:
    for _ in range(depth):
        name = next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), name)
    return name


def _num_fitting(names: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> int:
    return sum(name in wanted and tensor.shape == wanted[name].shape for name, tensor in names.items())


def description_of(source: str | Path) -> Mapping[str, Any]:
    """Return what a file of this package tells besides weights: ``backbone``, a spec, and ``preprocessing``, a dict.

    Empty for other files, and for what cannot be read.
    """
    is_saved = os.path.isdir(source) or Path(source).suffix == ".safetensors"
    try:
        content = as_checkpoint(source).content if is_saved else read_checkpoint(source)
        preprocessing = (content.get("data") or {}).get("preprocessing") or {}
        return {"backbone": content["hyper_parameters"].get("backbone"), "preprocessing": preprocessing}
    except (UserError, LookupError):
        return {}


def unlike_order(source: str | Path, facts: Mapping[str, Any]) -> str:
    """Describe in one line that a run gives its network another order of color channels than a file's run did.

    Args:
        source: The file that the network's weights come from.
        facts: The run's ``preprocessing`` and ``in_channels``.

    Returns:
        Both orders, and the flag that mends it; empty if nothing differs, or if the file does not tell.
    """
    saved, here = (each.get("preprocessing") for each in (description_of(source), facts))
    theirs, ours = ((each or {}).get("channel_order", "rgb") for each in (saved, here))
    if not saved or facts.get("in_channels") != 3 or theirs == ours:
        return ""
    both = f"{printable(source)} was trained in {theirs}, this run has {ours}"
    return f"data.channel_order: {both}. To match: --data.channel_order {theirs}"
