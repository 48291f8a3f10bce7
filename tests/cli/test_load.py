"""`foveate bench --engine vllm`: what is put under load, without a server."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from foveate import methods
from foveate.bench import statistics
from foveate.cli import app, load
from foveate.cli.load import _line, shared

run = CliRunner(env={"COLUMNS": "160"}).invoke
WORDS = ["bench", "--engine", "vllm", "--keep", "64", "--pairs", "1", "--per-round", "2", "--concurrency", "1,4"]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    out: list[Any] = []
    monkeypatch.setattr(load, "load", lambda *given: out.extend(given))
    # A server's environment need not have it.
    monkeypatch.setattr(statistics, "needs_scipy", lambda: pytest.fail("load needs no SciPy"))
    return out


def test_methods_and_plan_files_are_measured_and_baselines_are_not(seen: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "searched.json"
    file.write_text(methods.divprune(keep=32).to_json())
    out = run(app, [*WORDS, "--method", f"fastervlm,{file}", "--out", str(tmp_path / "out"), "--vllm=--seed=1"])
    assert out.exit_code == 0, out.stderr
    model, plans, examples, _, clients, pairs, per_round, _, options, _ = seen
    assert model == "tiny" and [*plans.values()] == [methods.fastervlm(keep=64), methods.divprune(keep=32)]
    assert (clients, pairs, per_round, options) == ([1, 4], 1, 2, ["--seed=1"])
    assert len(examples) >= 2 * 2 * 2, "new pictures in every round, and in one more that warms up"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--task", "tiny,tiny:crowded"], "one task"),
        (["--method", "downsample"], "it drops no tokens"),
    ],
)
def test_what_no_server_can_be_asked_is_refused(seen: list[Any], tmp_path: Path, words: list[str], why: str) -> None:
    out = run(app, [*WORDS, *words, "--out", str(tmp_path)])
    assert out.exit_code == 2 and why in out.stderr and not seen, out.stderr


def test_two_servers_share_the_memory_unless_they_are_told_what_to_take() -> None:
    (share,) = shared([])
    assert share.startswith("--gpu-memory-utilization=") and float(share.partition("=")[2]) < 0.5
    for said in (["--gpu-memory-utilization", "0.3"], ["--kv_cache_memory_bytes=9"]):
        assert shared(said) == said


def test_a_line_leaves_out_what_was_not_measured() -> None:
    row = {"arm": "stock", "concurrency": 1, "prompt_tokens": 90.0, "requests_s": 2.0, "requests_s_ratio": 1.0,
           "requests_s_interval": (0.9, 1.1)}  # fmt: skip
    row |= {f"{field}{end}": None for field in ("first_s", "tokens_s", "cpu_s") for end in ("", "_ratio", "_interval")}
    assert "2.000 requests/s (x 1.00, 0.90 to 1.10)" in _line(row) and "token " not in _line(row)
