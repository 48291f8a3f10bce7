"""`foveate search`: words and data are checked before the model is loaded; the plan it writes loads everywhere."""

import json

import pytest
from typer.testing import CliRunner

from foveate.cli import app, choose
from foveate.engines import hf
from foveate.search import halves
from foveate.tiny import examples

RUN = CliRunner()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return examples.write(tmp_path_factory.mktemp("data"), range(8), "test", 1)


def search(*words):
    return RUN.invoke(app, ["search", *map(str, words)])


def lines(tmp_path, count, **changes):
    file = tmp_path / "many.jsonl"
    (tmp_path / "a.png").write_bytes(b"not looked at yet")
    rows = [{"image": "a.png", "question": f"what is {i}?", "answer": "k"} | changes for i in range(count)]
    file.write_text("\n".join(json.dumps({k: v for k, v in r.items() if v is not None}) for r in rows))
    return file


def pictures(tmp_path, count):
    file = lines(tmp_path, count)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for i, row in enumerate(rows):
        row["image"] = f"{i}.png"
        (tmp_path / row["image"]).write_bytes(b"nor this")
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gsearch", "--metric", "accuracy"), "no metric 'accuracy'"),
        (("gsearch", "--how", "grids"), "how is 'grids'"),
        (("gsearch", "--metric", "exact", "--tolerance", "0.001"), "give at least 4000"),
        (("gsearch", "--tolerance", "-1"), "the tolerance is -1"),
        (("gsearch", "--first", "clss"), "first is 'clss'"),
        (("gsearch", "--attention", "next"), "attention is 'next'"),
        (("gsearch", "--device", "tpu9"), "no device"),
        (("psigmoid", "--keep", "0.05"), "stays above 0.1"),
        (("psigmoid", "--keep", "1.5"), "keep is 1.5"),
        (("psigmoid", "--keep", "64"), "--keep is 64; this search takes a share of the tokens"),
        (("psigmoid", "--keep", "inf"), "keep is inf"),
        (("psigmoid", "--keep", "x"), "keep is 'x'"),
        (("psigmoid", "--keep", "0.3", "--unit", "ms"), "unit is 'ms'"),
        (("auto",), "--max-loss or --budget"),
        (("auto", "--budget", "2"), "--budget is 2"),
        (("auto", "--max-loss", "0.01", "--cost", "time"), "cost is 'time'"),
        (("auto", "--max-loss", "0.0001"), "give at least 40000"),
        (("auto", "--max-loss", "0.05", "--confidence", "95"), "--confidence is 95"),
    ],
)
def test_words_that_cannot_be(tmp_path, words, message):
    result = search(*words, "--data", pictures(tmp_path, 100), "--out", tmp_path / "plan.json")
    assert result.exit_code == 2 and message in result.output.replace("\n", " "), result.output


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("count", "changes", "message"),
    [
        (0, {}, "holds no examples"),
        (10, {}, "10 examples are too few"),
        (100, {}, "1 pictures cannot be halved"),
        (100, {"answer": None}, "has no answer"),
        (100, {"question": ""}, "asks nothing"),
        (2, {"image": "b.png"}, "does not exist"),
    ],
)
def test_data_that_cannot_be(tmp_path, count, changes, message):
    result = search("gsearch", "--data", lines(tmp_path, count, **changes), "--out", tmp_path / "plan.json")
    assert result.exit_code == 2 and message in result.output.replace("\n", " "), result.output


@pytest.mark.usefixtures("no_model")
def test_contradictions_and_missing_files(tmp_path):
    file = lines(tmp_path, 40, question="the same?")
    rows = file.read_text().replace('"k"', '"z"', 1)
    file.write_text(rows)
    result = search("gsearch", "--data", file, "--out", tmp_path / "plan.json")
    assert result.exit_code == 2 and "differ" in result.output
    for words, message in [
        (("--data", tmp_path / "no.jsonl", "--out", tmp_path / "p.json"), "no data at"),
        (("--data", file, "--out", tmp_path / "no" / "p.json"), "there is no folder"),
        (("--data", pictures(tmp_path, 100), "--out", tmp_path / "p.json", "--study", "x/y"), "the study x/y"),
        (("--data", pictures(tmp_path, 100), "--out", tmp_path / "p.png"), "end it with .json"),
        (("--data", file, "--out", file), "would be written over"),
        (("--data", tmp_path, "--out", file), "would be written over"),
        (("--data", file, "--out", tmp_path / "0.json"), "would be written over"),
        (("--data", pictures(tmp_path, 100), "--out", tmp_path / "p", "--study", tmp_path / "p"), "end it with .json"),
        (("--data", pictures(tmp_path, 100), "--out", tmp_path / "p.json", "--model", "no/such/model"), "no/such"),
    ]:
        result = search("gsearch", *words)
        assert result.exit_code == 2 and message in result.output.replace("\n", " "), result.output


def test_from_data_to_a_plan_that_runs(data, tmp_path, monkeypatch):
    monkeypatch.setattr(halves, "FEWEST", 3)
    out = tmp_path / "plan.json"
    words = ("psigmoid", "--data", data, "--out", out, "--keep", "0.4", "--metric", "agreement", "--trials", "2",
             "--json", "--batch", "4", "--max-new-tokens", "5")  # fmt: skip
    result = search(*words)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    plan = choose.read_plan(out)
    assert told["made"] == plan.made and "did not see" in plan.note
    assert told["made"]["held_out"]["examples"] == 4 and (tmp_path / "plan.png").is_file()
    again = search(*words)
    assert json.loads(again.stdout)["made"] == plan.made
    other = search(*words, "--seed", "1")
    assert other.exit_code == 2 and "begun with other settings" in other.output
    monkeypatch.setattr(hf, "fingerprint", lambda folder: "trained since")
    other = search(*words)
    assert other.exit_code == 2 and "(weights differ)" in other.output
