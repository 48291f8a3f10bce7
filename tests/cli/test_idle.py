"""An option that nothing would read is refused, before anything is loaded; the same one is taken where it is read."""

import pytest
from typer.testing import CliRunner

from foveate.cli import app

BENCH = ["bench", "--out", "nowhere", "--task", "no-such.jsonl"]
SEARCH = ["search", "gsearch", "--out", "nowhere.json", "--data", "no-such.jsonl"]
TRAIN = ["--out", "nowhere", "--data", "no-such.jsonl"]
IDLE = [
    (BENCH, ["--concurrency", "2"], ["--engine", "vllm"]),
    (BENCH, ["--pairs", "2"], ["--engine", "vllm"]),
    (BENCH, ["--per-round", "2"], ["--engine", "vllm"]),
    (BENCH, ["--vllm", "--seed=1"], ["--engine", "vllm"]),
    ([*BENCH, "--engine", "vllm"], ["--baseline", "uniform"], ["--engine", "hf"]),
    ([*BENCH, "--engine", "vllm"], ["--batch-size", "2"], ["--engine", "hf"]),
    ([*BENCH, "--engine", "vllm"], ["--no-cost"], ["--engine", "hf"]),
    ([*BENCH, "--engine", "vllm"], ["--repeats", "2"], ["--engine", "hf"]),
    ([*BENCH, "--engine", "vllm"], ["--device", "cpu"], ["--engine", "hf"]),
    ([*BENCH, "--engine", "vllm"], ["--dtype", "float32"], ["--engine", "hf"]),
    ([*BENCH, "--no-cost"], ["--batch-sizes", "2"], ["--cost"]),
    ([*BENCH, "--no-cost"], ["--lengths", "2"], ["--cost"]),
    ([*BENCH, "--no-cost"], ["--repeats", "2"], ["--cost"]),
    (SEARCH, ["--trials", "5"], ["--how", "bayes"]),
    (SEARCH, ["--max-new-tokens", "5"], ["--metric", "agreement"]),
    (["search", "auto", *SEARCH[2:], "--budget", "0.5", "--metric", "likelihood"], ["--max-new-tokens", "5"], None),
    (["train", "oneshot", *TRAIN], ["--group", "2"], None),
    (["train", "sts", *TRAIN, "--recipe", "published"], ["--text"], ["--recipe", "coverage"]),
    (["train", "sts", *TRAIN], ["--felt"], ["--recipe", "published"]),
    (["bench", "--compare", "a", "b"], ["--method", "divprune"], None),
    (["bench", "--compare", "a", "b"], ["--out", "nowhere"], None),
]
"""(the command, what has no effect in it, what makes a difference of it)"""


def said(words):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    return " ".join(result.stderr.split())


@pytest.mark.parametrize(("command", "idle", "read"), IDLE, ids=lambda words: " ".join(words or ["-"]))
def test_an_option_without_effect_is_refused_and_one_with_effect_is_not(command, idle, read):
    assert "has no effect" not in said(command)
    told = said([*command, *idle])
    assert f"{idle[0].removeprefix('--no-').removeprefix('--')} has no effect with" in told
    if read:
        assert "has no effect" not in said([*command, *idle, *read])


def test_two_forms_of_the_list_are_one_too_many():
    assert "--json and --models are two ways to print" in said(["list", "--models", "--json"])


def test_a_servers_settings_are_read_whatever_else_is_given():
    assert "no option of divprune 'distanze'" in said(["serve", "tiny", "--image-tokens", "64", "--set", "distanze=1"])
