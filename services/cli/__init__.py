"""The `isthmus` command."""

import sys


def main() -> None:
    """The console script's entry point: runs the command line and exits with its code."""
    from services.cli.app import run

    sys.exit(run(sys.argv[1:]))
