"""`foveate` and `python -m foveate`. Nothing is imported before Ctrl-C is civil."""

import sys


def main() -> None:
    """The command line."""
    try:
        from foveate.cli import main as run

        run()
    except KeyboardInterrupt:
        print("foveate: stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
