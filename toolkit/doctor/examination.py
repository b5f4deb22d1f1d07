"""One look at a data set, or at a run with the data it was trained on: facts gathered, every check asked."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime.errors import EdgeclfError, MissingPackageError, RunFolderError
from edgeclf.runtime.progress import Progress
from edgeclf.toolkit.doctor.facts import SPLITS, DataFacts, Facts, ModelFacts, RunFacts
from edgeclf.toolkit.doctor.findings import Finding, most_important_first, split_remedy, summary
from edgeclf.toolkit.doctor.gather.data import MAX_FEATURES, gather_data
from edgeclf.toolkit.doctor.gather.thumbnails import ScanCache
from edgeclf.toolkit.doctor.registry import checks_for, examine
from edgeclf.training.data.dataset import Sample
from edgeclf.training.data.training_data import read_split
from edgeclf.training.run.folder import HISTORY_FILE, RUN_FILE, SPEC_FILE, SPLIT_FILE


@dataclass(frozen=True)
class ExaminationOptions:
    """How thoroughly to look.

    Attributes:
        max_images: Pictures that are looked at; None for all.
        max_features: Pictures that the pretrained network is shown; 0 for none.
        seed: Of samples.
        cache_folder: Where preprocessed pictures and features are kept; None takes the default.
        data: Where a run's images are now; None where they were.
        int8: An int8 file of the run, compared with its network; None for none.
    """

    max_images: int | None = None
    max_features: int = MAX_FEATURES
    seed: int = 0
    cache_folder: CacheFolder | None = None
    data: Path | None = None
    int8: Path | None = None


@dataclass(frozen=True, eq=False)
class Examination:
    """What the doctor saw and says.

    Attributes:
        subject: What was named.
        kind: Whether that is a data set or a run.
        facts: What is known of it.
        findings: Most important first.
        checks: Names of the checks that were asked.
    """

    subject: str
    kind: Literal["data", "run"]
    facts: Facts
    findings: tuple[Finding, ...]
    checks: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One sentence that a person can act on."""
        return summary(self.findings, self.subject)

    @property
    def has_problem(self) -> bool:
        """Whether a finding is a problem."""
        return any(finding.severity == "problem" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The examination as plain JSON values."""
        data = self.facts.data
        return {
            "subject": self.subject,
            "kind": self.kind,
            "summary": self.summary,
            "has_problem": self.has_problem,
            "data": None if data is None else data_json(data),
            "checks": list(self.checks),
            "findings": [finding.to_json() for finding in self.findings],
        }


def data_json(data: DataFacts) -> dict[str, Any]:
    """How much there is of a data set, and how much of it was looked at."""
    images = data.images
    return {
        "root": str(data.root),
        "classes": list(data.classes),
        "images": data.listed or len(images) + len(data.unreadable),
        "looked_at": len(images),
        "unreadable": len(data.unreadable),
        "shown_to_network": 0 if data.features is None else len(data.features.rows),
        "network": None if data.features is None else data.features.network,
        "parts": {part: len(images.rows_of(part)) for part in SPLITS if len(images.rows_of(part))},
    }


def is_run(path: Path) -> bool:
    """Whether a path is a run folder, finished or not."""
    # os.path, because Path raises for some impossible names.
    return any(os.path.isfile(path / name) for name in (RUN_FILE, SPEC_FILE)) and not os.path.isdir(path / "train")  # noqa: PTH112, PTH113


def examine_path(
    path: Path, settings: ExaminationOptions, progress: Progress, memory: ScanCache | None = None
) -> Examination:
    """Looks at a data set, or at a run folder and the data it was trained on.

    Args:
        path: Folder, CSV or run folder.
        settings: How thoroughly.
        progress: Told what is being done.
        memory: What was seen of pictures before; None remembers nothing.

    Raises:
        DatasetError: There are no images at all.
        RunFolderError: The run folder is damaged.
        OutputError: The cache cannot be written.
    """
    extra: list[Finding] = []
    if is_run(path):
        data, notes = _data_of_run(path, settings, progress, memory)
        extra.extend(notes)
        run, field, notes = _facts_of_run(path, settings, progress)
        extra.extend(notes)
        facts = Facts(data, run, field)
    else:
        facts = Facts(_gather(path, settings, progress, memory))
    findings = most_important_first([*examine(facts, progress), *extra])
    names = tuple(check.name for check in checks_for(facts))
    return Examination(str(path), "run" if is_run(path) else "data", facts, tuple(findings), names)


def _gather(
    path: Path,
    settings: ExaminationOptions,
    progress: Progress,
    memory: ScanCache | None,
    samples: Sequence[Sample] | None = None,
    root: Path | None = None,
) -> DataFacts:
    return gather_data(
        path,
        samples=samples,
        root=root,
        max_images=settings.max_images,
        max_features=settings.max_features,
        seed=settings.seed,
        cache_folder=settings.cache_folder,
        memory=memory,
        progress=progress,
    )


def _data_of_run(
    folder: Path, settings: ExaminationOptions, progress: Progress, memory: ScanCache | None
) -> tuple[DataFacts | None, list[Finding]]:
    """The images a run was made from, in the parts it put them into; None, and a note, where they are gone."""
    try:
        record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        root = Path(record["data_root"])
        # What was named; older runs recorded only where its images lie.
        given = Path(record.get("data") or root)
        samples = read_split(folder / SPLIT_FILE)
    except (OSError, ValueError, KeyError, TypeError, EdgeclfError) as error:
        got = str(error) if isinstance(error, EdgeclfError) else f"{RUN_FILE} or {SPLIT_FILE} missing or damaged"
        if (folder / HISTORY_FILE).is_file():
            return None, [_images_missing(f"the run does not say which they are ({got})")]
        raise RunFolderError(
            f"cannot read run {folder}", got=got, expected="what edgeclf train wrote", do="train again"
        ) from error
    if settings.data is not None:
        given, root = settings.data, (settings.data if settings.data.is_dir() else settings.data.parent).resolve()
    if not any((root / sample.path).exists() for sample in samples):
        return None, [_images_missing(f"they are no longer in {root}")]
    return _gather(given, settings, progress, memory, samples, root), []


def _images_missing(why: str) -> Finding:
    remedy = "Say where they are now with --data, or run edgeclf doctor on the data by itself"
    return _not_looked_at("The run's images were not looked at", why, remedy)


def _not_looked_at(what: str, why: str, remedy: str) -> Finding:
    return Finding(cause="unchecked", severity="note", title=f"{what}: {why}", fix=remedy, evidence={"reason": why})


def _facts_of_run(
    folder: Path, settings: ExaminationOptions, progress: Progress
) -> tuple[RunFacts | None, ModelFacts | None, list[Finding]]:
    """What the run's records and its model say, and notes about what could not be looked at."""
    from edgeclf.toolkit.doctor.gather.run import gather_model, gather_run, open_run

    opened = open_run(folder, data=settings.data, cache_folder=settings.cache_folder, progress=progress)
    run: RunFacts = gather_run(opened, seed=settings.seed)
    try:
        field: ModelFacts | None = gather_model(opened, int8=settings.int8, seed=settings.seed)
    except MissingPackageError as error:
        return run, None, [_not_looked_at("The run's model was not tried", *split_remedy(str(error)))]
    return run, field, []
