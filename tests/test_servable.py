"""Which plans can be served, and why others cannot."""

import pytest

from foveate.methods import METHODS
from foveate.plan import Plan
from foveate.servable import servable


@pytest.mark.parametrize("name", ["random", "uniform", "pool", "fastervlm", "divprune", "hired"])
def test_one_cut_before_the_llm_can_be_served(name):
    assert servable(METHODS[name](0.25)) is None


@pytest.mark.parametrize(
    ("name", "why"),
    [("fastv", "inside the LLM"), ("pyramiddrop", "one cut, not")],
)
def test_what_a_server_cannot_do_is_refused(name, why):
    assert why in servable(METHODS[name](0.25))


def test_a_text_tower_is_refused():
    assert "relevance_BN, which a server does not see" in servable(METHODS["trim"](0.25, text_tower="clip"))


def test_other_positions_are_refused():
    plan = METHODS["divprune"](0.25)
    assert "contiguous" in servable(Plan(plan.cuts, "contiguous"))
