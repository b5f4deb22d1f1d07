"""Examination of a data set, or of a run with its data: gathers the facts and runs the checks on them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime.errors import DatasetError, EdgeclfError, MissingPackageError, RunFolderError
from edgeclf.runtime.files import kind_of
from edgeclf.runtime.progress import Progress
from edgeclf.toolkit.doctor.facts import SPLITS, DataFacts, Facts, ModelFacts, RunFacts
from edgeclf.toolkit.doctor.findings import Finding, most_important_first, split_remedy, summary
from edgeclf.toolkit.doctor.gather.data import MAX_FEATURES, gather_data
from edgeclf.toolkit.doctor.gather.thumbnails import ScanCache
from edgeclf.toolkit.doctor.registry import checks_for, examine
from edgeclf.training.data.dataset import Sample, check_place, folder_of
from edgeclf.training.data.training_data import read_split
from edgeclf.training.run.folder import HISTORY_FILE, RUN_FILE, SPEC_FILE, SPLIT_FILE


@dataclass(frozen=True)
class ExaminationOptions:
    """Options of an examination.

    Attributes:
        max_images: Number of images scanned, sampled evenly over classes and splits; None for all.
        max_features: Number of images that features are computed of; 0 for none.
        seed: Seed of the samples.
        cache_folder: Cache of preprocessed images and features; None for the default folder.
        data: Present location of a run's data; None for the recorded one.
        int8: Path of an int8 file of the run, to compare with its network; None for none.
    """

    max_images: int | None = None
    max_features: int = MAX_FEATURES
    seed: int = 0
    cache_folder: CacheFolder | None = None
    data: Path | None = None
    int8: Path | None = None


@dataclass(frozen=True, eq=False)
class Examination:
    """Result of an examination.

    Attributes:
        subject: Path as given.
        kind: Whether the path is a data set or a run.
        facts: The gathered facts, with what checks derived from them.
        findings: The findings, most important first.
        checks: Names of the checks that ran.
    """

    subject: str
    kind: Literal["data", "run"]
    facts: Facts
    findings: tuple[Finding, ...]
    checks: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The most important finding and its remedy, as one sentence."""
        return summary(self.findings, self.subject)

    @property
    def has_problem(self) -> bool:
        """Whether any finding has the severity `problem`."""
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
    """Size of a data set and of the samples that were scanned and shown to the network, as plain JSON values."""
    images = data.images
    return {
        "root": str(data.root),
        "classes": list(data.classes),
        "images": data.sampled_from or len(images) + len(data.unreadable),
        "looked_at": len(images),
        "unreadable": len(data.unreadable),
        "shown_to_network": 0 if data.features is None else len(data.features.rows),
        "network": None if data.features is None else data.features.network,
        "parts": {split: len(images.rows_of(split)) for split in SPLITS if len(images.rows_of(split))},
    }


def is_run(path: Path) -> bool:
    """Whether a path is the folder of a finished or an unfinished run."""
    return any(kind_of(path / name) == "file" for name in (RUN_FILE, SPEC_FILE)) and kind_of(path / "train") != "folder"


def examine_path(
    path: Path, options: ExaminationOptions, progress: Progress, scan_cache: ScanCache | None = None
) -> Examination:
    """Examines a data set, or a run together with its data.

    Args:
        path: Folder of images, CSV or run folder.
        options: Options.
        progress: Reports stages and how far each has come.
        scan_cache: Records and features of images scanned before, extended by this call; None for none.

    Raises:
        DatasetError: There are no images at all.
        RunFolderError: The run folder is damaged.
        OutputError: The cache cannot be written.
    """
    extra: list[Finding] = []
    if is_run(path):
        data, notes = _data_of_run(path, options, progress, scan_cache)
        extra.extend(notes)
        run, model, notes = _facts_of_run(path, options, progress)
        extra.extend(notes)
        facts = Facts(data, run, model)
    else:
        facts = Facts(_gather(path, options, progress, scan_cache))
    findings = most_important_first([*examine(facts, progress), *extra])
    names = tuple(check.name for check in checks_for(facts))
    return Examination(str(path), "run" if is_run(path) else "data", facts, tuple(findings), names)


def _gather(
    path: Path,
    options: ExaminationOptions,
    progress: Progress,
    scan_cache: ScanCache | None,
    samples: Sequence[Sample] | None = None,
    root: Path | None = None,
) -> DataFacts:
    return gather_data(
        path,
        samples=samples,
        root=root,
        max_images=options.max_images,
        max_features=options.max_features,
        seed=options.seed,
        cache_folder=options.cache_folder,
        scan_cache=scan_cache,
        progress=progress,
    )


def _data_of_run(
    folder: Path, options: ExaminationOptions, progress: Progress, scan_cache: ScanCache | None
) -> tuple[DataFacts | None, list[Finding]]:
    """Facts of a run's images with the run's own split; None, and a note, where the images are gone."""
    try:
        record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        root = Path(record["data_root"])
        # The path as given to the training; older runs recorded only the resolved root.
        given = Path(record.get("data") or root)
        samples = read_split(folder / SPLIT_FILE)
    except (OSError, ValueError, KeyError, TypeError, EdgeclfError) as error:
        got = str(error) if isinstance(error, EdgeclfError) else f"{RUN_FILE} or {SPLIT_FILE} missing or damaged"
        if (folder / HISTORY_FILE).is_file():
            return None, [_images_missing(f"the run does not say which they are ({got})")]
        raise RunFolderError(
            f"cannot read run {folder}", got=got, expected="what edgeclf train wrote", hint="train again"
        ) from error
    if options.data is not None:
        check_place(options.data)
        given, root = options.data, folder_of(options.data).resolve()
    if not any((root / sample.path).exists() for sample in samples):
        if options.data is not None:
            raise DatasetError(
                f"none of the images of {folder} is in {root}",
                got=f"no {samples[0].path} there",
                expected="the images it was trained on",
                hint="check --data",
            )
        return None, [_images_missing(f"they are no longer in {root}")]
    return _gather(given, options, progress, scan_cache, samples, root), []


def _images_missing(why: str) -> Finding:
    remedy = "Say where they are now with --data, or run edgeclf doctor on the data by itself"
    return _unchecked("The run's images were not looked at", why, remedy)


def _unchecked(what: str, why: str, remedy: str) -> Finding:
    return Finding(cause="unchecked", severity="note", title=f"{what}: {why}", fix=remedy, evidence={"reason": why})


def _facts_of_run(
    folder: Path, options: ExaminationOptions, progress: Progress
) -> tuple[RunFacts | None, ModelFacts | None, list[Finding]]:
    """Facts of a run and of its model, and notes about those that could not be gathered."""
    from edgeclf.toolkit.doctor.gather.run import gather_model, gather_run, open_run

    opened = open_run(folder, data=options.data, cache_folder=options.cache_folder, progress=progress)
    run: RunFacts = gather_run(opened, seed=options.seed)
    try:
        model: ModelFacts | None = gather_model(opened, int8=options.int8, seed=options.seed)
    except MissingPackageError as error:
        return run, None, [_unchecked("The run's model was not tried", *split_remedy(str(error)))]
    return run, model, []
