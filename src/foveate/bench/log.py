"""A log that survives: one JSON object a line, appended and flushed to the disk before the next batch begins.

A run that was killed leaves at most one torn line, the last; opening the log cuts it off. What stands before it counts.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from foveate.errors import FoveateError
from foveate.reading import NotJSON, read

Record = dict[str, Any]


class Log:
    """Append-only records, for one process at a time.

    Args:
        path: the file; created where missing.
        good: whether an object is a record of this log.

    Raises:
        FoveateError: it cannot be opened, another process holds it, or a whole line in it is no record.
    """

    def __init__(self, path: Path, good: Callable[[Record], bool] = lambda record: True) -> None:
        self.path, self._good = path, good
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as e:
            raise FoveateError(f"cannot write {path}: {e.strerror}") from None
        try:
            self._lock()
            self.records = self._read()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        os.close(self._file)

    def append(self, records: Sequence[Record]) -> None:
        """Write records and wait until they are on the disk.

        Raises:
            FoveateError: the disk is full, or fails; what was written before is safe.
        """
        if not records:
            return
        data = "".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in records).encode()
        size = os.fstat(self._file).st_size
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as e:
            # Half a batch is worth nothing without its other half, and a torn line would join the next one.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, size)
            raise FoveateError(
                f"cannot write {self.path}: {e.strerror}; finished samples are safe, make room and run the same again"
            ) from None
        self.records += records

    def _read(self) -> list[Record]:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(self._file, whole)
        return list(parse(self.path, data[:whole], self._good))

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not a Unix
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FoveateError(f"another run is writing {self.path}; wait for it, or name another folder") from None


def parse(path: Path, data: bytes, good: Callable[[Record], bool] = lambda record: True) -> Iterator[Record]:
    """The records of whole lines.

    Raises:
        FoveateError: a line that is none.
    """
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            record = read(line.decode())
        except (NotJSON, UnicodeDecodeError):
            record = None
        if not isinstance(record, dict) or not good(record):
            raise FoveateError(f"line {number} of {path} is damaged; delete that line to answer its examples again")
        yield record
