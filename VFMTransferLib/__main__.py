"""`python -m VFMTransferLib` is the command line."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        from .cli import main as run

        return run()
    except KeyboardInterrupt:  # while modules load
        print("Stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
