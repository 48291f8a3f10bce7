"""The command line as a person and a program meet it: exit statuses, one line an error, JSON and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from foveate import FoveateError, __version__, samples, viz
from foveate.cli import app, demo, trial
from foveate.hf.families import FAMILIES
from foveate.methods import METHODS

SAMPLE = samples.load()[4]
ASK = ["run", "--image", str(SAMPLE.image), "--prompt", SAMPLE.question, "--repeats", "1", "--max-new-tokens", "4"]
run = CliRunner().invoke


def test_an_answer_for_a_person() -> None:
    result = run(app, [*ASK, "--method", "fastervlm", "--keep", "64"])
    assert result.exit_code == 0, result.stderr
    for text in (SAMPLE.question, "plain", "576 -> 64 at the input", "encode", "select", "prefill", "9.00x"):
        assert text in result.stdout


def test_an_answer_for_a_program(tmp_path: Path) -> None:
    picture = tmp_path / "kept.png"
    result = run(
        app, [*ASK, "--method", "fastv", "--set", "layer=3", "--keep", "0.25", "--overlay", str(picture), "--json"]
    )
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["plan"]["cuts"][0]["at"] == 3
    assert data["plain"]["answer"] == SAMPLE.answer
    assert data["pruned"]["report"]["budget"] == (3 * 576 + 7 * 144) / 10
    assert len(data["pruned"]["report"]["images"][0]["cuts"][0]["indices"]) == 144
    assert set(data["pruned"]["seconds"]) == {"encode", "select", "prefill", "decode", "first_token", "total"}
    assert Image.open(picture).size == (2 * 336 + 16 + 48, 336 + 44 + 40 + 48)


@pytest.mark.parametrize("words", [[], ["--json"]], ids=["person", "program"])
def test_an_answer_is_told_where_its_picture_cannot_be_drawn(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any) -> None:
        raise FoveateError("the sheet is too large")

    monkeypatch.setattr(viz, "save", too_large)
    result = run(app, [*ASK, "--method", "uniform", "--keep", "64", "--overlay", str(tmp_path / "a.png"), *words])
    assert result.exit_code == 2 and "the sheet is too large" in result.stderr
    assert "a.png" not in result.stdout
    if words:
        data = json.loads(result.stdout)
        assert data["overlay"] is None and data["plain"]["answer"]
    else:
        assert SAMPLE.question in result.stdout and "64 at the input" in result.stdout


def test_keep_all_changes_nothing() -> None:
    data = json.loads(run(app, [*ASK, "--method", "divprune", "--keep", "1.0", "--json"]).stdout)
    assert data["plain"]["answer"] == data["pruned"]["answer"]
    assert data["pruned"]["report"]["budget"] == 576


def test_a_plan_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(METHODS["pyramiddrop"](keep=0.3, depth=6).to_json())
    data = json.loads(run(app, [*ASK, "--plan", str(file), "--json"]).stdout)
    assert data["method"] == "mine"
    assert data["plan"] == json.loads(file.read_text())


def test_several_pictures_after_one_option() -> None:
    other = str(samples.load()[1].image)
    one = [
        "run",
        "--prompt",
        "what color is the star?",
        "--method",
        "uniform",
        "--keep",
        "4",
        "--repeats",
        "1",
        "--json",
    ]
    for words in (
        ["--image", str(SAMPLE.image), other],
        ["--image", str(SAMPLE.image), "--image", other],
        [str(SAMPLE.image), other],
    ):
        data = json.loads(run(app, [*one, *words]).stdout)
        assert data["images"] == [str(SAMPLE.image), other]
        assert [i["per_layer"][-1] for i in data["pruned"]["report"]["images"]] == [4, 4]


BAD: list[tuple[list[str], str]] = [
    (["--method", "divprun"], "did you mean 'divprune'? (foveate list)"),
    (["--method", "x"], "tops"),
    (["--keep", "1.5"], "(0, 1]"),
    (["--keep", "0"], "at least 1"),
    (["--keep", "-3"], "at least 1"),
    (["--keep", "0.0"], "(0, 1]"),
    (["--keep", "nan"], "finite"),
    (["--keep", "many"], "a fraction such as"),
    (["--method", "fastv", "--set", "lyer=3"], "'layer'"),
    (["--method", "fastv", "--set", "layer"], "name=value"),
    (["--method", "fastv", "--set", "layer=0"], "layer is 0"),
    (["--method", "fastv", "--set", "layer=abc"], "layer is 'abc'"),
    (["--method", "fastv", "--set", "layer=2", "--set", "layer=3"], "twice"),
    (["--method", "fastv", "--set", "keep=3"], "--keep"),
    (["--image", "missing.png"], "no image missing.png"),
    (["--image", "{text}"], "is no image"),
    (["--image", "{folder}"], "is a folder"),
    (["--plan", "missing.json"], "missing.json"),
    (["--plan", "{text}"], "not JSON"),
    (["--plan", "{old}"], "version 0, but this Foveate reads version 1"),
    (["--plan", "{old}", "--keep", "0.5"], "--plan already says"),
    (["--model", "nowhere"], "no model folder nowhere"),
    (["--model", "{folder}"], "no config.json"),
    (["--device", "abacus"], "no device 'abacus'"),
    (["--dtype", "int3"], "no dtype 'int3'"),
    (["--overlay", "a.txt"], "picture format"),
    (["--overlay", "nowhere/a.png"], "no folder nowhere"),
    (["--image", "{picture}", "--overlay", "{picture}"], "would be written over"),
    (["--prompt", " "], "prompt is empty"),
]


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(("words", "says"), BAD, ids=[" ".join(w) for w, _ in BAD])
def test_bad_words_are_found_before_a_model_is_loaded(tmp_path: Path, words: list[str], says: str) -> None:
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "old.json").write_text('{"foveate_plan": 0}')
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    places = {"text": tmp_path / "a.txt", "old": tmp_path / "old.json", "folder": tmp_path}
    places["picture"] = tmp_path / "a.png"
    result = run(app, [*ASK, *(w.format(**places) if "{" in w else w for w in words)])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("foveate: ")


def test_more_than_there_are_is_all_there_are() -> None:
    """A number means at most; TOPS asks its first stage for more than its mean, and gets what there is."""
    data = json.loads(run(app, [*ASK, "--method", "tops", "--keep", "300", "--json"]).stdout)
    assert 200 < data["pruned"]["report"]["budget"] <= 300


def test_what_only_the_model_can_know() -> None:
    result = run(app, [*ASK, "--method", "fastv", "--set", "layer=10"])
    assert result.exit_code == 2
    assert all(line.startswith("foveate: ") for line in result.stderr.splitlines())
    assert len(result.stderr.splitlines()) == 2  # that it loads, and what is wrong


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["run", "--prompt", "x"],
        ["walk"],
        [*ASK, "--repeats", "0"],
        [*ASK, "--nonsense"],
        ["list", "--nonsense"],
    ],
)
def test_bad_usage_is_exit_status_2(words: list[str]) -> None:
    result = run(app, words)
    assert result.exit_code == 2
    assert result.stderr


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["list", "-h"], ["demo", "--help"]])
def test_help(words: list[str]) -> None:
    result = run(app, words)
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_version() -> None:
    assert run(app, ["--version"]).stdout == f"foveate {__version__}\n"


@pytest.mark.usefixtures("no_model")
def test_list() -> None:
    data = json.loads(run(app, ["list", "--json"]).stdout)
    assert set(data["methods"]) == set(METHODS)
    assert set(data["families"]) == set(FAMILIES)
    assert data["methods"]["fastv"]["reads"] == ["text_attn_BN"]
    assert data["methods"]["fastv"]["settings"]["scoring"] == "code"
    assert all(m["about"] and m["engines"][0] == "hf" for m in data["methods"].values())
    assert all(m["cuts"] and "needs" not in m for m in data["methods"].values())
    assert "cls_attn_BN" in data["families"]["qwen2_vl"]["signals"]
    page = run(app, ["list"])
    assert page.exit_code == 0
    assert [name for name in [*METHODS, *FAMILIES] if name not in page.stdout] == []


@pytest.mark.usefixtures("no_model")
def test_a_method_that_lacks_a_selector_is_listed_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("foveate.pointer.saved.SHIPPED", tmp_path)
    entry = json.loads(run(app, ["list", "--json"]).stdout)["methods"]["sts"]
    assert entry["cuts"] == [] and "train one with foveate train sts" in entry["needs"]


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_METHODS", ("random", "downsample", "tops"))
    monkeypatch.setattr(demo, "_KEEPS", ("0.111",))
    out = tmp_path / "deep" / "down"
    result = run(app, ["demo", "--questions", "24", "--out", str(out), "--json"])
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert data == json.loads((out / "demo.json").read_text())
    rows = {r["method"]: r for r in data["results"]}
    assert list(rows) == ["all tokens", "random", "downsample", "tops"]
    full, few = rows["all tokens"], rows["random"]
    assert full["agreement"] == full["time_ratio"] == 1
    assert full["tokens"] == full["budget"] == 576
    # Two thirds is far below what it answers right, and far above guessing.
    assert full["accuracy"] > 2 / 3
    assert few["tokens"] == few["budget"] == rows["downsample"]["tokens"] == 64
    assert rows["tops"]["budget"] == pytest.approx(64, abs=1)
    assert all(low <= r["accuracy"] <= high for r in data["results"] for low, high in [r["interval_95"]])
    assert len(data["questions"]) == len(few["answers"]) == 24
    right = sum(a == q["answer"] for a, q in zip(few["answers"], data["questions"], strict=True))
    assert few["accuracy"] == right / 24
    assert Image.open(out / "demo.png").width > 600
    assert Image.open(out / "accuracy.png").width > 600


def test_the_demo_shows_the_four_systems_at_equal_budgets_and_nothing_at_its_worst() -> None:
    ways = demo._ways(10)
    assert [w.name for w in ways[1:]] == [*demo._METHODS] * 2
    assert {"tops", "sms", "psigmoid", "sts", "divprune", "random"} <= {w.name for w in ways}
    plans = {(w.name, w.keep): w.plan for w in ways}
    assert plans["tops", 0.111] == METHODS["tops"](0.111, depth=10)
    assert plans["sts", 0.111].cuts[0].select == METHODS["sts"](0.278, budget=0.111).cuts[0].select


def test_ctrl_c_in_the_demo_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_METHODS", ("random", "downsample"))
    monkeypatch.setattr(demo, "_KEEPS", ("0.111",))
    ask = trial._ask
    asked = 0

    def stopped(*words: Any) -> None:
        nonlocal asked
        asked += 1
        if asked == 3 + 3 + 2:  # warmed up, one batch, and the second broken off at its second way
            raise KeyboardInterrupt
        ask(*words)

    monkeypatch.setattr(trial, "_ask", stopped)
    result = run(app, ["demo", "--questions", "24", "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert {r["questions"] for r in data["results"]} == {len(data["questions"])} == {8}
    assert (tmp_path / "demo.json").is_file() and (tmp_path / "demo.png").is_file()
    asked = 7
    nothing = run(app, ["demo", "--questions", "24", "--out", str(tmp_path / "none")])
    assert nothing.exit_code == 130 and not (tmp_path / "none" / "demo.json").exists()


@pytest.mark.parametrize("n", ["7", "2001"])
def test_demo_of_too_few_or_too_many(n: str) -> None:
    result = run(app, ["demo", "--questions", n])
    assert result.exit_code == 2
    assert f"--questions is {n}; give 8 to 2000" in result.stderr


def test_demo_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    result = run(app, ["demo", "--out", str(tmp_path / "a" / "b")])
    assert result.exit_code == 2
    assert "--out" in result.stderr


def process(words: list[str]) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "foveate.cli", *words],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_in_a_process_of_its_own() -> None:
    good = process([*ASK, "--method", "tops", "--json"])
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["plain"]["answer"] == SAMPLE.answer
    # A warning is one line on stderr, and so is an error.
    assert all(line.startswith("foveate: ") for line in good.stderr.splitlines())
    bad = process([*ASK, "--method", "visonzip"])
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "Traceback" not in bad.stderr
