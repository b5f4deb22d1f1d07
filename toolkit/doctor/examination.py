"""Examination of a data set, of a run with its data, or of a model file on photographs: gathers the facts and runs the checks on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeclf.export.cache_folder import CacheFolder
from edgeclf.runtime.errors import DatasetError, EdgeclfError, MissingPackageError, RunFolderError, UsageError
from edgeclf.runtime.files import kind_of
from edgeclf.runtime.progress import Progress
from edgeclf.toolkit.doctor.facts import SPLITS, DataFacts, Facts, ModelFacts, RunFacts, UseFacts
from edgeclf.toolkit.doctor.findings import Finding, most_important_first, split_remedy, summary
from edgeclf.toolkit.doctor.gather.data import MAX_FEATURES, gather_data
from edgeclf.toolkit.doctor.gather.thumbnails import ScanCache
from edgeclf.toolkit.doctor.registry import checks_for, examine
from edgeclf.toolkit.doctor.use_analysis import judge_use
from edgeclf.training.data.dataset import Sample, read_run_facts
from edgeclf.training.data.discovery import check_place, folder_of
from edgeclf.training.data.packed.dataset import restore_images
from edgeclf.training.data.table_files import TableOptions
from edgeclf.training.data.training_data import read_split
from edgeclf.training.options import options_from_json
from edgeclf.training.run.folder import HISTORY_FILE, RUN_FILE, SPEC_FILE, SPLIT_FILE

if TYPE_CHECKING:
    from edgeclf.runtime import ForeignModel
    from edgeclf.runtime.session.foreign.use import ModelUse


@dataclass(frozen=True)
class ExaminationOptions:
    """Options of an examination.

    Attributes:
        max_images: Number of images scanned, sampled evenly over classes and splits; None for all.
        max_features: Number of images that features are computed of; 0 for none.
        seed: Seed of the samples.
        cache_folder: Cache of preprocessed images and features; None for the default folder.
        data: Present location of a run's data; None for the recorded one.
        int8: Path of an int8 file of the run or model, to compare with its network; None for none.
        foreign: What is said of a model file without a spec; None for nothing.
        foreign_words: The same as it was typed, values by option.
        table: What is said of a CSV of images; None for nothing.
    """

    max_images: int | None = None
    max_features: int = MAX_FEATURES
    seed: int = 0
    cache_folder: CacheFolder | None = None
    data: Path | None = None
    int8: Path | None = None
    foreign: "ForeignModel | None" = None
    foreign_words: Mapping[str, str] = field(default_factory=dict)
    table: TableOptions | None = None


@dataclass(frozen=True, eq=False)
class Examination:
    """Result of an examination.

    Attributes:
        subject: Path as given.
        kind: Whether the path is a data set, a run or a model file.
        facts: The gathered facts, with what checks derived from them.
        findings: The findings, most important first.
        checks: Names of the checks that ran.
        used_as: How a model file without a spec was used; None for any other subject.
    """

    subject: str
    kind: Literal["data", "run", "model"]
    facts: Facts
    findings: tuple[Finding, ...]
    checks: tuple[str, ...]
    used_as: "ModelUse | None" = None

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
            "used_as": None if self.used_as is None else self.used_as.to_json(),
            "tried": None if self.facts.use is None else tried_json(self.facts.use),
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


def tried_json(use: UseFacts) -> list[dict[str, Any]]:
    """The ways in which a model file was used, each with its accuracy where that is known, as plain JSON values."""
    judgement = use.derived(judge_use)
    return [
        {
            "options": dict(trial.changes),
            "images": len(trial.probabilities),
            "accuracy": None if judgement is None else judgement.accuracy(number),
        }
        for number, trial in enumerate(use.trials)
    ]


def is_run(path: Path) -> bool:
    """Whether a path is the folder of a finished or an unfinished run."""
    return any(kind_of(path / name) == "file" for name in (RUN_FILE, SPEC_FILE)) and kind_of(path / "train") != "folder"


def is_model(path: Path) -> bool:
    """Whether a path is, or is meant to be, a model file."""
    return path.suffix.lower() == ".onnx" and kind_of(path) != "folder"


def examine_path(
    path: Path, options: ExaminationOptions, progress: Progress, scan_cache: ScanCache | None = None
) -> Examination:
    """Examines a data set, a run together with its data, or a model file on photographs.

    Args:
        path: Folder of images, CSV, run folder or `.onnx` file.
        options: Options.
        progress: Reports stages and how far each has come.
        scan_cache: Records and features of images scanned before, extended by this call; None for none.

    Raises:
        DatasetError: There are no images at all.
        RunFolderError: The run folder is damaged.
        ModelFileError: The model file cannot be opened, or says too little about itself.
        UsageError: A model file comes without photographs.
        OutputError: The cache cannot be written.
    """
    if is_model(path):
        return _examine_model(path, options, progress, scan_cache)
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


def _examine_model(
    path: Path, options: ExaminationOptions, progress: Progress, scan_cache: ScanCache | None
) -> Examination:
    """Examines a model file on the photographs of the options."""
    from edgeclf.runtime import ForeignModel
    from edgeclf.toolkit.doctor.gather.model_file import gather_model_file

    if options.data is None:
        raise UsageError(
            "a model file is examined on photographs", got="none", expected="a folder", hint="pass --data PHOTOGRAPHS"
        )
    # What training would say of them does not matter: they are to be recognized, not learned from.
    data = replace(_gather(options.data, options, progress, scan_cache), refusal=None)
    examined = gather_model_file(
        path,
        data,
        foreign=options.foreign or ForeignModel(),
        given=options.foreign_words,
        int8=options.int8,
        max_images=options.max_images,
        seed=options.seed,
        progress=progress,
    )
    facts = Facts(data, model=examined.held_out, use=examined.use)
    extra = [] if examined.held_out is not None or not data.classes else [_not_judged()]
    findings = [*examine(facts, progress), *extra]
    if any(finding.cause == "output-activation" for finding in findings):
        # That is why the confidences are what they are.
        findings = [finding for finding in findings if finding.cause != "calibration"]
    findings = most_important_first(findings)
    names = tuple(check.name for check in checks_for(facts))
    return Examination(str(path), "model", facts, tuple(findings), names, examined.used_as)


def _not_judged() -> Finding:
    why = "the file has to be used rightly first"
    what = "Recall by class, calibration and robustness were not judged"
    return _unchecked(what, why, "Follow the remedies above and run edgeclf doctor again")


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
        table=options.table,
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
        record = read_run_facts(folder)
        root = Path(record["data_root"])
        # The path as given to the training; older runs recorded only the resolved root.
        given = Path(record.get("data", root))
        samples = read_split(folder / SPLIT_FILE)
        column = options_from_json(record["options"], folder / RUN_FILE).path_column
        restore_images(root, given, column)
    except (OSError, ValueError, EdgeclfError) as error:
        got = str(error) if isinstance(error, EdgeclfError) else f"{RUN_FILE} or {SPLIT_FILE} missing or damaged"
        if (folder / HISTORY_FILE).is_file():
            return None, [_images_missing(f"the run does not say which they are ({got})")]
        raise RunFolderError(
            f"cannot read run {folder}", got=got, expected="what edgeclf train wrote", hint="train again"
        ) from error
    if options.data is not None:
        check_place(options.data)
        given, root = options.data, folder_of(options.data, _column(options) or column).resolve()
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


def _column(options: ExaminationOptions) -> str | None:
    """The column of images that the user names; None for none."""
    return None if options.table is None else options.table.path_column


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

    opened = open_run(
        folder,
        data=options.data,
        path_column=_column(options),
        cache_folder=options.cache_folder,
        progress=progress,
    )
    run: RunFacts = gather_run(opened, seed=options.seed)
    try:
        model: ModelFacts | None = gather_model(opened, int8=options.int8, seed=options.seed)
    except MissingPackageError as error:
        return run, None, [_unchecked("The run's model was not tried", *split_remedy(str(error)))]
    return run, model, []
