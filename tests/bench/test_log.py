"""What was once written stays, whatever happens next."""

import errno
import os
from pathlib import Path

import pytest

from foveate import FoveateError
from foveate.bench.log import Log

RECORDS = [{"id": "1", "answer": "ü\u2028\n"}, {"id": "2", "answer": "b"}, {"id": "3", "answer": "c"}]


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    with Log(tmp_path / "a.jsonl") as log:
        log.append(RECORDS[:2])
        log.append([])
        log.append(RECORDS[2:])
    with Log(tmp_path / "a.jsonl") as log:
        assert log.records == RECORDS


def test_killed_at_any_byte(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    with Log(file) as log:
        log.append(RECORDS)
    whole = file.read_bytes()
    for size in range(len(whole) + 1):
        file.write_bytes(whole[:size])
        with Log(file) as log:
            lines = whole[:size].count(b"\n")
            assert log.records == RECORDS[:lines]
            log.append(RECORDS[lines:])
        assert file.read_bytes() == whole


def test_a_full_disk_takes_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jsonl"
    write = os.write

    def full(handle: int, data: bytes) -> int:
        if len(data) < 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data[: len(data) // 2])

    with Log(file) as log:
        log.append(RECORDS[:1])
        with monkeypatch.context() as m:
            m.setattr(os, "write", full)
            with pytest.raises(FoveateError, match="No space left on device; finished samples are safe"):
                log.append(RECORDS[1:])
        assert log.records == RECORDS[:1]
        log.append(RECORDS[1:])
    with Log(file) as log:
        assert log.records == RECORDS


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with Log(tmp_path / "a.jsonl"), pytest.raises(FoveateError, match="another run"):
        Log(tmp_path / "a.jsonl")
    with Log(tmp_path / "a.jsonl"):
        pass


def test_damage_in_the_middle_is_not_guessed_at(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"id": 1}\n{"id": \n{"id": 3}\n')
    with pytest.raises(FoveateError, match="line 2 of"):
        Log(file)
    # and the lock is gone with it
    file.write_text("")
    with Log(file):
        pass


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(FoveateError, match="cannot write"):
        Log(tmp_path / "nowhere" / "a.jsonl")
