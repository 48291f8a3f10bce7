"""More processes for one search on this machine: the same command again, quietly, on the same study."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def helpers(count: int) -> Iterator[None]:
    """Run this process's own command `count` times more, until the `with` ends."""
    command = [sys.executable, "-m", "foveate.cli", *sys.argv[1:], "--helper"]
    started = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()
