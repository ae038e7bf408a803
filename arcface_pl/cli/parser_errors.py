"""jsonargparse as this package sets it up, and its reports as one line; imports no torch."""

import re
from difflib import get_close_matches
from typing import Any

from jsonargparse import ArgumentParser, set_dumper, set_loader

from arcface_pl.cli.aliases import meant_by
from arcface_pl.cli.config import dump_yaml, parse_yaml
from arcface_pl.cli.layers import import_class

# Flags and lists in flags follow the same YAML as config files
set_loader("arcface_pl", parse_yaml, exceptions=(ValueError,))
set_dumper("arcface_pl", dump_yaml)
PARSER: dict[str, Any] = {"exit_on_error": False, "parser_mode": "arcface_pl"}

_CLASS_PROBLEM = r"^( *)- Problem with given class_path .*\n(?:\1 +.*\n?)*"

# Written out, so that a misspelled name need not wait for torch; tests/cli compares them with the registries
_CLASSES = {
    "model.backbone": "FastCNN, IResNet, MobileFaceNet, SimpleCNN, SmallResNet, TimmBackbone, TorchvisionBackbone, or "
    "the full path of a class",
    "model.head": "AdaFaceHead, ArcFaceHead, CombinedMarginHead, CosFaceHead, CurricularFaceHead, ElasticFaceHead, "
    "LinearHead, MagFaceHead, NormalizedSoftmaxHead, SphereFaceHead, or the full path of a class",
    "model.optimizer": "an optimizer of torch.optim by name, such as AdamW, or the full path of a class",
    "model.lr_schedule": "Constant, Cosine, OneCycle, WarmUp, a schedule of torch.optim.lr_scheduler by name, such as "
    "StepLR, or the full path of a class",
}


def explain(message: str) -> str:
    """Condense jsonargparse's nested report to "full.name: got value; expected ..."; it has no structured one."""
    # A list of callbacks is tried first, with the class that was named; then a single one, with the base class
    for other in reversed([*re.finditer(_CLASS_PROBLEM, message, re.MULTILINE)][1:]):
        message = message[: other.start()] + message[other.end() :]
    keys = re.findall(r'(?:Parser key|Key) "([^"]+)"', message)
    name = ".".join(part for key in keys for part in key.split(".") if part != "init_args")
    classes = re.findall(r"class_path'?[ =:]+'([\w.]+)'", message)
    if (function := re.search("dot import path string: (.*)", message)) and "typing.Callable" in message:
        return f"{name}: got {function[1]}; expected {_CLASSES.get(name, 'the full path of a function')}"
    if option := re.search(r"Option '([^']+)' is not accepted", message):
        return _unknown_option(name, option[1], next(filter(import_class, reversed(classes)), ""))
    if flag := re.search(r"argument --(\S+\.help): expected one argument", message):
        return f"{flag[1]}: needs a value, the name or full path of a class"
    if flag := re.search(r"unrecognized arguments: --([^\s=]+)", message):
        return f"{flag[1]}: unknown; --help_all lists every setting"
    if required := re.search(r"arguments are required: ([\w.]+)", message):
        full = ".".join(filter(None, (name, required[1])))
        return f"{full}: not set; give --{full}"
    if form := re.search(r'Not of type \w+: Expected (.*?) but got "?(.*?)"?$', message, re.MULTILINE):
        return f"{name}: got {form[2]}; expected {form[1]}"
    values = re.findall(
        r"(?:Got value:|Given value:|import path string:|Import path|No module named) (.*?)(?: does not|\. Got|$)",
        message,
        re.MULTILINE,
    )
    if not values and "has no attribute" in message:
        values = classes[-1:]
    single = re.search(r"Expected an? (.*?)(?:, but got.*)?\. Got value: ", message)
    innermost = re.split(r'(?:Parser key|Key) "', message)[-1]
    union = re.search(r"Subtypes: \[(.*)\]", innermost) or re.search(r"Subtypes: \[(.*)\]", message)
    accepted = plain_types(single[1]) if single else plain_types(union[1]) if union else ""
    if values and accepted and not re.search(r"\b[a-z_]+\.\w|subclass spec", accepted):
        return f"{name}: got {values[0].strip()}; expected {accepted}"
    if values and (accepted or re.search(r"subclass|import path|No module|has no attribute", message)):
        null = ", or null" if accepted.endswith("null") else ""
        is_named = "class_path" in values[0] or "No module named" in innermost
        got = classes[-1] if classes and is_named else values[0].strip()
        return f"{name}: got {got}; expected {class_names(name)}{null}"
    detail = plain_types(" ".join(line.strip() for line in message.splitlines()))
    return f"{name}: {detail}" if name and name not in detail else detail


def _unknown_option(place: str, option: str, path: str) -> str:
    cls = import_class(path)
    parser = ArgumentParser(exit_on_error=False)
    names = parser.add_class_arguments(cls, "at", fail_untyped=False) if cls is not None else []
    return unknown_option(place, option, path.rpartition(".")[2], [each.removeprefix("at.") for each in names])


def unknown_option(place: str, option: str, class_name: str, parameters: list[str]) -> str:
    """Say that a class has no such argument, which it has, and which may have been meant.

    Args:
        place: Full name of the setting that chooses the class.
        option: The argument that was given.
        class_name: Its name, without the module.
        parameters: Those of its constructor.
    """
    known = [each for each in parameters if each not in ("params", "optimizer", "last_epoch")]
    near = get_close_matches(option, known, n=1)
    last = meant_by(option).rpartition(".")[2]
    near = [last] if last in known else near
    hint = f"; did you mean {place}.{near[0]}?" if near else ""
    accepted = f" ({class_name} accepts {', '.join(known)})" if known else ""
    return f"{place}.{option}: unknown{hint}{accepted}"


def class_names(place: str) -> str:
    """Return what a place where a class goes, such as model.head, accepts."""
    return _CLASSES.get(place, "the name or full path of a class")


def plain_types(text: str) -> str:
    """Write Python's types as a config has them.

    Args:
        text: Their names, such as ``Optional[int]`` or ``<class 'float'>``, among other words.

    Returns:
        The text without what only a programmer reads.
    """
    text = re.sub(r"<class '(?:builtins\.)?([\w.]+)'>", r"\1", text)
    text = re.sub(r"(?:collections\.abc|typing)\.(?:Iterable|Sequence|List)\b", "list", text)
    choices = re.sub(r"(?:typing\.)?Literal\[([^\]]*)\]", lambda match: match.group(1).replace("'", ""), text)
    choices = choices.replace(", torch.Tensor", "")  # what a config cannot hold
    return choices.replace("NoneType", "null").replace("typing.", "")
