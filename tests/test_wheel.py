"""The built wheel holds every package on disk and nothing else, and works where it is installed."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("toolkit", "training", "export", "runtime")


def listed_packages():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.split("\n[tool.setuptools]\n")[1].split("\n[")[0]
    (block,) = re.findall(r"packages = \[(.*?)\]", section, re.DOTALL)
    return set(re.findall(r'"(edgeclf[\w.]+)"', block))


def modules_on_disk():
    files = [file for floor in FLOORS for file in (ROOT / floor).rglob("*.py")]
    return {"edgeclf/" + file.relative_to(ROOT).as_posix() for file in files}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # From a copy: setuptools leaves a build folder, whose stale files a later wheel would carry.
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", *FLOORS):
        target = source / name
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the wheel's files and nothing of the checkout."""
    target = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-index",
        "--no-deps",
    ]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True)
    return target


def test_every_folder_with_modules_is_listed():
    folders = {Path(name).parent.as_posix().replace("/", ".") for name in modules_on_disk()}
    assert folders == listed_packages()


def test_every_package_on_disk_is_a_regular_one():
    for package in listed_packages():
        folder = ROOT / package.removeprefix("edgeclf.").replace(".", "/")
        assert (folder / "__init__.py").is_file(), package


def test_the_wheel_holds_the_modules_the_markers_and_its_metadata(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    metadata = {name for name in names if re.match(r"edgeclf-[\w.]+\.dist-info/", name)}
    page = {"edgeclf/" + file.relative_to(ROOT).as_posix() for file in (ROOT / "toolkit/serve/page").iterdir()}
    assert set(names) - metadata == modules_on_disk() | page | {f"edgeclf/{floor}/py.typed" for floor in FLOORS}
    assert {name.split("/", 1)[1] for name in metadata} >= {"METADATA", "RECORD", "WHEEL", "entry_points.txt"}
    assert len(names) == len(set(names))


def test_the_wheel_needs_only_the_base_packages_without_extras(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    needs = re.findall(r"^Requires-Dist: (.*)$", archive.read(name).decode(), re.MULTILINE)
    base = sorted(re.split(r"[<>=!~; ]", need)[0] for need in needs if "extra ==" not in need)
    assert base == ["numpy", "rich", "typer"]


def test_training_for_8_bits_finds_what_an_export_finds(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    needs = re.findall(r"^Requires-Dist: (\S+); extra == .(\w+).$", archive.read(name).decode(), re.MULTILINE)
    of_extra = {extra: {need for need, other in needs if other == extra} for extra in ("train", "export")}
    # A network is converted and cut into 8-bit values as export does it, where only [train] is installed.
    assert of_extra["export"]
    assert of_extra["export"] <= of_extra["train"]


def run_installed(installed, *arguments):
    """Runs Python with the wheel's folder in place of the checkout, far away from the checkout."""
    # An editable install puts a finder behind the path, so what is on the path wins; the test below makes sure.
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=installed,
        env=environment,
    )


def test_the_installed_wheel_is_what_runs(installed, wheel):
    program = "import edgeclf.runtime, edgeclf.toolkit, json\nprint(json.dumps([edgeclf.runtime.__file__, edgeclf.toolkit.__file__, *edgeclf.__path__]))"
    done = run_installed(installed, "-c", program)
    assert done.returncode == 0, done.stderr
    runtime, toolkit, first, *_ = json.loads(done.stdout)
    assert Path(runtime) == installed / "edgeclf" / "runtime" / "__init__.py"
    assert Path(toolkit) == installed / "edgeclf" / "toolkit" / "__init__.py"
    assert Path(first) == installed / "edgeclf"


def test_the_installed_command_runs(installed, wheel, colour_model):
    script = installed / "bin" / "edgeclf"
    version = run_installed(installed, script, "--version")
    assert (version.returncode, version.stdout) == (0, f"edgeclf {wheel.name.split('-')[1]}\n")
    info = run_installed(installed, script, "info", colour_model, "--json")
    assert info.returncode == 0, info.stderr
    assert json.loads(info.stdout)["spec"]["labels"] == ["red", "green", "blue"]


def test_every_module_of_the_wheel_can_be_imported_or_names_its_package(installed):
    program = """
import importlib, pkgutil, edgeclf
from edgeclf.runtime.errors import MissingPackageError
for item in pkgutil.walk_packages(edgeclf.__path__, "edgeclf."):
    if item.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(item.name)
    except MissingPackageError:
        pass
    print(item.name)
"""
    done = run_installed(installed, "-c", program)
    assert done.returncode == 0, done.stderr
    assert {"edgeclf.runtime.session.session", "edgeclf.toolkit.commands.info"} <= set(done.stdout.split())
