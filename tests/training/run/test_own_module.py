"""The module of a network that the user wrote: imported from where the user is, never because a run folder names it."""

import importlib
import itertools
import json
import os
import sys

import pytest

from edgeclf.runtime.errors import EdgeclfError, RunFolderError, UsageError
from edgeclf.training.run.own_module import NETWORK_FILE, check_own_network, find_module
from edgeclf.training.run.saved_network import own_objects

NUMBERS = itertools.count()
CODE = "from pathlib import Path\nPath({ran!r}).touch()\ndef build(classes): ...\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder, which is the current one; what has been imported there is forgotten."""
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    importlib.invalidate_caches()
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {"sent", "run", "networks", "nets"} or "own_module_" in name:
            del sys.modules[name]


@pytest.fixture
def name(tmp_path):
    """A name that no module has had."""
    return f"own_module_{os.getpid()}_{next(NUMBERS)}"


def write_module(path, ran):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(CODE.format(ran=str(ran)), encoding="utf-8")
    importlib.invalidate_caches()


def write_run(folder, module):
    """A run folder with the copy of a module."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NETWORK_FILE).write_bytes(module.read_bytes())


# Where the run and the module lie, seen from the current folder; `*` stands for a name that no module has had.
BESIDE_THE_RUN = [
    ("sent/run", "sent/*.py", "*"),
    ("sent/run", "sent/*.py", "sent.*"),
    ("sent/runs/run", "sent/code/*.py", "sent.code.*"),
    ("run", "run/*.py", "run.*"),
    ("run", "run/deep/*.py", "run.deep.*"),
    ("sent/run", "sent/*/__init__.py", "sent.*"),
    ("sent/run", "sent/*/__init__.py", "sent.*.inner"),
    ("link/run", "sent/*.py", "sent.*"),
]
OF_THE_USER = [
    ("run", "*.py", "*"),
    ("runs/mine", "*.py", "*"),
    ("runs/mine", "networks/*.py", "networks.*"),
    ("runs/mine", "*/__init__.py", "*"),
    ("../runs/mine", "*.py", "*"),
    ("../runs/mine", "networks/deep/*.py", "networks.deep.*"),
]


def lay_out(place, run, file, module, name):
    here = place / "here"
    here.mkdir()
    os.chdir(here)
    ran, file = place / "ran", here / file.replace("*", name)
    write_module(file, ran)
    if run.startswith("link"):
        (here / "link").symlink_to(here / "sent", target_is_directory=True)
    write_run(here / run, file)
    return here / run, f"{module.replace('*', name)}:build", ran


@pytest.mark.parametrize(("run", "file", "module"), BESIDE_THE_RUN)
def test_a_module_that_came_with_the_run_is_never_imported(place, name, run, file, module):
    folder, network, ran = lay_out(place, run, file, module, name)
    recorded = place / "here" / file.replace("*", name).rpartition("/")[0]
    with pytest.raises((RunFolderError, UsageError)) as refused:
        check_own_network(folder, network, recorded, may_use_folder=False)
    assert str(refused.value).count("\n") == 0
    found, error = own_objects(folder, network)
    assert (found, isinstance(error, EdgeclfError)) == ({}, True)
    assert not ran.exists()
    assert not [path for path in sys.path if str(place) in path]


@pytest.mark.parametrize(("run", "file", "module"), OF_THE_USER)
def test_a_module_of_the_current_folder_is(place, name, run, file, module):
    folder, network, ran = lay_out(place, run, file, module, name)
    check_own_network(folder, network, None, may_use_folder=False)
    assert ran.exists()
    assert "build" in own_objects(folder, network)[0]


def test_the_folder_of_the_beginning_is_taken_where_the_user_names_the_network_again(place, name, tmp_path):
    code, ran = tmp_path / "code", tmp_path / "ran"
    write_module(code / f"{name}.py", ran)
    run = tmp_path / "runs" / "mine"
    write_run(run, code / f"{name}.py")
    with pytest.raises(RunFolderError, match=rf"no module '{name}'.*--arch {name}:build.*{code}\b") as refused:
        check_own_network(run, f"{name}:build", code, may_use_folder=False)
    assert not ran.exists()
    assert "Traceback" not in str(refused.value)
    check_own_network(run, f"{name}:build", code, may_use_folder=True)
    assert ran.exists()


def test_a_package_beside_the_run_is_taken_where_the_user_names_the_network_again(place, name):
    folder, network, ran = lay_out(place, "sent/run", "sent/nets/*.py", "nets.*", name)
    with pytest.raises(RunFolderError, match=f"no module 'nets.{name}'"):
        check_own_network(folder, network, place / "here" / "sent", may_use_folder=False)
    check_own_network(folder, network, place / "here" / "sent", may_use_folder=True)
    assert ran.exists()


def test_nor_then_is_a_package_that_is_the_run_folder(place, name):
    folder, network, ran = lay_out(place, "sent/run", "sent/run/*.py", "run.*", name)
    with pytest.raises(UsageError, match="not imported from its run folder"):
        check_own_network(folder, network, place / "here" / "sent", may_use_folder=True)
    assert not ran.exists()


@pytest.mark.parametrize("inside", ["", "deep"])
def test_nor_then_is_the_run_folder_itself(place, name, tmp_path, inside):
    run, ran = tmp_path / "mine", tmp_path / "ran"
    write_module(run / inside / f"{name}.py", ran)
    write_run(run, run / inside / f"{name}.py")
    with pytest.raises(UsageError, match="not imported from its run folder"):
        check_own_network(run, f"{name}:build", run / inside, may_use_folder=True)
    assert not ran.exists()


def test_a_folder_on_the_path_is_the_users_choice(place, name, tmp_path, monkeypatch):
    code, ran = tmp_path / "sent" / "code", tmp_path / "ran"
    write_module(code / f"{name}.py", ran)
    write_run(tmp_path / "sent" / "run", code / f"{name}.py")
    monkeypatch.syspath_prepend(str(code))
    check_own_network(tmp_path / "sent" / "run", f"{name}:build", None, may_use_folder=False)
    assert ran.exists()


def test_finding_a_module_runs_nothing_of_it(place, name):
    write_module(place / name / "__init__.py", place / "ran")
    (place / name / "inner.py").write_text("")
    assert find_module(f"{name}.inner") == [place / name / "__init__.py", place / name / "inner.py"]
    assert find_module(f"{name}.absent") == [place / name / "__init__.py"]
    assert find_module("json.decoder")[-1].name == "decoder.py"
    assert find_module("sys") == []
    assert not (place / "ran").exists()
    assert json.dumps(1)
