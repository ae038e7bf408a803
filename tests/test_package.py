"""The package's own structure: public names, the rooms and the order in which they may import one another."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import arcface_pl
from arcface_pl.heads import HEADS

PACKAGE = Path(arcface_pl.__file__).parent
LOOSE = {"__init__", "__main__", "errors", "seeding"}
# A room may import from its own tier and the tiers before it.
TIERS = (
    {"errors", "seeding", "functional", "metrics"},
    {"heads", "backbones", "preprocessing", "checkpoints", "figures"},
    {"data"},
    {"evaluation"},
    {"recognizer", "callbacks"},
    {"training", "demo"},
    {"cli"},
    {"__main__"},
)
TIER = {room: number for number, rooms in enumerate(TIERS) for room in rooms}
# These are used without a Trainer
WITHOUT_LIGHTNING = ("functional", "metrics", "heads", "backbones", "preprocessing", "figures", "recognizer")


def test_every_public_name_is_there_and_every_head_is_public() -> None:
    for name in arcface_pl.__all__:
        assert getattr(arcface_pl, name).__name__ == name
    assert set(HEADS) <= set(arcface_pl.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(arcface_pl, "NoSuchHead")


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name below ``arcface_pl``."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that a file imports while it is itself imported, and those it imports later."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("arcface_pl"):
            base = (node.module or "").removeprefix("arcface_pl").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                yield inner if inner in known else base
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("arcface_pl."):
                    yield alias.name.removeprefix("arcface_pl.")


def test_the_package_has_no_loose_modules() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == LOOSE
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert rooms == set(TIER) - LOOSE


def test_public_names_are_listed_by_rooms_alone() -> None:
    """A module offers what has no underscore; ``__all__`` in ``__init__`` says what is for users."""
    listing = [name for name, path in modules().items() if "\n__all__ =" in path.read_text()]
    assert not [name for name in listing if modules()[name].name != "__init__.py"]


def test_rooms_import_downwards_only() -> None:
    known = modules()
    wrong = []
    for name, path in known.items():
        room = name.split(".")[0]
        for target in imports(path, known) if room else ():
            other = target.split(".")[0]
            if other and TIER[other] > TIER[room]:
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_rooms_have_no_import_circle() -> None:
    known, edges = modules(), defaultdict(set)
    for name, path in known.items():
        room = name.split(".")[0]
        for target in imports(path, known) if room else ():
            if target.split(".")[0] not in ("", room):
                edges[room].add(target.split(".")[0])

    def walk(room: str, way: tuple[str, ...]) -> None:
        assert room not in way, f"circle: {' -> '.join((*way, room))}"
        for other in edges[room]:
            walk(other, (*way, room))

    for room in list(edges):
        walk(room, ())


def test_private_modules_are_imported_by_their_own_room_only() -> None:
    known = modules()
    wrong = []
    for name, path in known.items():
        for target in imports(path, known):
            package, private, _ = f".{target}".partition("._")
            if private and not f".{name}".startswith(package):
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_the_lower_rooms_do_without_lightning() -> None:
    for room in WITHOUT_LIGHTNING:
        for path in (PACKAGE / room).rglob("*.py"):
            assert "import lightning" not in path.read_text(), path
            assert "from lightning" not in path.read_text(), path


def test_no_two_files_share_a_name() -> None:
    """A metric's class and its function share theirs, as a command's script does; every room may have a base."""
    by_name = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        if path.stem not in ("__init__", "base"):
            by_name[path.stem].append(str(path.relative_to(PACKAGE).parent))
    doubles = {name: places for name, places in by_name.items() if len(places) > 1}
    assert all(set(places) == {"metrics", "metrics/functional"} for places in doubles.values()), doubles


def test_each_kind_of_fault_is_in_the_table() -> None:
    tests = Path(__file__).parent
    listed = re.findall(r"^\| `(test_\w+\.py)` \| .* \| \d+ \|$", (tests / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (tests / "faults").glob("test_*.py"))
