"""A learned selector at work on models of every family: batches and single prompts, beams, later turns of a chat."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from foveate import attach, images, samples
from foveate.engines import hf
from foveate.methods import METHODS
from foveate.pointer.saved import names
from learned import options
from zoo import NAMES, QWEN, SIZES, Row, batch, shared

KEEP = 0.5


def plan() -> Any:
    return METHODS["sts"](keep=KEEP, **options("sts"))


@pytest.mark.parametrize("name", NAMES)
def test_beams_of_a_batch_are_beams_of_singles(name: str) -> None:
    model = shared(name)
    rows = [Row([2, ("image", SIZES[name][-1]), 9], 1), Row([3, ("image", SIZES[name][0]), 12], 2)]
    wanted: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 3, "do_sample": False}
    together = batch(name, rows)
    with torch.no_grad(), attach(model, plan()):
        both = model.generate(**together.inputs, **wanted)[:, together.length :]
        for r, row in enumerate(rows):
            one = batch(name, [row])
            assert torch.equal(model.generate(**one.inputs, **wanted)[0, one.length :], both[r])


@pytest.mark.parametrize("name", NAMES)
def test_a_later_turn_is_as_if_all_had_been_said_at_once(name: str) -> None:
    """The selector reads no text, so what it keeps does not depend on how much was said."""
    model = shared(name)
    b = batch(name, [Row([2, ("image", SIZES[name][-1]), 14], 1)])
    first = {k: v[:, :-5] if v.shape == b.inputs["input_ids"].shape else v for k, v in b.inputs.items()}
    with torch.no_grad(), attach(model, plan()) as attached:
        whole = model(**b.inputs).logits[:, -5:]
        kept = attached.report.images[0].cuts[0].kept
        cache = model(**first, use_cache=True).past_key_values
        assert attached.report.images[0].cuts[0].kept == kept
        later = {"input_ids": b.inputs["input_ids"][:, -5:], "attention_mask": b.inputs["attention_mask"]}
        if name in QWEN:
            # Stock Qwen cannot place later tokens by itself: users of `forward` pass their positions.
            known = {k: v for k, v in b.inputs.items() if "pixel" not in k}
            later["position_ids"] = model.model.get_rope_index(**known)[0][..., -5:]
        after = model(**later, past_key_values=cache, use_cache=True).logits
    assert_close(after, whole, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", names())
def test_what_is_shipped_answers_from_few_tokens(name: str) -> None:
    """Every shipped selector fits the embedded model and keeps its budget within reason, picture by picture fewer."""
    engine = hf.load()
    chosen = METHODS["sts"](keep=1 / 3, path=name, budget=0.111)
    counts, right = [], []
    for sample in samples.load()[:4]:
        answer = hf.ask(engine, [images.load(sample.image)], sample.question, chosen, max_new_tokens=4)
        counts.append(answer.report.images[0].per_layer[-1])
        right.append(answer.text == sample.answer)
    budget = chosen.cuts[0].select.config.budget * 576
    assert all(1 <= c <= 192 for c in counts) and len(set(counts)) > 1
    assert sum(counts) / len(counts) < 2.5 * budget
    assert sum(right) >= 3
