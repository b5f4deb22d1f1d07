"""Entry point of the `edgeclf` script, and of `python -m edgeclf.toolkit`."""

import signal

from edgeclf.toolkit import end_at_once


def run() -> None:
    """Runs the command line and ends the process; Ctrl-C has an end without a traceback from the first import on."""
    # A shell that starts a program in the background may have Ctrl-C ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_at_once)
    from edgeclf.toolkit.cli import run_process

    run_process()


if __name__ == "__main__":
    run()
