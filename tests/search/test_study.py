"""A study never loses a trial, never doubles one, and goes on after a kill."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest

from foveate.errors import FoveateError
from foveate.search.propose import propose
from foveate.search.study import Asked, Study

STORES = ["study.journal", "study.db"]
JOBS = [Asked(f"job {i}", i) for i in range(10)]


def square(data, beat):
    beat()
    return {"loss": data**2, "cost": -data}


@pytest.mark.parametrize("store", STORES)
def test_asked_twice_evaluated_once(tmp_path, store):
    study = Study(tmp_path / store, "s", {"a": 1})
    assert [r["loss"] for r in study.ask(JOBS, square)] == [i**2 for i in range(10)]
    again = Study(tmp_path / store, "s", {"a": 1})
    assert again.ask(JOBS[3:5], square) == [{"loss": 9, "cost": -3}, {"loss": 16, "cost": -4}]
    assert study.evaluated == 10 and again.evaluated == 0 and len(again.known()) == 10


def worker(path, log, seed):
    study = Study(path, "s", {"a": 1})

    def slow(data, beat):
        with open(log, "a") as f:
            f.write(f"{data}\n")
        time.sleep(0.05)
        return {"loss": data, "cost": 0.0}

    assert [r["loss"] for r in study.ask(JOBS, slow)] == list(range(10))


@pytest.mark.parametrize("store", STORES)
def test_two_processes_share_without_losing_or_doubling(tmp_path, store):
    path, log = tmp_path / store, tmp_path / "log"
    Study(path, "s", {"a": 1})
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=worker, args=(path, log, i)) for i in range(2)]
    for p in both:
        p.start()
    for p in both:
        p.join()
    assert [p.exitcode for p in both] == [0, 0]
    assert sorted(map(int, log.read_text().split())) == list(range(10))
    study = Study(path, "s", {"a": 1})
    complete = [t for t in study._study.get_trials() if t.state.name == "COMPLETE"]
    assert len(complete) == 10


VICTIM = """
import sys, time
from foveate.search.study import Asked, Study
def hang(data, beat):
    if data == 3:
        print("here", flush=True)
        time.sleep(60)
    return {"loss": data, "cost": 0.0}
Study(sys.argv[1], "s", {"a": 1}).ask([Asked(f"job {i}", i) for i in range(10)], hang)
"""


@pytest.mark.parametrize("store", STORES)
def test_killed_in_the_middle_it_goes_on(tmp_path, store):
    path = str(tmp_path / store)
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, path], stdout=subprocess.PIPE, text=True)
    assert victim.stdout.readline() == "here\n"
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    study = Study(path, "s", {"a": 1})
    assert [r["loss"] for r in study.ask(JOBS, lambda d, beat: {"loss": d, "cost": 0.0})] == list(range(10))
    assert study.evaluated == 7, "three were done, the one in the middle is done again"


def test_a_failure_is_not_remembered(tmp_path):
    study = Study(tmp_path / "s.journal", "s", {})

    def fails(data, beat):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.ask(JOBS[:1], fails)
    with pytest.raises(FoveateError, match="a loss of nan"):
        study.ask(JOBS[:1], lambda data, beat: {"loss": float("nan"), "cost": 1.0})
    assert study.ask(JOBS[:1], square)[0]["loss"] == 0


def test_other_settings_are_another_study(tmp_path):
    Study(tmp_path / "s.journal", "s", {"seed": 1, "keep": 0.5})
    with pytest.raises(FoveateError, match="keep differ"):
        Study(tmp_path / "s.journal", "s", {"seed": 1, "keep": 0.25})
    Study(tmp_path / "s.journal", "other", {"seed": 1, "keep": 0.25})


@pytest.mark.parametrize("where", ["no/such/folder/s.journal", ".", "nodriver://host/db"])
def test_storages_that_cannot_be_used(tmp_path, where, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FoveateError, match="study"):
        Study(where, "s", {})


@pytest.mark.parametrize("text", ["this is no journal\n", "a last line without an end", '{"image":"a"}\n{"image":"b"}'])
def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(tmp_path, text):
    (tmp_path / "mine.jsonl").write_text(text)
    with pytest.raises(FoveateError, match="is no study"):
        Study(tmp_path / "mine.jsonl", "s", {})
    assert (tmp_path / "mine.jsonl").read_text() == text


@pytest.mark.parametrize("kind", ["gp", "tpe"])
def test_proposals_follow_from_the_seed_and_what_is_known(kind):
    draw = lambda t: {"x": t.suggest_float("x", 0.0, 1.0)}  # noqa: E731
    known = [({"x": x}, [(x - 0.3) ** 2]) for x in (0.0, 0.2, 0.5, 0.9, 1.0)]
    first = propose(draw, known, 3, 7, kind, 2)
    assert first == propose(draw, known, 3, 7, kind, 2) and len({json.dumps(p) for p in first}) == 3
    assert propose(draw, known, 3, 8, kind, 9) != propose(draw, known, 3, 7, kind, 9)


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    """A finished study's file, and where its lines end."""
    path = tmp_path_factory.mktemp("study") / "study.journal"
    Study(path, "s", {"a": 1}).ask(JOBS[:2], square)
    return path.read_bytes()


def test_a_file_cut_off_at_any_byte_goes_on(journal, tmp_path):
    """Every byte of the last lines, and every ninth before: what was whole stays, and the search ends the same."""
    for size in {*range(0, len(journal), 9), *range(len(journal) - 300, len(journal))}:
        path = tmp_path / "study.journal"
        path.write_bytes(journal[:size])
        torn = not journal[:size].endswith(b"\n") and size > 0
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            study = Study(path, "s", {"a": 1})
        assert [str(w.message).count("was cut off, and is dropped") for w in said] == [1] * torn
        kept = len(study.known())
        assert study.ask(JOBS[:2], square) == [square(i, lambda: None) for i in range(2)]
        assert study.evaluated == 2 - kept
        assert len(Study(path, "s", {"a": 1}).known()) == 2
        path.unlink()


def test_a_full_disk_takes_nothing_away(tmp_path, monkeypatch):
    path = tmp_path / "study.journal"
    study = Study(path, "s", {"a": 1})
    study.ask(JOBS[:1], square)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(os, "fsync", full)
        with pytest.raises(FoveateError, match="No space left on device; what was evaluated is safe"):
            study.ask(JOBS[1:2], square)
    assert path.read_bytes() == before
    assert len(Study(path, "s", {"a": 1}).ask(JOBS[:3], square)) == 3
