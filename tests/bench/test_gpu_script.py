"""The script for GPUs runs where there is none, keeps what it measured, and measures only what is missing."""

import json
from pathlib import Path

import pytest
import torch

from foveate import attach
from foveate.methods import method

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_it_measures_once_and_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu
    import gpu_parts

    words = ["--tiny", "--device", "cpu", "--method", "divprune,pyramiddrop", "--out", str(tmp_path)]
    gpu.main(words)
    (path,) = tmp_path.glob("gpu-*.json")
    data = json.loads(path.read_text())
    assert list(data["parts"]) == ["machine", "kernels 24x5x2", "answers llava-smokex2"]
    kernels, answers = (p["rows"] for p in list(data["parts"].values())[1:])
    assert all(r["shared"] == 1 for r in kernels) and {"ms", "torch_ms"} <= kernels[0].keys()
    assert {"farthest", "suppress", "STS, groups of 4", "STS, one by one"} <= {r["kernel"] for r in kernels}
    ways = {r["way"]: r for r in answers}
    assert {"plain", "one token", "given@0.111", "divprune@0.111", "divprune@0.111: never sent"} <= ways.keys()
    assert "failed" in ways["pyramiddrop@0.111"], "what cannot be had at this keep says why"
    pruned, plain = ways["divprune@0.111"], ways["plain"]
    assert pruned["kv_mib_a_row"] < plain["kv_mib_a_row"] and pruned["over_oracle"] > 0
    assert pruned["prefill_tflop_a_row"] < plain["prefill_tflop_a_row"]
    assert "divprune" in capsys.readouterr().out

    del data["parts"]["kernels 24x5x2"]
    path.write_text(json.dumps(data))
    for part in ("answers", "machine"):
        monkeypatch.setattr(gpu_parts, part, lambda *_, part=part: pytest.fail(f"{part} was there already"))
    gpu.main(words)
    again = json.loads(path.read_text())["parts"]
    assert again["answers llava-smokex2"] == data["parts"]["answers llava-smokex2"] and len(again) == 3


def test_compiled_norms_and_mlps_change_no_answer(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_parts
    import shapes

    engine = shapes.build("llava-smoke", "cpu", torch.float32)
    prompt = shapes.prompt(engine, "llava-smoke", 1)
    torch._dynamo.reset()

    def logits(plan):
        with attach(engine.model, plan, tail=5), torch.no_grad():
            return engine.model(**prompt.inputs).logits[:, -1]

    plans = [method("divprune", keep=0.2), method("fastv", keep=0.5)]
    before = [logits(p) for p in plans]
    gpu_parts.fuse(engine, backend="eager")  # dynamo alone: what it captures, hooks included, is what is at stake
    for plan, expected in zip(plans, before, strict=True):
        torch.testing.assert_close(logits(plan), expected)
    counted = torch._dynamo.utils.counters
    assert counted["stats"]["unique_graphs"] >= 2 and not counted["recompile_limit"], "one program serves all lengths"
