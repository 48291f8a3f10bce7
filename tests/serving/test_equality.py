"""Served answers are those of Hugging Face with a plan attached, on the same kept tokens."""

import json
import os

import pytest
from engines_of_vllm import MODELS, NAME, ask, same

from foveate import methods
from foveate.cut import Cut
from foveate.engines.score import answer
from foveate.methods.divprune import Farthest
from foveate.plan import Plan
from foveate.tiny.examples import examples

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")
pytestmark = pytest.mark.skipif(NAME not in MODELS, reason="for the instruments")

MANY = int(os.environ.get("FOVEATE_QUESTIONS", "104"))
PLANS = {
    "divprune": dict(keep=1 / 9),
    "fastervlm": dict(keep=1 / 9),
    "tops": dict(keep=0.2, stages=1, positions="original"),
    "random": dict(keep=24),
    "cdpruner": dict(keep=24),
    "sms": dict(keep=24, stages=1, c=64.0),
    "hired": dict(keep=24),
}


@pytest.fixture(scope="module")
def asked():
    return examples(range(-(-MANY // 8)))[:MANY]


def hugging(reference, asked, plan):
    """In batches that share no padding with others, for the floats' sake: one scene at a time."""
    return [s for i in range(0, len(asked), 8) for s in answer(reference, asked[i : i + 8], plan, 8)]


@pytest.mark.parametrize("name", list(PLANS))
def test_answers_and_kept_tokens_equal_hugging_face(instrument, reference, asked, kept, name):
    some = asked if name in ("divprune", "fastervlm") else asked[:16]
    plan = methods.METHODS[name](**PLANS[name])
    wanted = hugging(reference, some, plan)
    got = ask(instrument[1], some, {"method": name, **PLANS[name]})
    aware = "text_BTD" in plan.reads
    choices = {
        (id(e.images[0]), e.question if aware else ""): list(s.images[0].cuts[-1].kept)
        for e, s in zip(some, wanted, strict=True)
    }
    assert kept == list(choices.values()), "one choice a scene, or a question"
    same(got, wanted)


def test_a_cut_at_the_encoder_chooses_by_its_features(instrument, reference, asked, kept):
    plan = Plan((Cut("encoder", Farthest(), 32),))
    wanted = hugging(reference, asked[:8], plan)
    got = ask(instrument[1], asked[:8], json.loads(plan.to_json()))
    assert kept == [list(wanted[0].images[0].cuts[-1].kept)]
    same(got, wanted)


def test_keeping_everything_equals_the_stock_model(instrument, reference, asked):
    wanted = hugging(reference, asked[:16], None)
    from foveate.engines.vllm.worker import COUNTS

    before = COUNTS["chosen"]
    for plan in ("all", {"method": "divprune", "keep": 1.0}):
        same(ask(instrument[1], asked[:16], plan), wanted)
    assert COUNTS["chosen"] == before
