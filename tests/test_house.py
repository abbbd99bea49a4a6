"""The house: rooms stand on floors, and look only down."""

import ast
from pathlib import Path

import pytest

import gander

ROOT = Path(gander.__file__).parent
# The floors of docs/architecture.md. A room is a folder or a file of the package.
FLOORS = [
    "errors files distributed draws attention layers losses penalties consistency cutmix optimizers probes grids signals metrics "
    "charts",
    "run data models look",
    "train figures report",
    "recipes",
    "estimate doctor sampling predicting scoring serving training lr_finder looking explorer study",
    "verbs",
    "cli",
    "__main__",
]
ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
# What a room may take from its own floor: the ground that all of floor 0 stands on, and what is said in DESIGN.
NEIGHBOURS = {room: {"errors", "files", "distributed", "draws"} for room in FLOORS[0].split()}
NEIGHBOURS["attention"] |= {"layers"}
NEIGHBOURS |= {
    "doctor": {"estimate"},
    "training": {"scoring"},
    "study": {"training", "scoring", "estimate"},
    "scoring": {"sampling", "predicting"},
    "lr_finder": {"training"},
    "serving": {"sampling"},
    "looking": {"sampling"},
    "explorer": {"sampling", "looking"},
}
FILES = sorted(ROOT.rglob("*.py"))


def room_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(file: Path):
    """(room, line) of every import from gander in a file, wherever it stands."""
    package = ["gander", *file.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            modules = [f"{module}.{alias.name}" for alias in node.names] if module == "gander" else [module]
        else:
            continue
        for module in modules:
            if module.startswith("gander."):
                yield module.split(".")[1], node.lineno


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_rooms_look_only_down(file):
    here = room_of(file)
    if here == "__init__":
        assert not list(imports(file)), "import gander loads no room"
        return
    assert here in ROOMS, f"{here} has no floor: give it one here and in docs/architecture.md"
    for there, line in imports(file):
        if there in (here, "__version__"):
            continue
        assert there in ROOMS, f"{file.name}:{line} imports gander.{there}, which has no floor"
        below = ROOMS[there] < ROOMS[here] or there in NEIGHBOURS.get(here, ())
        assert below, f"{file.name}:{line}: {here} (floor {ROOMS[here]}) may not import {there} (floor {ROOMS[there]})"


def test_the_guard_sees_an_upward_import(tmp_path, monkeypatch):
    """The law above can fail: a ground-floor file that imports train is found."""
    (tmp_path / "losses.py").write_text("from gander.train import fit\nfrom gander import run\n")
    monkeypatch.setattr("test_house.ROOT", tmp_path)
    assert [there for there, _ in imports(tmp_path / "losses.py")] == ["train", "run"]


def test_files_are_one_story():
    long = {str(f.relative_to(ROOT)): n for f in FILES if (n := len(f.read_text().splitlines())) > 400}
    assert not long, f"split them: {long}"
    assert not [f for f in FILES if f.stem in ("utils", "util", "helpers", "common", "misc")]


def test_the_architecture_page_names_every_room():
    page = (ROOT.parent / "docs" / "architecture.md").read_text()
    lacking = {room_of(f) for f in FILES} - {"__init__", "__main__"} - {room for room in ROOMS if room in page}
    assert not lacking, f"docs/architecture.md does not name {lacking}"
