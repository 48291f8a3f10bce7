"""Training: a killed run goes on as if nothing had happened, and who computed a gradient changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from foveate.errors import FoveateError
from instruments.llava.accelerator import Accelerator
from instruments.llava.clip_stages import _windows, new_clip, parameters
from instruments.llava.optimizer import orthogonal
from instruments.llava.stage import Stage, run_stage
from instruments.llava.state import load_state
from instruments.llava.workers import Workers

STAGE = Stage("windows", steps=3, micro=2, scenes=1, rate=1e-3, warmup=2, save_every=1)


def _train(folder: Path, stops: tuple[int | None, ...], processes: int = 1) -> dict[str, Tensor]:
    """Train STAGE, ending the run and beginning anew from what is on disk at each of `stops`."""
    for stop in stops:
        clip, heads = new_clip(seed=0)
        named = parameters(clip, heads)
        run_stage(STAGE, named, _windows(clip, heads, STAGE, region=0.2), folder, None, processes, stop)
    return {name: p.detach().clone() for name, p in named.items()}


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    unbroken = _train(tmp_path / "a", (None,))
    resumed = _train(tmp_path / "b", (1, 2, None))
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    curves = [load_state(tmp_path / run / "windows.safetensors")[1]["curve"] for run in "ab"]
    assert [row["kind"] for row in curves[0]] == [row["kind"] for row in curves[1]]


def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    one, two = _train(tmp_path / "a", (None,)), _train(tmp_path / "b", (None,), processes=2)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_scenes_that_others_draw_ahead_give_the_same_gradients() -> None:
    clip, heads = new_clip(seed=0)
    named, micro = parameters(clip, heads), _windows(clip, heads, STAGE, region=0.2)
    with Workers(named, micro, STAGE.micro, processes=1) as workers:
        here = [workers.gradients(step) for step in (1, 2)]
    with Accelerator(named, micro, STAGE.micro, range(1, 3), processes=2) as workers:
        ahead = [workers.gradients(step) for step in (1, 2)]
    for (one, told), (other, told_too) in zip(here, ahead, strict=True):
        assert told == told_too
        assert all(torch.equal(one[name], other[name]) for name in named)


def test_a_broken_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "windows.safetensors").write_bytes(b"not a state")
    with pytest.raises(FoveateError, match="delete it"):
        _train(tmp_path, (None,))


def test_orthogonal_gives_singular_values_near_one() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(2, 48, 96)))
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3


def test_the_rate_warms_up_stays_and_decays() -> None:
    stage = Stage("x", steps=100, micro=1, scenes=1, rate=1.0, warmup=10, decay=0.25)
    assert stage.factor(0) == 0.1 and stage.factor(50) == 1.0 and stage.factor(99) < 0.05
