"""`edgeclf verify`: the self-test or the parity gate, on the machine where the model will run or on emulated cores."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeclf.toolkit.console import note, print_json, progress_bar, unreadable_json
from edgeclf.toolkit.datasets.table_options import takes_tables
from edgeclf.toolkit.foreign import (
    named_like,
    no_options,
    note_use,
    options_for,
    refuse_idle_keras_options,
    refuse_idle_options,
    takes_foreign_files,
    use_json,
)
from edgeclf.toolkit.options import (
    FILE_METAVAR,
    CustomObjectsOption,
    DeviceOption,
    EngineCacheOption,
    IgnoreUnreadableOption,
    JsonOption,
    MaxAccuracyDropOption,
    MinAgreementOption,
    ProviderOptionOption,
    SignatureOption,
    SplitOption,
    ThreadsOption,
    UnsafeLoadOption,
    chosen_device,
    given_limits,
    output_png,
    refuse_idle,
    refuse_idle_limits,
)

if TYPE_CHECKING:
    from edgeclf.export import ParityLimits, VerificationReport
    from edgeclf.export.source.keras_files.kinds import KerasOptions
    from edgeclf.runtime import ForeignModel, ModelSession, SelfTestResult
    from edgeclf.toolkit.datasets.selection import Selection
    from edgeclf.training.data.table_files import TableOptions


_EMULATE_IMAGES = 40


@takes_foreign_files
@takes_tables
def verify(
    model: Annotated[Path, typer.Argument(help="The .onnx file to verify.", show_default=False)],
    data: Annotated[
        Path | None,
        typer.Argument(
            help="The images: a folder of class folders, a CSV, or any folder. Without: the self-test that the file carries.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            help="What to compare with: the run folder, another .onnx file, or the Keras model that others made: a .keras or .h5 "
            "file, a SavedModel folder, or module:name.",
            show_default=False,
        ),
    ] = None,
    emulate: Annotated[
        str | None,
        typer.Option(
            "--emulate",
            help="arm64: run the file on ONNX Runtime's ARM kernels under emulation, and compare with this machine.",
            show_default=False,
        ),
    ] = None,
    core: Annotated[
        list[str] | None,
        typer.Option(
            "--core",
            help="With --emulate: cortex-a53, cortex-a72, cortex-a76 or max; may be repeated. Default: a72 and a76, "
            "without and with dot products.",
            show_default=False,
        ),
    ] = None,
    emulate_images: Annotated[
        int | None,
        typer.Option(
            "--emulate-images",
            min=1,
            help=f"With --emulate: number of images, one to ten seconds each. Default: {_EMULATE_IMAGES}.",
            show_default=False,
        ),
    ] = None,
    cache_folder: Annotated[
        Path | None,
        typer.Option(
            "--cache-folder",
            help="With --emulate: where the emulated system is kept (~/.cache/edgeclf).",
            show_default=False,
        ),
    ] = None,
    split: SplitOption = "auto",
    layers: Annotated[
        bool, typer.Option("--layers", help="int8: compare layer by layer too, to see where precision is lost.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            help="With --layers: a PNG of the layers' signal-to-noise ratios.",
            parser=output_png("--plot", "layers.png"),
            metavar=FILE_METAVAR,
            show_default=False,
        ),
    ] = None,
    min_agreement: MinAgreementOption = None,
    max_accuracy_drop: MaxAccuracyDropOption = None,
    device: DeviceOption = "auto",
    provider_option: ProviderOptionOption = None,
    engine_cache: EngineCacheOption = None,
    threads: ThreadsOption = None,
    custom_objects: CustomObjectsOption = None,
    signature: SignatureOption = None,
    unsafe_load: UnsafeLoadOption = False,
    ignore_unreadable: IgnoreUnreadableOption = False,
    as_json: JsonOption = False,
    foreign: "ForeignModel | None" = None,
    table: "TableOptions | None" = None,
) -> None:
    """Compare a model file with its own record, its run, or another file, on this machine; exit code 4 if it differs."""
    from edgeclf.export.source.keras_files.kinds import KerasOptions
    from edgeclf.runtime import ModelSession
    from edgeclf.runtime.errors import UsageError
    from edgeclf.runtime.files import default_cache_folder

    if plot is not None and not layers:
        raise UsageError("--plot without --layers", expected="both", hint="add --layers")
    limits = given_limits(min_agreement, max_accuracy_drop)
    keras = KerasOptions(custom_objects, signature, is_trusted=unsafe_load)
    refuse_idle_keras_options(keras, against or model)
    options = foreign or no_options()
    for_emulation = {"--emulate-images": emulate_images, "--cache-folder": cache_folder}
    for_this_machine = {
        "--device": device,
        "--provider-option": provider_option,
        "--engine-cache": engine_cache,
        "--threads": threads,
    }
    refuse_idle(for_emulation if emulate is None else {}, "without --emulate")
    refuse_idle({} if emulate is None else for_this_machine, "with --emulate, whose cores are CPUs with one thread")
    if data is None:
        of_images = {"--split": split, "--ignore-unreadable": ignore_unreadable, "--emulate-images": emulate_images}
        refuse_idle(of_images, "without DATA")
        for option, is_given in {
            "--against": against is not None,
            "--layers": layers,
            "--min-agreement or --max-accuracy-drop": limits is not None,
            "--path-column, --label-column, --image-folder or --image-suffix": table is not None,
        }.items():
            if is_given:
                raise UsageError(f"{option} needs images", got="no DATA", expected="edgeclf verify MODEL DATA")
        if core and emulate is None:
            raise UsageError("--core without --emulate", expected="--emulate arm64")
        chosen = chosen_device("cpu" if emulate else device, provider_option, engine_cache)
        session = ModelSession(model, device=chosen, threads=threads, foreign=options_for(model, options))
        refuse_idle_options(options, [session])
        if emulate is not None:
            from edgeclf.toolkit.compare.emulated_cores import self_test_emulated

            self_test_emulated(session, emulate, core, cache_folder or default_cache_folder(), as_json=as_json)
        else:
            _self_test(session, as_json=as_json)
        return
    if emulate is not None:
        if against is not None or layers:
            raise UsageError("--emulate compares with this machine", got="--against or --layers", expected="neither")
        from edgeclf.toolkit.compare.emulated_cores import verify_emulated

        verify_emulated(
            model,
            options,
            data,
            split,
            architecture=emulate,
            core_names=core,
            max_images=emulate_images or _EMULATE_IMAGES,
            limits=limits,
            table=table,
            cache_folder=cache_folder or default_cache_folder(),
            ignore_unreadable=ignore_unreadable,
            as_json=as_json,
        )
        return
    if against is None or core:
        missing = "--core without --emulate" if core else "neither --against nor --emulate"
        raise UsageError("nothing to compare with", got=missing, expected="--against RUN_OR_MODEL or --emulate arm64")
    _verify_against(
        ModelSession(
            model,
            device=chosen_device(device, provider_option, engine_cache),
            threads=threads,
            foreign=options_for(model, options, [against]),
        ),
        against,
        options,
        keras,
        data,
        split,
        table=table,
        limits=limits,
        with_layers=layers,
        plot=plot,
        ignore_unreadable=ignore_unreadable,
        as_json=as_json,
    )


def _self_test(model: "ModelSession", *, as_json: bool) -> None:
    from edgeclf.runtime.cpus import cpu_info
    from edgeclf.runtime.session.self_test import run_self_test
    from edgeclf.toolkit.reports.self_test import check_self_test, print_self_test, self_test_sentence

    result, cpu = run_self_test(model), cpu_info()
    if as_json:
        print_json(
            {"model": str(model.path), "cpu": cpu.to_json(), "precision": model.spec.precision, **result.to_json()}
        )
    else:
        print_self_test(f"{model.path}, self-test ({model.provider}, {cpu.model})", result)
    check_self_test(str(model.path), result)
    note(self_test_sentence(result))


def _verify_against(
    model: "ModelSession",
    against: Path,
    foreign: "ForeignModel",
    keras: "KerasOptions",
    data: Path,
    split: str,
    *,
    table: "TableOptions | None",
    limits: "ParityLimits | None",
    with_layers: bool,
    plot: Path | None,
    ignore_unreadable: bool,
    as_json: bool,
) -> None:
    from edgeclf.export import TrainedClassifier, check_same_labels, verify_classifier
    from edgeclf.runtime.errors import GateError
    from edgeclf.runtime.session.self_test import run_self_test
    from edgeclf.toolkit.datasets.evaluation_set import end_with_unreadable, list_images, open_reference
    from edgeclf.toolkit.reports.parity import limits_sentence
    from edgeclf.toolkit.reports.self_test import check_self_test, self_test_sentence

    reference = open_reference(against, foreign, keras, model.path)
    refuse_idle_options(foreign, [model, reference])
    model = named_like(model, against, reference.spec.labels)
    if not isinstance(reference, TrainedClassifier):
        reference = named_like(reference, model.path, model.spec.labels)
    refuse_idle_limits(limits, model.spec.precision, reference.spec.precision)
    sessions = [item for item in (model, reference) if not isinstance(item, TrainedClassifier)]
    note_use(*sessions)
    self_test = None if model.spec.self_test is None else run_self_test(model)
    # Before the images: other classes than the folders' would be reported as a fault of the data.
    check_same_labels(model.path, model.spec.labels, against, reference.spec.labels)
    # A run knows its images exactly, a file by their content alone.
    known = [(against, reference), (model.path, model)]
    with progress_bar(enabled=not as_json) as progress:
        images = list_images(data, known, split, need_labels=False, table=table, progress=progress)
        if images.true_indices is None:
            note(f"{data} has no folders named like the model's classes: agreement is judged, accuracy is not")
        report = verify_classifier(
            model,
            reference,
            images.paths,
            images.true_indices,
            limits=limits,
            split=images.name,
            with_layers=with_layers,
            progress=progress,
        )
    note(limits_sentence(report.limits, report.recorded_limits))
    used_as = {str(item.path): use_json(item) for item in sessions if item.is_foreign}
    if self_test is not None and self_test.passed:
        note(self_test_sentence(self_test))
    _show(report, self_test, model, against, images.selection, used_as, as_json=as_json)
    if plot is not None:
        from edgeclf.toolkit.reports.plots import plot_layers

        plot_layers([(item.position, item.weight_sqnr_db, item.output_sqnr_db) for item in report.layers], plot)
    if report.failures:
        raise GateError(
            f"{model.path} does not match {against} on this machine",
            got="; ".join(report.failures),
            hint="do not ship it to this machine: export it again, or use the fp32 file",
        )
    if self_test is not None:
        check_self_test(str(model.path), self_test)
    if report.verdict.doubts:
        note(f"undecided: {'; '.join(report.verdict.doubts)}")
    else:
        note("passed: the model does here what it was trained to do")
    end_with_unreadable(report.unreadable, ignore=ignore_unreadable)


def _show(
    report: "VerificationReport",
    self_test: "SelfTestResult | None",
    model: "ModelSession",
    against: Path,
    selection: "Selection",
    used_as: "dict[str, dict[str, Any] | None]",
    *,
    as_json: bool,
) -> None:
    from edgeclf.export.verify.verdict import limits_record
    from edgeclf.runtime.cpus import cpu_info
    from edgeclf.toolkit.reports.parity import print_layers, print_parity

    cpu = cpu_info()
    if not as_json:
        title = f"{model.path} against {against} ({model.provider}, {cpu.model})"
        print_parity(title, report.parity, report.verdict.outcome, report.differing)
        if report.layers:
            print_layers(report.layers)
        return
    print_json(
        {
            "model": str(model.path),
            "against": str(against),
            "used_as": used_as,
            "precision": model.spec.precision,
            "provider": model.provider,
            "cpu": cpu.to_json(),
            "passed": report.passed,
            "failures": list(report.failures),
            "verdict": report.verdict.to_json(),
            "limits": limits_record(report.limits),
            "recorded_limits": None if report.recorded_limits is None else limits_record(report.recorded_limits),
            **report.parity.to_json(),
            "differing": [str(path) for path in report.differing],
            "layers": [item.to_json() for item in report.layers],
            "self_test": None if self_test is None else self_test.to_json(),
            "selection": selection.to_json(),
            "unreadable": unreadable_json(report.unreadable),
        }
    )
