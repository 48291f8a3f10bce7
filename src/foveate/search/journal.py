"""A study's file that survives kills and full disks: what was cut off is dropped before the next line is written.

Optuna's journal is one JSON object a line, appended under a lock. A process that dies while it writes leaves a line
without an end; the next one to write would join its own to it, and no reader could go on from there.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foveate.errors import FoveateError

_HEAD = b'{"op_code":'
"""How every line of a journal begins."""
_BLOCK = 1 << 16
"""Bytes that are read at once on the way to the last newline."""


class Journal:
    """What Optuna's `JournalStorage` asks of a backend."""

    def __init__(self, optuna: Any, path: Path) -> None:
        journal = optuna.storages.journal
        self.path, self._lock = path, journal.JournalFileSymlinkLock(os.fspath(path))
        self._reader = journal.JournalFileBackend(os.fspath(path), self._lock)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """All whole lines from a number on."""
        return self._reader.read_logs(log_number_from)  # type: ignore[no-any-return]

    def append_logs(self, logs: Sequence[dict[str, Any]]) -> None:
        """Write lines, all of them or none.

        Raises:
            FoveateError: the disk is full, or fails; what was written before is safe.
        """
        data = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with self._held(), open(self.path, "r+b", buffering=0) as file:
            size = _mend(file)
            file.seek(size)
            try:
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError as e:
                file.truncate(size)
                raise FoveateError(
                    f"cannot write {self.path}: {e.strerror}; what was evaluated is safe, make room and run the same "
                    "again"
                ) from None

    def mend(self) -> bool:
        """Drop a last line that was cut off; whether there was one.

        Raises:
            FoveateError: the file is something else, which nothing may be dropped from.
        """
        with self._held(), open(self.path, "r+b", buffering=0) as file:
            if not _HEAD.startswith(file.read(len(_HEAD))):
                raise FoveateError(f"{self.path} is no study, and is left as it is; name another file with --study")
            before = os.fstat(file.fileno()).st_size
            return _mend(file) < before

    @contextmanager
    def _held(self) -> Iterator[None]:
        self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()


def _mend(file: Any) -> int:
    """Cut an open file off behind its last newline; its size then."""
    whole = size = os.fstat(file.fileno()).st_size
    while whole:
        start = max(0, whole - _BLOCK)
        file.seek(start)
        if (end := file.read(whole - start).rfind(b"\n")) >= 0:
            whole = start + end + 1
            break
        whole = start
    if whole < size:
        file.truncate(whole)
    return whole
