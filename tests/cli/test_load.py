"""`foveate bench --engine vllm`: what is put under load, without a server."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from foveate import methods
from foveate.bench import load as load_bench
from foveate.bench import statistics
from foveate.cli import app, load, show
from foveate.cli.load import shared

run = CliRunner(env={"COLUMNS": "160"}).invoke
ARMS = [("stock", 2.0), ("pruned", 4.0)]
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


def test_the_table_leaves_out_what_was_not_measured_and_what_a_narrow_page_cannot_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = load_bench.to_dict(
        [load_bench.Round(arm, n, speed, 2 * speed, 1 / speed, 90.0) for n in (1, 4) for arm, speed in ARMS * 7],
        "stock",
    )["ratios"]

    def printed(width: str) -> str:
        monkeypatch.setenv("COLUMNS", width)
        for part in load.under_load(rows):
            show.console().print(part)
        return capsys.readouterr().out

    wide, narrow = printed("200"), printed("80")
    assert "4 x 2.00 (2.00-2.00)" in wide and "CPU" not in wide and "tokens/s" in wide
    assert "x 2.00" in narrow and "Left out for want of room: tokens/s" in narrow and "room" not in wide
    assert max(map(len, narrow.splitlines())) <= 80
