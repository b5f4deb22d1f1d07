"""`python -m edgeclf.toolkit` is the `edgeclf` command."""

from edgeclf.toolkit.cli import run_process

if __name__ == "__main__":
    run_process()
