"""`edgeclf verify`: the parity gate once more, on the machine where the model will run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeclf.toolkit.console import note, print_json, progress_bar
from edgeclf.toolkit.options import (
    CacheFolderOption,
    CacheSizeOption,
    DeviceOption,
    EngineCacheOption,
    IgnoreUnreadableOption,
    JsonOption,
    MaxAccuracyDropOption,
    MinAgreementOption,
    ProviderOptionOption,
    SplitOption,
    ThreadsOption,
    chosen_device,
)

if TYPE_CHECKING:
    from edgeclf.export.verify.layer_report import LayerFacts
    from edgeclf.runtime.progress import Progress
    from edgeclf.runtime.session.session import ModelSession
    from edgeclf.toolkit.datasets.evaluation_set import ImageList

# Images that layers are compared on: ratios of energies settle long before accuracies do.
_LAYER_IMAGES = 32
# Without and with dot products: the two kinds of int8 kernels there are.
_DEFAULT_CORES = ("cortex-a72", "cortex-a76")


def verify(
    model: Annotated[Path, typer.Argument(help="The .onnx file to verify.", show_default=False)],
    data: Annotated[
        Path, typer.Argument(help="Images: folder of class folders, CSV, or any folder.", show_default=False)
    ],
    against: Annotated[
        Path | None,
        typer.Option("--against", help="The run folder, or another .onnx file, to compare with.", show_default=False),
    ] = None,
    emulate: Annotated[
        str | None,
        typer.Option(
            "--emulate",
            help="arm64: run the file on ONNX Runtime's ARM kernels, emulated, and compare with this machine.",
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
        int, typer.Option("--emulate-images", min=1, help="With --emulate: images, one to ten seconds each.")
    ] = 40,
    cache_folder: CacheFolderOption = None,
    cache_size: CacheSizeOption = None,
    split: SplitOption = "auto",
    layers: Annotated[
        bool, typer.Option("--layers", help="int8: compare layer by layer, and say where precision is lost.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="With --layers: a PNG of the layers' ratios.", show_default=False)
    ] = None,
    min_agreement: MinAgreementOption = 0.99,
    max_accuracy_drop: MaxAccuracyDropOption = 0.01,
    device: DeviceOption = "auto",
    provider_option: ProviderOptionOption = None,
    engine_cache: EngineCacheOption = None,
    threads: ThreadsOption = None,
    ignore_unreadable: IgnoreUnreadableOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare a model file with what it was made from, on this machine and these images; exit code 4 if it differs."""
    from edgeclf.runtime.errors import UsageError

    if plot is not None and not layers:
        raise UsageError("--plot without --layers", expected="both", do="add --layers")
    limits = (min_agreement, max_accuracy_drop)
    if emulate is not None:
        from edgeclf.export.cache_folder import chosen_cache_folder
        from edgeclf.toolkit.datasets.emulated import verify_emulated

        if against is not None or layers:
            raise UsageError("--emulate compares with this machine", got="--against or --layers", expected="neither")
        cores = core or _DEFAULT_CORES
        verify_emulated(
            model,
            data,
            split,
            architecture=emulate,
            cores=cores,
            most_images=emulate_images,
            limits=limits,
            cache_folder=chosen_cache_folder(cache_folder, cache_size),
            as_json=as_json,
        )
        return
    if against is None or core:
        missing = "--core without --emulate" if core else "neither --against nor --emulate"
        raise UsageError("nothing to compare with", got=missing, expected="--against RUN_OR_MODEL or --emulate arm64")
    from edgeclf.runtime.session.session import ModelSession

    _verify_against(
        model,
        against,
        data,
        split,
        candidate=ModelSession(model, device=chosen_device(device, provider_option, engine_cache), threads=threads),
        limits=limits,
        layers=layers,
        plot=plot,
        ignore_unreadable=ignore_unreadable,
        as_json=as_json,
    )


