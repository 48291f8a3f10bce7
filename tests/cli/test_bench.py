"""`foveate bench` as a person and a program meet it."""

import builtins
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from foveate.cli import app, progress, show, tables
from foveate.cli.choose import words
from foveate.methods import METHODS

run = CliRunner(env={"COLUMNS": "160"}).invoke
QUICK = ["bench", "--limit", "4", "--keep", "0.111", "--batch-sizes", "1", "--lengths", "2", "--repeats", "1"]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("plans") / "searched.json"
    file.write_text(METHODS["divprune"](keep=64).to_json())
    return file


@pytest.fixture(scope="module")
def done(plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "deep" / "out"
    words = ["--method", f"fastv,{plan}", "--set", "fastv.layer=3", "--out", str(out)]
    result = run(app, [*QUICK, *words])
    assert result.exit_code == 0, result.stderr
    wanted = ("tiny", "4 questions", "downsample", "fastv", "searched", "95%", "- base", "effic.", "report.html")
    for text in (*wanted, "baseline, random"):
        assert text in result.stdout
    # Before the times are taken, the answers are shown where progress is.
    assert "4 questions" in result.stderr and "effic." not in result.stderr
    assert "foveate: tiny: 28 of 28" in result.stderr and "foveate: cost: 3 of 3" in result.stderr
    return out


def test_a_log_gets_lines_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter((0.0, 5.0, 11.0, 12.0, 30.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.progress() as bar:
        for done in (0, 10, 22, 24, 60):
            bar("tiny", done, 60)
        bar.say("a table")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "foveate: tiny: 0 of 60",
        "foveate: tiny: 22 of 60, about 19 s left",
        "foveate: tiny: 60 of 60",
        "a table",
    ]
    with progress.progress(quiet=True) as bar:
        bar("tiny", 0, 60)
        bar.say("a table")
    assert capsys.readouterr().err == ""


def test_what_was_not_asked_yet_is_not_called_impossible() -> None:
    row: dict[str, Any] = {"task": "t", "method": "full", "keep": "1.0", "n": 2, "failed": 0, "accuracy": 0.5}
    row |= {"interval_95": [0.1, 0.9], "budget": 8.0}
    cannot = {"task": "t", "method": "fastv", "keep": "0.2", "n": 2, "failed": 2, "why": "no", "accuracy": None}
    later = {"task": "t", "method": "divprune", "keep": "0.2", "n": 0, "failed": 0, "accuracy": None}
    task = {"name": "t", "examples": 9, "broken": [], "metric": "exact match"}
    page = Console(file=StringIO(), width=120)
    for part in tables.quality({"tasks": [task], "rows": [row, cannot, later]}, "random"):
        page.print(part)
    said = page.file.getvalue()  # type: ignore[attr-defined]
    assert "2 of 9 questions" in said and "not possible" in said and "divprune" not in said


def test_a_table_for_a_person(done: Path) -> None:
    data = json.loads((done / "results.json").read_text())
    rows = {r["method"]: r for r in data["quality"]["rows"]}
    assert list(rows) == ["full", "random", "uniform", "pool", "downsample", "fastv", "searched"]
    assert rows["fastv"]["budget"] == (3 * 576 + 7 * 64) / 10
    assert (rows["searched"]["keep"], rows["searched"]["budget"]) == ("plan", 64)
    assert (done / "report.html").read_text().startswith("<!doctype html>")


def test_an_object_for_a_program(done: Path, plan: Path) -> None:
    words = ["--method", f"fastv,{plan}", "--set", "fastv.layer=3", "--out", str(done), "--json"]
    result = run(app, [*QUICK, *words])
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["quality"] == json.loads((done / "results.json").read_text())["quality"]
    assert "samples" not in data


def test_two_side_by_side(done: Path) -> None:
    page = run(app, ["bench", "--compare", str(done), str(done)])
    assert page.exit_code == 0, page.stderr
    assert "B - A" in page.stdout
    data = json.loads(run(app, ["bench", "--compare", str(done), str(done), "--json"]).stdout)
    assert {r["paired"]["difference"] for r in data["rows"]} == {0.0}
    assert data["differences"] == []


BAD: list[tuple[list[str], str]] = [
    ([], "--out"),
    (["--out", "{out}", "--method", "fastvv"], "did you mean 'fastv'?"),
    (["--out", "{out}", "--method", "fastv,,tops"], "empty entry"),
    (["--out", "{out}", "--method", "fastv,fastv"], "fastv twice"),
    (["--out", "{out}", "--method", "nowhere.json"], "nowhere.json"),
    (["--out", "{out}", "--method", "{here}/plan.json,{here}/b/plan.json"], "plan twice; rename one of the plan files"),
    (["--out", "{out}", "--keep", "1.5"], "(0, 1]"),
    (["--out", "{out}", "--keep", "0.5,0.5"], "0.5 twice"),
    (["--out", "{out}", "--set", "layer=3"], "METHOD.NAME=VALUE"),
    (["--out", "{out}", "--method", "fastv", "--set", "fastv.lyer=3"], "'layer'"),
    (["--out", "{out}", "--method", "fastv", "--set", "tops.layer=3"], "not in --method"),
    (["--out", "{out}", "--baseline", "visionzip"], "not among the methods"),
    (["--out", "{out}", "--task", "gqa"], "no task 'gqa'; known: tiny"),
    (["--out", "{out}", "--task", "tiny:hard"], "no tier 'hard'"),
    (["--out", "{out}", "--task", "tiny,tiny"], "tiny twice"),
    (["--out", "{out}", "--task", "missing.jsonl"], "no data at missing.jsonl"),
    (["--out", "{out}", "--batch-sizes", "1,x"], "whole numbers"),
    (["--out", "{out}", "--lengths", "0"], "at least 1"),
    (["--out", "{file}"], "cannot make the folder"),
    (["--out", "{out}", "--model", "nowhere"], "no model folder nowhere"),
    (["--out", "{out}", "--device", "abacus"], "no device"),
    (["--compare", "{out}", "{out}"], "there is no folder"),
    (["--compare", "{here}", "{here}"], "no finished benchmark"),
    (["--compare", "{odd}", "{odd}"], "does not hold what foveate bench writes"),
    (["--compare", "{deep}", "{deep}"], "nested too deeply"),
]


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(("words", "says"), BAD, ids=[" ".join(w) for w, _ in BAD])
def test_bad_words_are_found_before_a_model_is_loaded(tmp_path: Path, words: list[str], says: str) -> None:
    (tmp_path / "file").write_text("")
    places = {"out": tmp_path / "out", "file": tmp_path / "file", "here": tmp_path}
    (tmp_path / "b").mkdir()
    for place in ("plan.json", "b/plan.json"):
        (tmp_path / place).write_text(METHODS["divprune"](keep=64).to_json())
    for name, text in {"odd": '{"foveate_bench": 1, "quality": [5]}', "deep": "[" * 100_000}.items():
        places[name] = tmp_path / f"{name}.json"
        places[name].write_text(text)
    result = run(app, ["bench", "--limit", "2", *(w.format(**places) for w in words)])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    "line",
    ["[1]", "5", "null", "[" * 10_000, '{"task": "tiny"}', '{"task": "tiny", "id": 1, "way": "full"}',
     '{"task": "tiny", "id": "1", "way": "full", "answer": "k", "score": "much", "visual": 1, "kept": 1, "budget": 1}'],
    ids=str.__len__,
)  # fmt: skip
def test_answers_that_are_none_are_named_before_a_model_is_loaded(tmp_path: Path, line: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "samples.jsonl").write_text(f"{line}\n")
    result = run(app, ["bench", "--limit", "2", "--out", str(tmp_path)])
    assert result.exit_code == 2 and "line 1 of" in result.stderr and "is damaged" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_scipy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    result = run(app, ["bench", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "pip install 'scipy" in result.stderr


def test_lmms_tasks_go_on_after_a_comma() -> None:
    assert words("--task", "tiny,lmms:gqa,pope,mine.jsonl") == ["tiny", "lmms:gqa", "lmms:pope", "mine.jsonl"]
    assert words("--method", "lmms:a,b") == ["lmms:a", "b"]


def test_help() -> None:
    result = run(app, ["bench", "--help"])
    assert result.exit_code == 0
    assert "--compare" in result.stdout


@pytest.mark.parametrize(("width", "gone"), [(200, []), (40, ["encode"]), (20, ["encode", "decode"])])
def test_a_narrow_page_loses_columns_by_name_and_no_part_of_a_cell(
    width: int, gone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    columns = ("method", "encode", "decode", "total")
    row = ["fastervlm", "1234567890", "1234567890", "1234567890"]
    page = Console(width=max(width, 30), file=StringIO())
    for part in show.fitted(columns, [row, None, row[:1]], ("encode", "decode")):
        page.print(part)
    text = page.file.getvalue()
    assert text.count("1234567890") == len(columns) - 1 - len(gone)
    assert ("Left out for want of room" in text) == bool(gone)
    assert all(name in text for name in columns)
