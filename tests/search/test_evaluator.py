"""The evaluator says what attaching and generating says, only sooner."""

import pytest

from foveate import FoveateError, metrics
from foveate.data import Example
from foveate.engines import hf
from foveate.engines.score import answer, likelihood
from foveate.methods import METHODS
from foveate.methods.layerwise import layerwise
from foveate.search import evaluator
from foveate.search.evaluator import Evaluator
from foveate.tiny.examples import examples

DEPTH = 10
SOME = examples(range(3), "test", 2)
PLANS = {
    "psigmoid": METHODS["psigmoid"](0.15, depth=DEPTH, attention="own"),
    "previous": METHODS["psigmoid"](0.15, depth=DEPTH, raters="text"),
    "an input cut": METHODS["psigmoid"](0.05, depth=DEPTH, first="cls"),
    "fastv": METHODS["fastv"](0.05),
}


@pytest.fixture(scope="module")
def engine():
    return hf.load()


@pytest.fixture(scope="module")
def exact(engine):
    return Evaluator(engine, SOME, "exact", batch=3, max_new_tokens=6)


def asked(engine, plan):
    return [s for i in range(0, len(SOME), 3) for s in answer(engine, SOME[i : i + 3], plan, 6)]


@pytest.mark.parametrize("which", PLANS)
def test_scores_are_those_of_generating(engine, exact, which):
    said = asked(engine, PLANS[which])
    want = [metrics.exact(s.text, e.answers) for s, e in zip(said, SOME, strict=True)]
    for _ in range(2):  # the second time, from where the layers begin to differ
        outcome = exact.evaluate(PLANS[which])
        assert list(outcome.scores) == want
        assert outcome.budget == pytest.approx(sum(s.budget for s in said) / len(SOME) / 576)
    assert 0 < outcome.flops < outcome.budget


def test_where_a_config_tells_no_shape_tokens_are_the_cost(exact, monkeypatch):
    monkeypatch.setattr(exact, "shape", None)
    outcome = exact.evaluate(PLANS["fastv"])
    assert outcome.flops == outcome.budget < 1


def test_a_search_walking_down_gives_what_plans_by_themselves_give(engine, exact):
    alone = Evaluator(engine, SOME, "exact", batch=3, max_new_tokens=6, memory=0)
    for layer, keeps in [
        (1, [1.0, 0.2]),
        (2, [1.0, 0.2, 0.05]),
        (2, [1.0, 0.2, 0.02]),
        (4, [1.0, 0.2, 0.05, 0.05, 0.0]),
    ]:
        plan = layerwise([*map(float, keeps), *[float(keeps[-1])] * (DEPTH - len(keeps))], attention="own")
        assert exact.evaluate(plan, layer) == alone.evaluate(plan, layer)
        assert [b.arrival.at for b in exact.batches] == [layer] * 2 and alone.batches[0].arrival is None


def test_agreement_needs_no_answers(engine):
    bare = [Example(e.id, e.images, e.question) for e in SOME]
    found = Evaluator(engine, bare, "agreement", batch=3, max_new_tokens=6)
    assert found.full.score == 1.0 and found.full.budget == 1.0
    plain = [s.text for s in asked(engine, None)]
    got = found.evaluate(PLANS["fastv"]).scores
    assert list(got) == [float(a.text == b) for a, b in zip(asked(engine, PLANS["fastv"]), plain, strict=True)]
    with pytest.raises(FoveateError, match="has no answer"):
        Evaluator(engine, bare, "exact")


def test_likelihood_is_that_of_decoding(engine, monkeypatch):
    monkeypatch.setattr(evaluator, "FLOOR", 0.0)
    found = Evaluator(engine, SOME, "likelihood", batch=3)
    want = likelihood(engine, SOME, PLANS["psigmoid"])
    assert list(found.evaluate(PLANS["psigmoid"]).scores) == pytest.approx(want, rel=1e-3, abs=1e-4)
    assert list(found.full.scores) == pytest.approx(likelihood(engine, SOME), rel=1e-3, abs=1e-4)


def test_a_metric_that_does_not_exist(engine):
    with pytest.raises(FoveateError, match="did you mean 'exact'"):
        Evaluator(engine, SOME, "exakt")