def _verify_against(
    model: Path,
    against: Path,
    data: Path,
    split: str,
    *,
    candidate: "ModelSession",
    limits: tuple[float, float],
    layers: bool,
    plot: Path | None,
    ignore_unreadable: bool,
    as_json: bool,
) -> None:
    import numpy as np

    from edgeclf.export.verify.parity import compare_probabilities, parity_failures
    from edgeclf.runtime.cpus import cpu_info
    from edgeclf.runtime.errors import GateError
    from edgeclf.toolkit.datasets.evaluation_set import classify_files, end_with_unreadable, list_images, open_reference
    from edgeclf.toolkit.reports.parity import check_same_labels, limits_for, print_layers, print_parity

    reference = open_reference(against, in_float=candidate.spec.precision != "int8")
    check_same_labels(model, candidate.spec, against, reference.spec)
    parity_limits = limits_for(candidate.spec, reference.spec, *limits)
    images = list_images(data, candidate.spec.labels, split, need_labels=False)
    if images.true_indices is None:
        note(f"{data} has no folders named like the model's classes: agreement is judged, accuracy is not")
    with progress_bar(enabled=not as_json) as progress:
        expected = classify_files(reference, images.paths, "reference", progress)
        got = classify_files(candidate, images.paths, "candidate", progress)
        compared = _compare_layers(model, against, images, got.rows, progress) if layers else ()
    # Both decode through the same code, so the same files fail; anything else would be a bug worth a traceback.
    if expected.rows != got.rows:
        raise RuntimeError("the two models could not read the same files")
    true = None if images.true_indices is None else np.asarray(images.true_indices)[list(got.rows)]
    facts = compare_probabilities(expected.probabilities, got.probabilities, images.part, true)
    failures = parity_failures(facts, parity_limits)
    differing = [str(images.paths[got.rows[row]]) for row in facts.disagreements]
    cpu = cpu_info()
    if as_json:
        print_json(
            {
                "model": str(model),
                "against": str(against),
                "precision": candidate.spec.precision,
                "provider": candidate.provider,
                "cpu": cpu.to_json(),
                "passed": not failures,
                "failures": failures,
                **facts.to_json(),
                "differing": differing,
                "layers": [item.to_json() for item in compared],
                "unreadable": [{"source": str(p), "error": str(e)} for p, e in got.unreadable],
            }
        )
    else:
        print_parity(f"{model} against {against} ({candidate.provider}, {cpu.model})", facts, differing)
        if compared:
            print_layers(compared)
    if plot is not None:
        from edgeclf.toolkit.reports.plots import plot_layers

        plot_layers([(item.position, item.weight_sqnr_db, item.output_sqnr_db) for item in compared], plot)
    if failures:
        raise GateError(
            f"{model} does not match {against} on this machine",
            got="; ".join(failures),
            do="do not ship it to this machine: export it again, or use the fp32 file",
        )
    note("passed: the model does here what it was trained to do")
    end_with_unreadable(got.unreadable, ignore=ignore_unreadable)


def _compare_layers(
    model: Path, against: Path, images: "ImageList", rows: tuple[int, ...], progress: "Progress"
) -> tuple["LayerFacts", ...]:
    """The layers of an int8 file next to those of the run or float file it is compared with, on some of the images."""
    import numpy as np

    from edgeclf.export.graph.convert import onnx_from_keras, read_model
    from edgeclf.export.verify.layer_report import compare_layers
    from edgeclf.runtime.images.preprocess import load_image, preprocess_bgr
    from edgeclf.runtime.session.session import ModelSession
    from edgeclf.training.run.folder import load_run

    spec = ModelSession(model, device="cpu", threads=1).spec
    # Evenly spread, so that classes in folders are all there.
    chosen = [rows[index] for index in np.unique(np.linspace(0, len(rows) - 1, _LAYER_IMAGES).astype(int))]
    pixels = np.stack([preprocess_bgr(load_image(images.paths[row]), spec.preprocess) for row in chosen])
    reference = onnx_from_keras(load_run(against).load_model()) if against.is_dir() else read_model(against)
    candidate = read_model(model)
    equalized = bool((spec.quantization or {}).get("equalized_streams"))
    return compare_layers(reference, candidate, pixels, equalized=equalized, progress=progress)
