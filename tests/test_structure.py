"""The house stays a house: folders that one sees at a glance, wings that say what they are for, no circles."""

import ast
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("toolkit", "training", "export", "runtime")
MOST_ENTRIES = 14
# Flat lists of things of one kind, each read on its own.
REGISTRIES = {"toolkit/commands", "training/networks", "toolkit/doctor/checks"}


def folders(*roots):
    """Every folder with Python modules below the roots, as a path relative to the checkout."""
    found = {file.parent for root in roots for file in (ROOT / root).rglob("*.py")}
    return sorted(folder.relative_to(ROOT).as_posix() for folder in found)


def entries(folder):
    """The modules and sub-packages of a folder; `__init__`, markers and caches do not count."""
    modules = {file.name for file in folder.glob("*.py") if file.name not in {"__init__.py", "__main__.py"}}
    return modules | {child.name for child in folder.iterdir() if child.is_dir() and any(child.rglob("*.py"))}


@pytest.mark.parametrize("folder", folders(*FLOORS, "benchmarks", "tests"))
def test_a_folder_has_at_most_fourteen_entries(folder):
    found = entries(ROOT / folder)
    if folder not in REGISTRIES:
        assert len(found) <= MOST_ENTRIES, sorted(found)


def test_entries_count_modules_and_packages_alone(tmp_path):
    for name in ("__init__.py", "one.py", "py.typed", "__pycache__/one.pyc", "page/page.js", "two/__init__.py"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    assert entries(tmp_path) == {"one.py", "two"}


@pytest.mark.parametrize("folder", folders(*FLOORS))
def test_a_wing_says_in_its_first_line_what_it_is_for(folder):
    text = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    first = text.split("\n")[0]
    assert first.endswith("."), first
    assert len(first.split()) >= 5, first


def test_no_module_imports_itself_in_a_circle():
    graph = grimp.build_graph(*(f"edgeclf.{floor}" for floor in FLOORS))
    assert {module.split(".")[1] for module in graph.modules} == set(FLOORS)
    # Modules that nobody imports, or that import nobody, are in no circle: taken away until none is left.
    left = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    while True:
        imported = set().union(*left.values())
        gone = {module for module in left if module not in imported or not left[module]}
        if not gone:
            break
        left = {module: imports - gone for module, imports in left.items() if module not in gone}
    assert not left, sorted(left)


def test_the_picture_of_the_house_shows_the_code():
    command = [sys.executable, str(ROOT / "docs" / "draw_house.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
