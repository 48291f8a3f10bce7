"""What a cell of the cost pass holds, and that its floor is the plain model without the dropped tokens."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from bench_prompts import ask, noise
from bench_prompts import qwen as qwen_engine
from foveate import attach
from foveate.bench import cost, tasks
from foveate.bench.oracle import oracle
from foveate.bench.timing import Runner, ratio, spread
from foveate.bench.ways import Way
from foveate.engines.answer import Times
from foveate.engines.score import prepare_examples
from foveate.methods import METHODS


@pytest.fixture(scope="module")
def cell(engine: Any, ways: list[Way]) -> dict[str, Any]:
    examples = tasks.load("tiny", 2)[0].examples
    much = Way("uniform", "577", "plan", METHODS["uniform"](keep=577).with_counts(exact=True))
    prompt, smaller = cost.asked(engine, examples, 2)
    *turns, found = cost.measure(engine, prompt, smaller, [*ways, much], length=3, repeats=2)
    assert turns == [None] * (2 + cost.WARM_UPS)
    assert found is not None
    return found


def rows(cell: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {r["way"]: r for r in cell["rows"]}


def test_parts_add_up(cell: dict[str, Any]) -> None:
    for r in cell["rows"][:-1]:
        s = r["seconds"]
        assert all(x["low"] <= x["median"] <= x["high"] for x in s.values() if x is not None)
        assert min(s[p]["median"] for p in ("encode", "prefill", "decode")) > 0
        assert (s["select"]["median"] > 0) == (r["way"] not in ("full", "downsample@0.111"))
        assert s["peak_bytes"] is None  # a CPU


def test_the_full_model_is_its_own_measure(cell: dict[str, Any]) -> None:
    full = rows(cell)["full"]
    assert all(x["median"] == 1 for x in full["speedup"].values())
    assert "oracle" not in full
    assert cell["visual"] == 2 * 576


def test_the_oracle_has_the_kept_tokens_or_the_budget(cell: dict[str, Any]) -> None:
    few, late, small = (rows(cell)[w] for w in ("random@0.111", "fastv@0.222", "downsample@0.111"))
    assert (few["oracle"]["visual"], few["oracle"]["equal"]) == (2 * 64, "tokens")
    assert (late["oracle"]["visual"], late["oracle"]["equal"]) == (2 * 218, "budget")
    assert "oracle" not in small
    assert few["efficiency"]["total"]["median"] > 0


def test_a_way_that_cannot_be_measured_says_why(cell: dict[str, Any]) -> None:
    assert "only 576 tokens" in cell["rows"][-1]["failed"]


def test_fewer_tokens_cost_less_on_paper(cell: dict[str, Any]) -> None:
    full, late, few = (rows(cell)[w] for w in ("full", "fastv@0.222", "random@0.111"))
    for name in ("prefill_flops", "kv_bytes"):
        assert full[name] > late[name] > few[name] > 0


def test_cache_bytes_are_the_caches(engine: Any, cell: dict[str, Any]) -> None:
    prompt = prepare_examples(engine, tasks.load("tiny", 2)[0].examples)
    with torch.no_grad():
        cache = engine.model(**prompt.inputs, use_cache=True).past_key_values
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert rows(cell)["full"]["kv_bytes"] == held


@pytest.mark.parametrize("kind", ["tiny", "qwen"])
def test_the_oracle_is_the_plain_model_without_the_others(engine: Any, kind: str) -> None:
    """Without gaps in the positions a cut at the input is the same computation; so are the numbers."""
    engine = qwen_engine() if kind == "qwen" else engine
    examples = ask(noise(96, 96), noise(64, 128, 1))
    prompt = prepare_examples(engine, examples)
    plan = replace(METHODS["random"](keep=0.3), positions="contiguous")
    with attach(engine.model, plan, tail=prompt.tail) as attached, torch.no_grad():
        pruned = engine.model(**prompt.inputs).logits[:, -1]
        found = oracle(engine, prompt, attached.report)
    with torch.no_grad():
        arguments = found.encode()
        mask = arguments["attention_mask"]
        places = (mask.cumsum(1) - 1).clamp(min=0)
        if kind == "qwen":
            places = places.expand(3, -1, -1)
        plain = engine.model(**arguments, position_ids=places).logits[:, -1]
    if kind == "tiny":
        torch.testing.assert_close(plain, pruned, atol=1e-4, rtol=1e-4)
    assert arguments["inputs_embeds"].shape[1] < prompt.tokens
    assert int(mask.sum()) == int(prompt.inputs["attention_mask"].sum()) - attached.report.tokens + found.visual


def timed(**parts: float) -> Runner:
    names = {"encode": 0.0, "select": 0.0, "prefill": 0.0, "decode": 0.0} | parts
    return Runner(dict, times=[Times(**names)])


def test_break_even_by_hand() -> None:
    # 400 dropped tokens save 4 s, so one saves 10 ms; choosing takes 0.5 s: 50 tokens have to go.
    full, floor, mine = timed(prefill=5.0), timed(prefill=1.0), timed(prefill=1.0, select=0.5)
    found = cost.break_even(full, mine, floor, visual=500, kept=100)
    assert found == {"dropped": pytest.approx(50), "visual": pytest.approx(62.5)}
    assert cost.break_even(floor, mine, full, 500, 100) is None
    assert cost.break_even(full, mine, floor, 500, 500) is None
    faster = cost.break_even(full, floor, mine, 500, 100)
    assert faster == {"dropped": 0, "visual": 0}


def test_ratios_are_taken_turn_by_turn() -> None:
    # The machine slows down threefold; the ratio does not.
    slow = [Times(0, 0, s, 0) for s in (2.0, 6.0, 4.0)]
    fast = [Times(0, 0, s / 2, 0) for s in (2.0, 6.0, 4.0)]
    assert ratio(Runner(dict, times=slow), Runner(dict, times=fast), "total")["median"] == 2
    assert spread([3.0]) == {"median": 3, "low": 3, "high": 3}


def test_the_model_is_free_afterwards(engine: Any, cell: dict[str, Any]) -> None:
    with attach(engine.model, METHODS["random"](keep=4)):
        pass
