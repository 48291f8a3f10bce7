"""Nothing of one request is reused for another that wants something else, and everything that may be is."""

from dataclasses import replace

import pytest
from engines_of_vllm import MODELS, NAME, ask, said

from foveate.tiny.examples import examples

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")
pytestmark = pytest.mark.skipif(NAME not in MODELS, reason="for the instruments")

PLAN = {"method": "divprune", "keep": 1 / 9}
AWARE = {"method": "cdpruner", "keep": 1 / 9}
"""Reads the question's words."""


@pytest.fixture(scope="module")
def asked():
    return examples(range(2, 4))


def counts():
    from foveate.engines.vllm.worker import COUNTS

    return dict(COUNTS)


def fresh(llm):
    llm.reset_prefix_cache()
    llm.reset_mm_cache()
    llm.llm_engine.engine_core.reset_encoder_cache()


def one_by_one(llm, some, plan):
    return [ask(llm, [e], plan)[0] for e in some]


def test_a_warm_answer_is_the_cold_one_without_encoding(instrument, asked):
    _, llm = instrument
    fresh(llm)
    cold = one_by_one(llm, asked[:8], PLAN)
    before = counts()
    warm = one_by_one(llm, asked[:8], PLAN)
    assert said(warm) == said(cold)
    assert counts() == before, "one image, one encoding, whoever asks"


def test_keeps_of_one_image_never_mix(instrument, asked):
    _, llm = instrument
    keeps = (64, 32, 64, 16)
    fresh(llm)
    alone = {}
    for k in {*keeps, "all"}:
        fresh(llm)
        alone[k] = ask(llm, asked[:1], "all" if k == "all" else PLAN | {"keep": k})[0]
    fresh(llm)
    whole = len(alone["all"].prompt_token_ids)
    for k in ("all", *keeps, "all"):
        again = ask(llm, asked[:1], "all" if k == "all" else PLAN | {"keep": k})[0]
        assert said([again]) == said([alone[k]])
        tokens = whole if k == "all" else len(alone[64].prompt_token_ids) - 64 + k
        # Answers hide a wrong hash; the number of placeholders does not.
        assert len(again.prompt_token_ids) == tokens


def test_five_plans_in_one_batch_are_five_plans_alone(instrument, asked):
    _, llm = instrument
    plans = [PLAN, {"method": "fastervlm", "keep": 0.25}, {"method": "divprune", "keep": 32}, "all", AWARE]
    alone = []
    for e, plan in zip(asked[:5], plans, strict=True):
        fresh(llm)
        alone += said(ask(llm, [e], plan))
    fresh(llm)
    assert said(ask(llm, asked[:5], plans)) == alone


def test_two_images_are_pruned_each(instrument, asked):
    _, llm = instrument
    a, b = asked[0], asked[8]
    both = replace(a, images=(a.images[0], b.images[0]))
    if instrument[0] == "llava":
        with pytest.raises(ValueError, match="positions, as long as it is unpruned"):
            ask(llm, [both], PLAN)
        return
    fresh(llm)
    before = counts()
    out = ask(llm, [both], PLAN | {"request_tokens": 20})[0]
    assert counts()["kept"] - before["kept"] == 20
    assert len(out.prompt_token_ids) < len(ask(llm, [both], PLAN)[0].prompt_token_ids)


def test_what_reads_the_question_is_not_shared_by_questions(instrument, asked):
    _, llm = instrument
    alone = []
    for e in asked[:4]:
        fresh(llm)
        alone += said(ask(llm, [e], AWARE))
    fresh(llm)
    before = counts()["encoded"]
    first = one_by_one(llm, asked[:4], AWARE)
    assert said(first) == alone
    assert counts()["encoded"] == before + 4, "each question looks at the image anew"
    again = one_by_one(llm, asked[:4], AWARE)
    assert said(again) == alone
    assert counts()["encoded"] == before + 4, "and once only"


def test_a_broken_selector_fails_its_own_requests_and_no_other(instrument, monkeypatch):
    from foveate.methods.fastervlm import ClsAttention

    def fail(self, view, k):
        raise RuntimeError("no")

    _, llm = instrument
    broken, good = {"method": "fastervlm", "keep": 0.25}, [PLAN, "all", PLAN | {"keep": 32}]
    plans, some = [good[0], broken, good[1], broken, good[2]], examples(range(2, 7))[::8]
    fresh(llm)
    right = said(ask(llm, [some[i] for i in (0, 2, 4)], good))
    fresh(llm)
    before = counts().get("failed", 0)
    with monkeypatch.context() as m:
        m.setattr(ClsAttention, "__call__", fail)
        # In one batch; a warm one after it, whose broken images nobody encodes again.
        for _ in range(2):
            out = ask(llm, some, plans, tokens=1) + ask(llm, some, plans)
            ends = [o.outputs[0].finish_reason for o in out]
            assert [e == "error" for e in ends] == [False, True, False, True, False] * 2, ends
            assert [said(out[5:])[i] for i in (0, 2, 4)] == right
            assert not any(said(out)[i] for i in (1, 3, 6, 8)), "what was said of the wrong tokens is not an answer"
            assert "the server's log says why" in out[1].outputs[0].stop_reason
        assert counts()["failed"] == before + 2
    assert said(ask(llm, some[:1], plans[:1])) == right[:1]
