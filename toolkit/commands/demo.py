"""`edgeclf demo`: training, export, verification, inference and timing on photographs that scikit-image brings along."""

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeclf.toolkit.commands.bench import bench
from edgeclf.toolkit.commands.export import export
from edgeclf.toolkit.commands.infer import infer
from edgeclf.toolkit.commands.train import train
from edgeclf.toolkit.commands.verify import verify
from edgeclf.toolkit.console import note, print_json, print_result, print_table
from edgeclf.toolkit.options import JsonOption

_MARKER = ".edgeclf-demo"


def demo(
    folder: Annotated[
        Path, typer.Option("--folder", help="Where photographs, run and model go; made anew at every call.")
    ] = Path("demo"),
    as_json: JsonOption = False,
) -> None:
    """Train, export to int8, verify, classify and time on real photographs, in one go and without a network.

    Needs pip install "edgeclf[train,export,demo]".
    """
    from edgeclf.toolkit.datasets.demo_data import write_demo_data

    started = time.perf_counter()
    _prepare_folder(folder)
    photographs, run, model = folder / "photographs", folder / "run", folder / "model.onnx"
    counts = write_demo_data(photographs)
    note(
        f"{sum(counts.values())} photographs of brick, grass and gravel in {photographs}: "
        + ", ".join(f"{count} {split}" for split, count in counts.items())
        + ", cut from disjoint regions"
    )
    # With --json, stdout belongs to the one document at the end.
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        _run(train, [str(photographs), "--run", str(run)])
        _run(export, [str(run), "--precision", "int8", "--effort", "quick", "--no-qat", "--out", str(model)])
        _run(verify, [str(model), str(photographs), "--against", str(run)])
        _run(infer, [str(model), *_one_of_each(photographs / "test")])
        _run(bench, [str(model), "--duration", "1", "--batch-sizes", "1"])
    summary = _summary(run, model, time.perf_counter() - started)
    if as_json:
        print_json(summary)
        return
    print_table(
        "The road, measured",
        ["step", "result"],
        [
            ["train", f"test accuracy {summary['test_accuracy']:.4f} on {summary['test_images']} photographs"],
            ["export", f"int8 file of {summary['file_bytes'] / 1e6:.2f} MB"],
            ["verify", f"same label as Keras on {summary['agreement']:.2%} of the validation photographs"],
            ["time", f"{summary['int8_median_ms']:.1f} ms an image on one thread, {summary['ratio']:.2f}x of fp32"],
            ["all", f"{summary['seconds']:.0f} s"],
        ],
        numeric=False,
    )
    print_result(
        "Next, with your own photographs (a folder of class folders):\n"
        "  edgeclf train PHOTOGRAPHS --run runs/mine\n"
        "  edgeclf export runs/mine --precision int8 --out mine.onnx\n"
        "  edgeclf infer mine.onnx --camera 0"
    )


def _prepare_folder(folder: Path) -> None:
    """Creates the folder, or empties that of an earlier demo; refuses one with other files."""
    import shutil

    from edgeclf.runtime.errors import OutputError
    from edgeclf.runtime.files import output_error

    try:
        if folder.is_dir() and any(folder.iterdir()):
            if not (folder / _MARKER).exists():
                raise OutputError(
                    f"cannot use {folder} for the demo",
                    got="a folder with other files",
                    expected="an empty or missing folder",
                    hint="pass --folder with another path",
                )
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MARKER).touch()
    except OSError as error:
        raise output_error(folder, error) from error


def _run(command: Callable[..., None], arguments: list[str]) -> None:
    """Runs one sub-command in this process, its arguments parsed as from the shell, and prints the command line first."""
    from edgeclf.runtime.errors import command_line

    note(f"\n$ {command_line(command.__name__, *arguments)}")
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(command.__name__)(command)
    app(arguments, standalone_mode=False)


def _one_of_each(folder: Path) -> list[str]:
    return [str(next(iter(sorted(label.iterdir())))) for label in sorted(folder.iterdir())]


def _summary(run: Path, model: Path, seconds: float) -> dict[str, Any]:
    """Figures of the steps, from the run folder and the model file."""
    import json

    from edgeclf.runtime import ModelSession

    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    spec = ModelSession(model, device="cpu").spec
    parity, latency = dict(spec.parity or {}), dict(spec.latency or {})
    return {
        "test_accuracy": metrics["test"]["accuracy"],
        "test_images": metrics["test"]["count"],
        "file_bytes": model.stat().st_size,
        "agreement": parity["parts"][0]["agreement"],
        "int8_median_ms": latency["int8"]["median_ms"],
        "ratio": latency["int8"]["ratio"],
        "cpu": latency["cpu"]["model"],
        "seconds": seconds,
        "model": str(model),
        "run": str(run),
    }
