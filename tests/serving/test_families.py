"""Tiny random models of the other families: served answers and kept tokens are Hugging Face's."""

import json

import numpy as np
import pytest
from engines_of_vllm import NAME, ask, same
from PIL import Image

from foveate import methods
from foveate.cut import Cut
from foveate.data import Example
from foveate.engines.score import answer
from foveate.methods.divprune import Farthest
from foveate.plan import Plan

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")
pytest.importorskip("torchvision", reason="their processors need torchvision")

from little import NAMES

pytestmark = pytest.mark.skipif(NAME not in NAMES, reason=f"FOVEATE_MODEL is none of {', '.join(NAMES)}")
SIZES = [(64, 48), (32, 32), (40, 96)]
PLANS = {"divprune": 0.3, "fastervlm": 0.3, "hired": 0.3, "cdpruner": 6, "all": 1.0}


@pytest.fixture(scope="module")
def asked():
    noise = np.random.default_rng(0)
    pictures = [Image.fromarray(noise.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in SIZES]
    texts = ("w7 w8 w9", "w20", "w30 w31")
    return [Example(str(i), (p,), t, ("?",)) for i, (p, t) in enumerate(zip(pictures, texts, strict=True))]


@pytest.mark.parametrize("name", list(PLANS))
def test_a_random_model_is_served_as_hugging_face_runs_it(instrument, reference, asked, kept, name):
    plan = None if name == "all" else methods.METHODS[name](keep=PLANS[name])
    agree(instrument[1], reference, asked, kept, plan, "all" if plan is None else {"method": name, "keep": PLANS[name]})


def test_a_cut_at_the_encoder_reads_the_last_layer_of_the_tower(instrument, reference, asked, kept):
    plan = Plan((Cut("encoder", Farthest(), 6),))
    wish = json.loads(plan.to_json())
    if NAME == "internvl":
        with pytest.raises(ValueError, match="tile by tile"):
            ask(instrument[1], asked[:1], wish)
        return
    agree(instrument[1], reference, asked, kept, plan, wish)


def agree(llm, reference, asked, kept, plan, wish):
    """Kept tokens and answers, question by question."""
    wanted = [answer(reference, [e], plan, 6)[0] for e in asked]
    # Random models say anything, the end token too; those of Hugging Face here know none.
    got = ask(llm, asked, wish, tokens=6, ignore_eos=True)
    # An image that keeps all it has is not chosen among.
    cuts = [(s.images[0].cuts[-1].kept, s.images[0].tokens) for s in wanted if plan is not None]
    assert kept == [list(which) for which, tokens in cuts if len(which) < tokens]
    same(got, wanted)


def test_images_of_different_sizes_go_through_one_encoder_call(instrument, asked):
    from foveate.engines.vllm.worker import COUNTS

    _, llm = instrument
    llm.reset_mm_cache()
    llm.reset_prefix_cache()
    llm.llm_engine.engine_core.reset_encoder_cache()
    before = COUNTS["calls"]
    ask(llm, asked, {"method": "divprune", "keep": 0.25}, tokens=1)
    assert COUNTS["calls"] == before + 1
