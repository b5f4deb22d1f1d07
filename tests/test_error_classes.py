"""Every class of errors that edgeclf has, wherever it is defined, crosses a process boundary as it is."""

import importlib
import pickle
import pkgutil

import pytest

from edgeclf.runtime.errors import EdgeclfError


def every_error_class():
    import edgeclf.export
    import edgeclf.runtime
    import edgeclf.toolkit
    import edgeclf.training

    for package in (edgeclf.runtime, edgeclf.export, edgeclf.training, edgeclf.toolkit):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            # The entrance runs the command line.
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found, left = [], [EdgeclfError]
    while left:
        cls = left.pop()
        found.append(cls)
        left.extend(cls.__subclasses__())
    return sorted({cls for cls in found if cls.__module__.startswith("edgeclf.")}, key=lambda cls: cls.__qualname__)


@pytest.mark.parametrize("cls", every_error_class(), ids=lambda cls: cls.__qualname__)
def test_an_error_is_the_same_on_the_other_side(cls):
    # Without its own arguments, which may be models and reports: what it stores of them travels with the rest.
    error = cls.__new__(cls, "what")
    EdgeclfError.__init__(error, "cannot read x", got="0 bytes", expected="an image", hint="copy it")
    error.facts = {"steps": 3}
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
    assert again.exit_code == error.exit_code


def test_classes_of_all_floors_are_among_them():
    floors = {cls.__module__.split(".")[1] for cls in every_error_class()}
    assert floors >= {"runtime", "export", "training"}
