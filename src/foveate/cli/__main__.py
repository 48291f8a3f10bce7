"""`python -m foveate.cli`, where the script is not on the path."""

from foveate.cli import main

if __name__ == "__main__":
    main()
