"""Batched scoring says what one question at a time says, and likelihoods are those of a plain forward pass."""

from typing import Any

import pytest
import torch

from foveate import FoveateError, data, samples, tiny
from foveate.engines import hf, score
from foveate.methods import METHODS

EXAMPLES = [data.Example(str(i), (s.image,), s.question, (s.answer,)) for i, s in enumerate(samples.load())]
PLANS = {"plain": None, "divprune": METHODS["divprune"](keep=64), "fastv": METHODS["fastv"](keep=32)}


@pytest.fixture(scope="module")
def engine() -> hf.Engine:
    return hf.load()


@pytest.mark.parametrize("name", PLANS)
def test_a_batch_is_its_singles(engine: hf.Engine, name: str) -> None:
    plan = PLANS[name]
    together = score.answer(engine, EXAMPLES, plan, 8)
    likely = score.likelihood(engine, EXAMPLES, plan)
    for i in (0, 6):
        (alone,) = score.answer(engine, EXAMPLES[i : i + 1], plan, 8)
        asked = hf.ask(engine, EXAMPLES[i].pictures(), EXAMPLES[i].question, plan, 8)
        assert alone.text == together[i].text == asked.text
        assert alone.new_tokens == together[i].new_tokens == asked.new_tokens
        torch.testing.assert_close(alone.first_V, together[i].first_V, atol=1e-4, rtol=1e-4)
        assert score.likelihood(engine, EXAMPLES[i : i + 1], plan)[0] == pytest.approx(likely[i], abs=1e-4)
        assert [c.kept for image in alone.images for c in image.cuts] == [
            c.kept for image in together[i].images for c in image.cuts
        ]
        assert alone.budget == (asked.report.budget if asked.report else 0)


def test_likelihood_is_that_of_one_forward_pass(engine: hf.Engine) -> None:
    example = EXAMPLES[6]
    model, processor = engine.model, engine.processor
    prompt = tiny.PROMPT.format(question=example.question)
    inputs = processor(text=[f"{prompt} {example.answers[0]}"], images=example.pictures(), return_tensors="pt")
    ids = torch.cat([inputs["input_ids"], torch.tensor([[model.generation_config.eos_token_id]])], 1)
    mask = torch.ones_like(ids)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, pixel_values=inputs["pixel_values"]).logits
    said = logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[-4:, 0]
    (likely,) = score.likelihood(engine, [example])
    assert likely == pytest.approx(float(said.mean()), abs=1e-4)


def test_an_example_without_an_answer_has_no_likelihood(engine: Any) -> None:
    with pytest.raises(FoveateError, match="example x has no answer"):
        score.likelihood(engine, [data.Example("x", EXAMPLES[0].images, "what?")])


def test_scores_that_are_no_numbers_are_no_answer(engine: hf.Engine) -> None:
    """A log of NaN could not be read again, and a divergence from NaN would be 0."""
    handle = engine.model.lm_head.register_forward_hook(lambda *args: args[2] * torch.nan)
    try:
        with pytest.raises(FoveateError, match="no numbers in float32"):
            score.answer(engine, EXAMPLES[:1], None, 1)
    finally:
        handle.remove()
