"""The public names: each there, documented, and listed in the README."""

import inspect
from pathlib import Path

import pytest

from edgeclf import runtime

README = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", runtime.__all__)
def test_a_public_name_is_documented_and_listed(name):
    value = getattr(runtime, name)
    # A union of classes has no docstring of its own.
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__name__ == name
        assert value.__module__.startswith("edgeclf.runtime.")
        assert inspect.getdoc(value)
    assert f"`{name}`" in README


def test_nothing_else_is_public():
    assert set(dir(runtime)) >= set(runtime.__all__)
    with pytest.raises(AttributeError, match="no attribute 'classify_jobs'"):
        _ = runtime.classify_jobs
