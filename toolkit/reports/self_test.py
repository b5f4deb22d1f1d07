"""The self-test of a model file as a table, a sentence, and an error."""

from typing import TYPE_CHECKING

from edgeclf.toolkit.console import print_table

if TYPE_CHECKING:
    from edgeclf.runtime import SelfTestResult


def print_self_test(title: str, result: "SelfTestResult") -> None:
    """Prints what each golden input should have given, and gave."""
    rows = [
        [
            f"{number}",
            item.expected_label,
            item.label,
            f"{item.error:.1e}",
            f"{result.tolerance:.1e}",
            "passed" if item.error <= result.tolerance else "failed",
        ]
        for number, item in enumerate(result.items, start=1)
    ]
    print_table(title, ["input", "label there", "label here", "max error of ln p", "tolerance", "verdict"], rows)


def self_test_sentence(result: "SelfTestResult") -> str:
    """One line about a self-test that passed."""
    return (
        f"self-test passed: on {len(result.items)} golden inputs the file computes here what it computed where it was made "
        f"(largest error {result.error:.1e}, tolerance {result.tolerance:.1e})"
    )


def check_self_test(model: str, result: "SelfTestResult") -> None:
    """Nothing for a self-test that passed.

    Raises:
        GateError: It did not.
    """
    from edgeclf.runtime.errors import GateError

    if result.passed:
        return
    failed = sum(not item.error <= result.tolerance for item in result.items)
    raise GateError(
        f"{model} does not compute here what it computed where it was made",
        got=f"{failed} of {len(result.items)} golden inputs with an error of ln p above {result.tolerance:.1e}, "
        f"the largest {result.error:.1e} ({result.provider})",
        hint="copy the file again, try --device cpu, or compare it on images: edgeclf verify MODEL DATA --against RUN_OR_MODEL",
    )
