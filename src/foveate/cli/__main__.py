"""`python -m foveate.cli`, as `python -m foveate`."""

from foveate.__main__ import main

if __name__ == "__main__":
    main()
