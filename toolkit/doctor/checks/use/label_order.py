"""Check of labels: names in another order than the outputs, names that are not the photographs', and no names at all."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeclf.toolkit.doctor.facts import Check, Facts, UseFacts
from edgeclf.toolkit.doctor.findings import Finding
from edgeclf.toolkit.doctor.remedies import use_model
from edgeclf.toolkit.doctor.use_analysis import Judgement, answers_of, judge_use, outputs_by_name

# Names in a title.
_NAMED = 8


def check_labels(facts: Facts) -> list[Finding]:
    """Labels in another order than the outputs, or by other names than the photographs' folders."""
    use = facts.use
    if use is None or not use.folders:
        return []
    judgement = use.derived(judge_use)
    if judgement is not None and judgement.follows_answers:
        return [_other_order(use, judgement)]
    by_name = outputs_by_name(use.folders, use.labels) if use.has_names else np.full(len(use.folders), -1)
    if judgement is None and (by_name < 0).all():
        return [_no_names(use)]
    missing = [folder for folder, output in zip(use.folders, by_name.tolist(), strict=True) if output < 0]
    found = []
    if missing:
        rows = [n for n, folder in enumerate(use.true.tolist()) if by_name[folder] < 0]
        found.append(
            Finding(
                "label-order",
                "warning",
                f"{_several(len(missing), 'class folder')} of the photographs {'is' if len(missing) == 1 else 'are'} no label of "
                f"{use.model}, {_names(missing)}: their {len(rows)} images were left out",
                _rename(use),
                {"unknown": missing, "images": len(rows), "labels": list(use.labels)},
                tuple(use.paths[row] for row in rows),
            )
        )
    return found


def _other_order(use: UseFacts, judgement: Judgement) -> Finding:
    """The finding where the answers show which output is which class, and the labels say otherwise or nothing."""
    answers = answers_of(use.trials[judgement.best].probabilities)
    order = judgement.by_answers.tolist()
    shares = {
        folder: {"output": output, "share": float((answers[use.true == number] == output).mean())}
        for number, (folder, output) in enumerate(zip(use.folders, order, strict=True))
        if output >= 0
    }
    accuracy = judgement.accuracy(judgement.best)
    by_output = {output: folder for folder, output in zip(use.folders, order, strict=True) if output >= 0}
    is_complete = len(by_output) == len(use.labels)
    names = [by_output.get(output, "") for output in range(len(use.labels))] if is_complete else None
    evidence: dict[str, Any] = {
        "images": judgement.count,
        "accuracy_by_answers": accuracy,
        "outputs": shares,
        "labels_now": list(use.labels),
        "labels_by_answers": names,
    }
    pairs = ", ".join(f"output {output} is {by_output[output]}" for output in sorted(by_output)[:_NAMED])
    more = ", …" if len(by_output) > _NAMED else ""
    is_named = use.has_names and any(output >= 0 for output in judgement.by_name.tolist())
    reason = (
        "the labels are in another order than the outputs" if is_named else "nothing names its outputs as the folders"
    )
    title = (
        f"{use.model}: {reason}; by its answers {pairs}{more}, which holds for {accuracy:.1%} of {judgement.count} photographs "
        "that were not used to find it"
    )
    severity = "problem" if is_named else "warning"
    changes = {**(use.trials[judgement.best].changes if judgement.is_better else {}), "--labels": "names.txt"}
    fix = _write_some(use, by_output, changes) if names is None else _write_labels(use, names, changes)
    return Finding("label-order", severity, title, fix, evidence, weight=accuracy)  # type: ignore[arg-type]  # one of two


def _write_labels(use: UseFacts, names: list[str], changes: Mapping[str, str]) -> str:
    if not use.is_foreign:
        return "Export it again from its run: its spec and its outputs do not belong together"
    sorting = " (which is their alphabetical order)" if names == sorted(names) else ""
    shown = ", ".join(names) if len(names) <= 2 * _NAMED else f"{', '.join(names[:_NAMED])}, …"
    return (
        f"Write the names one a line in the order {shown}{sorting} into a file names.txt and pass it, "
        f"{use_model(use, changes)}; --json has the whole list as labels_by_answers"
    )


def _write_some(use: UseFacts, by_output: dict[int, str], changes: Mapping[str, str]) -> str:
    if not use.is_foreign:
        return "Export it again from its run: its spec and its outputs do not belong together"
    return (
        f"Find the names of all {len(use.labels)} outputs in the order of its training, of which {len(by_output)} are shown by "
        f"these photographs, and pass them, {use_model(use, changes)}"
    )


def _no_names(use: UseFacts) -> Finding:
    labels = _names(list(use.labels)) if use.has_names else "none: its outputs are numbered"
    return Finding(
        "label-order",
        "warning",
        f"The class folders of the photographs, {_names(list(use.folders))}, are no labels of {use.model} ({labels}), and its "
        "answers do not show which output is which: nothing was compared",
        _rename(use),
        {"folders": list(use.folders), "labels": list(use.labels)},
    )


def _rename(use: UseFacts) -> str:
    if use.is_foreign:
        return (
            f"Pass names as the folders have them, {use_model(use, {'--labels': 'names.txt'})}, or rename the folders"
        )
    return "Rename the folders as the model names its classes"


def _names(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


CHECKS: tuple[Check, ...] = (
    Check(
        "label-order",
        "use",
        ("label-order",),
        "another order of a model file's labels, found on one half of the photographs, explains 20 % more of the other half "
        "than their names do (McNemar's test at 0.001) and more than chance; or class folders are no labels",
        check_labels,
    ),
)
