"""The `edgeclf` command: its sub-commands, and the mapping of errors to exit codes."""

import _thread
import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

import typer
import typer.core
import typer.main

from edgeclf.toolkit import end_at_once, end_without_words
from edgeclf.toolkit.commands import COMMANDS
from edgeclf.toolkit.console import (
    end_streams,
    environment_error,
    note,
    open_missing_streams,
    say,
    show_any_text,
    silence_stdout,
    tell_crashes,
)
from edgeclf.toolkit.options import refuse_absurd_numbers

# How long an interruption waits for an import to end: a second in all, for TensorFlow's takes ten.
_WAIT_S, _MOST_WAITS = 0.02, 50


class _Boundary(typer.core.TyperGroup):
    """Command group that loads a sub-command when it is needed, and maps its outcome to the documented exit codes.

    0 done; 1 a bug, with its traceback; 2 usage; 3 unusable input; 4 a gate failed; 5 a device or package is not
    there; 130 interrupted. Typer handles its own usage errors (2) before or inside this call.
    """

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - Typer's own
        super().__init__(**settings)
        for name, text in COMMANDS.items():
            # Names and their first words are all that the group's help, completion and suggestions ask for.
            self.add_command(typer.core.TyperCommand(name, help=text))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 - as in `invoke`
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load_command(name), rest

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - Typer's own Click types have no public name
        from edgeclf.runtime.errors import EdgeclfError

        try:
            with _interruptions():
                return super().invoke(ctx)
        except EdgeclfError as error:
            note(f"edgeclf: {error}")
            raise SystemExit(error.exit_code) from None
        except KeyboardInterrupt:
            if signal.getsignal(signal.SIGINT) is end_at_once:
                signal.signal(signal.SIGINT, end_without_words)
            say("edgeclf: interrupted\n")
            raise SystemExit(130) from None
        except BrokenPipeError:
            # The reader of a pipe (`| head`) is gone.
            silence_stdout()
            raise SystemExit(0) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            if type(error).__module__.split(".", 1)[0] in {"typer", "click"}:
                raise
            shown = environment_error(error)
            if shown is not None:
                say(f"edgeclf: {shown}\n")
                if isinstance(error, OSError):
                    silence_stdout()
                raise SystemExit(shown.exit_code) from None
            say(traceback.format_exc())
            say("edgeclf: this is a bug in edgeclf, not in your input; please report the lines above\n")
            raise SystemExit(1) from None


@contextlib.contextmanager
def _interruptions() -> Iterator[None]:
    """Lets Ctrl-C raise in the command, and SIGTERM as well.

    A camera ends with its summary, a training with its best weights, an export without leftovers.
    """
    waits = iter(range(_MOST_WAITS))
    later: threading.Timer | None = None

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal later
        if _is_importing(frame):
            if later is not None:
                # Pressed twice: one interruption is on its way.
                return
            if next(waits, None) is not None:
                # A native module that imports another prints a traceback and fails by an error of its own.
                later = threading.Timer(_WAIT_S, again, (number,))
                later.daemon = True
                later.start()
                return
        if later is not None:
            later.cancel()
        raise KeyboardInterrupt

    def again(number: int) -> None:
        nonlocal later
        later = None
        _signal_main_thread(number)

    if threading.current_thread() is not threading.main_thread():
        # An application's thread: signals are the application's.
        yield
        return
    is_early = signal.getsignal(signal.SIGINT) is end_at_once
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        if is_early:
            signal.signal(signal.SIGINT, interrupt)
        yield
    finally:
        if is_early:
            signal.signal(signal.SIGINT, end_at_once)
        signal.signal(signal.SIGTERM, before)


def _signal_main_thread(number: int) -> None:
    ident = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and ident is not None:
        # Ends a call of the system that it waits in as well.
        signal.pthread_kill(ident, number)
    else:
        _thread.interrupt_main(signal.Signals(number))


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def load_command(name: str) -> Any:  # noqa: ANN401 - as in `invoke`
    """The sub-command with its options, from the module of its name."""
    module = importlib.import_module(f"edgeclf.toolkit.commands.{name}")
    loaded = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    loaded.command(name)(getattr(module, name))
    command = typer.main.get_command(loaded)
    refuse_absurd_numbers(command)
    return command


app = typer.Typer(
    cls=_Boundary,
    name="edgeclf",
    help="From a folder of labelled photographs to an image classifier on an edge device, every step proved.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Rich would triple the time to the first line of --help (it loads a Markdown parser to print plain sentences).
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _show_version(requested: bool) -> None:
    if requested:
        import importlib.metadata

        typer.echo(f"edgeclf {importlib.metadata.version('edgeclf')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    pass


def main() -> None:
    """Runs the command line; raises SystemExit."""
    # Unusable files are reported by us, once; OpenCV reads this variable when it is loaded.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    app()


def run_process() -> None:
    """Runs the command line and ends the process."""
    open_missing_streams()
    tell_crashes()
    show_any_text()
    try:
        main()
    except SystemExit as ended:
        if ended.code is not None and not isinstance(ended.code, int):
            raise
        status = end_streams(ended.code or 0)
        if "tensorflow" in sys.modules:
            _exit_at_once(status)
        raise SystemExit(status) from None
    except OSError as error:
        # Help and version are written outside of the boundary.
        shown = environment_error(error)
        if shown is None:
            raise
        say(f"edgeclf: {shown}\n")
        silence_stdout()
        raise SystemExit(end_streams(shown.exit_code)) from None


def _exit_at_once(status: int) -> None:
    """Ends the process without TensorFlow's clean-up, which takes a second and has no effect."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        # The reader is gone: the ordinary exit handles that.
        return
    os._exit(status)
