"""`foveate train` as a person and a program meet it: a selector in a folder that `foveate run` takes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from foveate.cli import app
from foveate.data import Example
from foveate.pointer.loading import load
from foveate.pointer.train import Recipe, calibrate, state
from foveate.pointer.train.parts import split
from foveate.tiny import examples as world

run = CliRunner().invoke


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.write(tmp_path_factory.mktemp("data"), range(6), "train", 1)


@pytest.mark.parametrize("kind", ["sts", "oneshot", "published"])
def test_a_selector_comes_out(kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Hardly trained, the published stop comes at once or late: one picture meets a small budget only by luck.
    monkeypatch.setattr(calibrate, "_OFF", 1.0)
    which = ["sts", "--recipe", "published", "--felt", "--group", "2"] if kind == "published" else [kind]
    words = ["train", *which, "--data", str(data), "--budget", "0.05", "--steps", "2", "--batch", "2"]
    result = run(app, [*words, "--out", str(tmp_path / "run"), "--json"])
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert 0 <= figures["accuracy"] <= figures["accuracy_full"] + 1
    assert figures["kept_count"]["of"] == 576
    folder = tmp_path / "run" / "selector"
    names = {f.name for f in (tmp_path / "run").iterdir()}
    assert names >= {"selector", "state.safetensors", "curves.json", "results.json"}
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == {
        k: v for k, v in figures.items() if k != "out"
    }
    trained = state.read(tmp_path / "run" / "state.safetensors")[1]["run"]["recipe"]
    assert trained["rate"] == (Recipe.published() if kind == "published" else Recipe()).rate
    assert trained["felt"] == (kind == "published")
    if kind == "oneshot":
        assert figures["kept_count"] == {"mean": 29, "deviation": 0, "of": 576}
        more = data.with_name("more.jsonl")
        line = json.loads(data.read_text().splitlines()[0]) | {"id": "more", "question": "what is there?"}
        more.write_text(data.read_text() + json.dumps(line) + "\n")
        other = [str(more) if w == str(data) else w for w in words]
        result = run(app, [*other, "--out", str(tmp_path / "run")])
        assert result.exit_code == 2 and "a run with other data" in result.stderr
        return
    assert figures["stop_bias"] == load(str(folder)).config.stop_bias
    picture = str(data.parent / json.loads(data.read_text().splitlines()[0])["image"])
    asked = ["run", "--image", picture, "--prompt", "what color is the star?", "--method", "sts", "--keep", "0.125"]
    out = run(app, [*asked, "--set", f"path={folder}", "--repeats", "1", "--max-new-tokens", "2", "--json"])
    assert out.exit_code == 0, out.stderr
    kept = json.loads(out.stdout)["pruned"]["report"]["images"][0]["per_layer"][-1]
    assert 1 <= kept <= 72


def test_two_processes_train_what_one_trains(data: Path, tmp_path: Path) -> None:
    """The same launcher starts many GPUs; both see their half of each update, and one of them speaks."""
    words = ["--data", str(data), "--budget", "0.05", "--steps", "2", "--device", "cpu", "--json"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = ["-m", "foveate.cli", "train", "sts", *words, "--batch", "1", "--out", str(tmp_path / "two")]
    two = subprocess.run([*launcher, *script], capture_output=True, text=True, timeout=300, check=False)
    assert two.returncode == 0, two.stderr
    assert json.loads(two.stdout)["kept_count"]["of"] == 576
    one = run(app, ["train", "sts", *words, "--batch", "1", "--accumulate", "2", "--out", str(tmp_path / "one")])
    assert one.exit_code == 0, one.stderr
    (_, pair), (_, alone) = (state.read(tmp_path / name / "state.safetensors") for name in ("two", "one"))
    assert pair["run"]["processes"] == 2 and pair["step"] == 2
    assert pair["curve"][0]["loss"] == pytest.approx(alone["curve"][0]["loss"], rel=1e-4)
    assert pair["curve"][0]["kept"] == pytest.approx(alone["curve"][0]["kept"], rel=1e-4)


BAD: list[tuple[list[str], str]] = [
    (["train", "sts", "--budget", "2"], "budget is 2.0"),
    (["train", "sts", "--precision", "int4"], "--precision is 'int4'"),
    (["train", "sts", "--precision", "fp16", "--device", "cpu"], "--precision fp16 needs a GPU"),
    (["train", "sts", "--data", "missing.jsonl"], "no data at missing.jsonl"),
    (["train", "sts", "--model", "nowhere"], "no model folder nowhere"),
    (["train", "sts", "--rate", "0"], "rate is 0.0"),
    (["train", "sts", "--device", "abacus"], "no device"),
    (["train", "oneshot", "--out", "{file}"], "--out"),
]


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(("words", "says"), BAD, ids=[" ".join(w) for w, _ in BAD])
def test_bad_words_are_found_before_a_model_is_loaded(words: list[str], says: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    given = [w.format(file=tmp_path / "file" / "x") for w in words]
    rest: list[Any] = [] if "--data" in words else ["--data", data]
    result = run(app, [*given, *map(str, rest), *([] if "--out" in words else ["--out", str(tmp_path / "o")])])
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_questions_about_one_picture_stay_together() -> None:
    examples = [Example(f"{i}-{j}", (Path(f"{i}.png"),), "?", ("a",)) for i in range(40) for j in range(3)]
    parts = split(examples)
    groups = [{e.id.split("-")[0] for e in part} for part in (parts.train, parts.watch, parts.held)]
    assert [len(g) for g in groups] == [32, 4, 4]
    assert len(set.union(*groups)) == 40
    deep = [Example(e.id, (Path("all") / e.id.split("-")[0] / "a.png",), "?", ("a",)) for e in examples]
    deep[0] = replace(deep[0], images=tuple(p.absolute() for p in deep[0].images))
    assert [len({e.id.split("-")[0] for e in part}) for part in (split(deep).watch, split(deep).held)] == [4, 4]
    more = split([*examples, Example("x", (Path("x.png"),), "?", ("a",))])
    assert len({e.id for e in more.train} ^ {e.id for e in parts.train}) <= 4


def test_one_that_reads_the_question_is_taught_first(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "_OFF", 1.0)
    words = ["train", "sts", "--data", str(data), "--budget", "0.05", "--steps", "2", "--batch", "2"]
    result = run(app, [*words, "--text", "--teach", "3", "--out", str(tmp_path / "run"), "--json"])
    assert result.exit_code == 0, result.stderr
    assert state.read(tmp_path / "run" / "taught" / "state.safetensors")[1]["step"] == 3
    assert load(str(tmp_path / "run" / "selector")).asks
    refused = run(app, [*words, "--teach", "3", "--out", str(tmp_path / "other")])
    assert refused.exit_code and "add --text" in refused.stderr
