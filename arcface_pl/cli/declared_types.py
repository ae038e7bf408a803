"""Types of constructors' arguments, read from the source: importing torch and lightning takes seconds."""

import ast
import functools
import operator
import types
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

_PLAIN: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str}
_READ = ("arcface_pl", "lightning", "torch")


def declared_type(path: str, argument: str) -> Any:
    """Return the type that a class declares for an argument; None where it is not made of plain types, or not found.

    Args:
        path: Dotted name of a class of this package, lightning or torch.
        argument: One of its constructor's, or of that of a base class that its ``**kwargs`` go to.
    """
    module, _, name = path.rpartition(".")
    try:
        return _type(*_annotation(module, name, argument))
    except (LookupError, OSError, SyntaxError):
        return None


def is_defined(path: str) -> bool:
    """Return whether there is such a name in a module of this package, lightning or torch."""
    module, _, name = path.rpartition(".")
    try:
        return bool(_definition(module, name))
    except LookupError:
        return False


def parameters(path: str) -> list[str] | None:
    """Return the names of the arguments of a class, with those of the base classes that its ``**kwargs`` go to.

    Args:
        path: Dotted name of a class of this package, lightning or torch.

    Returns:
        The names in their order; None where any name is taken, or the class is not found.
    """
    module, _, name = path.rpartition(".")
    found: dict[str, None] = {}
    try:
        for _, method in _constructors(module, name):
            found |= dict.fromkeys(each.arg for each in _arguments(method))
            if method.args.kwarg is None:
                return [*found]
    except (LookupError, OSError, SyntaxError):
        pass
    return None


@cache
def _tree(module: str) -> tuple[ast.Module, bool]:
    """Parse a module; also returns whether it is a package."""
    package, *below = module.split(".")
    spec = find_spec(package) if package in _READ else None  # of a package without dots, which imports nothing
    if spec is None or spec.origin is None:
        raise LookupError(module)
    path = Path(spec.origin).parent.joinpath(*below)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8")), path.is_dir()


def _definition(module: str, name: str) -> tuple[str, ast.AST]:
    """Return what a name stands for in a module: a class, or the expression that is assigned; and where it is."""
    tree, is_package = _tree(module)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.Assign) and [ast.unparse(each) for each in node.targets] == [name]:
            return module, node.value
        if isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            parents = parts[: len(parts) - node.level + is_package] if node.level else []
            for each in node.names:
                if (each.asname or each.name) == name:
                    return _definition(".".join([*parents, *filter(None, [node.module])]), each.name)
    raise LookupError(name)


def _constructors(module: str, name: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield the constructor of a class and those of its first base classes, each with the module whose names it has."""
    while True:
        module, node = _definition(module, name)
        if not isinstance(node, ast.ClassDef) or node.decorator_list:
            raise LookupError(name)
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                yield module, method
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        if not bases:
            return
        name = bases[0]


def _arguments(method: ast.FunctionDef) -> list[ast.arg]:
    """Return the arguments of a method after ``self``."""
    return [*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs][1:]


def _annotation(module: str, name: str, argument: str) -> tuple[str, ast.AST]:
    """Return the annotation of a constructor's argument, and the module whose names it has."""
    for place, method in _constructors(module, name):
        for each in _arguments(method):
            if each.arg == argument:
                return place, each.annotation or ast.Name("Any")
        if method.args.kwarg is None:
            break
    raise LookupError(argument)


def _type(module: str, node: ast.AST) -> Any:
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Name(id=name) if name in _PLAIN:
            return _PLAIN[name]
        case ast.Name(id=name):
            return _type(*_definition(module, name))
        case ast.BinOp(op=ast.BitOr()):
            return _union(module, [node.left, node.right])
        case ast.Subscript(value=ast.Name(id="Optional")):
            return _union(module, [node.slice, ast.Constant(None)])
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=members)):
            return _union(module, members)
        case ast.Subscript(value=ast.Name(id="Literal")):
            return Literal[ast.literal_eval(node.slice)]
        case ast.Subscript(value=ast.Name(id="list")):
            return types.GenericAlias(list, _type(module, node.slice))
    raise LookupError(ast.unparse(node))


def _union(module: str, members: list[Any]) -> Any:
    """Join types; tensors, which settings cannot be, are left out."""
    plain = [each for each in members if not (isinstance(each, ast.Name) and each.id == "Tensor")]
    return functools.reduce(operator.or_, [_type(module, each) for each in plain])
