"""`python -m edgeclf.toolkit` is the `edgeclf` command."""

from edgeclf.toolkit.cli import main

if __name__ == "__main__":
    main()
