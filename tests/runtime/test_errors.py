import pickle

import pytest

from edgeclf.runtime import errors
from edgeclf.runtime.errors import EdgeclfError, GateError, MissingPackageError, UnavailableError, UsageError


def test_a_sentence_says_what_got_expected_and_do():
    error = EdgeclfError("cannot read x", got="0 bytes", expected="an image", hint="copy it again")
    assert str(error) == "cannot read x: got 0 bytes, expected an image; copy it again."


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({}, "it broke."),
        ({"got": "a"}, "it broke: got a."),
        ({"expected": "b"}, "it broke: expected b."),
        ({"hint": "c"}, "it broke; c."),
        ({"got": "two\nlines\tand tabs"}, "it broke: got two lines and tabs."),
    ],
)
def test_missing_parts_leave_no_trace(parts, sentence):
    assert str(EdgeclfError("it broke", **parts)) == sentence


def test_exit_codes_are_those_of_the_documentation():
    public = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, EdgeclfError)]
    assert {cls.__name__: cls.exit_code for cls in public if cls.exit_code != 3} == {
        "UsageError": 2,
        "GateError": 4,
        "UnavailableError": 5,
        "DeviceUnavailableError": 5,
        "MissingPackageError": 5,
    }
    assert len(public) > 8


def test_a_missing_package_is_an_import_error_too():
    # So that `try: import ...; except ImportError` in an application works as with any other package.
    with pytest.raises(ImportError):
        raise MissingPackageError("x is not installed")
    assert issubclass(MissingPackageError, UnavailableError)
    assert not issubclass(UsageError, ImportError)


def test_an_error_survives_a_process_boundary():
    error = pickle.loads(pickle.dumps(GateError("the gate failed")))
    assert (type(error), str(error)) == (GateError, "the gate failed.")
