"""The house: no circles, no room too large, and a library that knows no command line."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.test_imports import MODULES, ROOT, room_of

MAX_LINES, MAX_FILES = 400, 12
FILES = {param.values[0]: param.values[1] for param in MODULES}


def imports(file):
    """Every module of ours that a file imports, anywhere in it but for types alone."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in FILES else node.module


@pytest.fixture(scope="module")
def arrows():
    """module: the modules of ours that it imports."""
    return {name: {o for o in imports(file) if o in FILES} - {name} for name, file in FILES.items()}


def test_no_module_imports_itself_in_a_circle(arrows):
    floors = {}

    def floor(name, above):
        assert name not in above, f"a circle: {' -> '.join([*above[above.index(name) :], name])}"
        if name not in floors:
            floors[name] = 1 + max((floor(o, [*above, name]) for o in arrows[name]), default=0)
        return floors[name]

    assert max(floor(name, []) for name in arrows) < 25


def test_folders_side_by_side_look_one_way(arrows):
    folder = {name: file.parent for name, file in FILES.items()}
    pairs = {(folder[a], folder[b]): (a, b) for a, others in arrows.items() for b in others}
    for (one, other), (a, b) in pairs.items():
        nested = one.is_relative_to(other) or other.is_relative_to(one)
        if not nested and (back := pairs.get((other, one))):
            raise AssertionError(f"{a} imports {b}, and {back[0]} imports {back[1]}")


@pytest.mark.parametrize(
    "folder", ["e2e_deploy", "train", "export", "runtime", "benchmarks", "examples"]
)
def test_no_file_and_no_folder_is_too_large(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    for file in files:
        lines = len(file.read_text(encoding="utf-8").splitlines())
        assert lines <= MAX_LINES, f"{file.relative_to(ROOT)} has {lines} lines"
    for place, count in Counter(file.parent for file in files).items():
        assert count <= MAX_FILES, f"{place.relative_to(ROOT)} holds {count} files"


def strings(tree):
    """Every text of a module, and the line it stands in; docstrings too, for they are what a library says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
OTHER_PROGRAMS = {
    "--upgrade",
    "--force-reinstall",
    "--no-deps",
    "--version",
}  # of pip and compilers


@pytest.mark.parametrize(("name", "file"), MODULES)
def test_the_library_names_no_option_of_the_command_line(name, file):
    if room_of(name) == "e2e_deploy.cli" or name == "e2e_deploy.version":
        return
    for line, text in strings(ast.parse(file.read_text(encoding="utf-8"))):
        found = set(FLAG.findall(text)) - OTHER_PROGRAMS
        assert not found, f"{file.relative_to(ROOT)}:{line} says {', '.join(sorted(found))}"


def test_the_static_test_sees_options():
    assert FLAG.findall("use --device cpu, e2e-deploy x--y or a--b; -h; --json.") == [
        "--device",
        "--json",
    ]
    assert Path(__file__).name == "test_structure.py"
