"""The catalogue is what the code says: the page in the documentation is the one that would be made now."""

from pathlib import Path

import pytest

from foveate.cli.catalogue import entry, markdown
from foveate.fields import ASKED
from foveate.methods import METHODS
from foveate.servable import servable
from learned import options

PAGE = Path(__file__).parents[2] / "docs" / "methods" / "catalogue.md"


def test_the_page_is_up_to_date():
    """foveate list --markdown > docs/methods/catalogue.md"""
    assert PAGE.read_text(encoding="utf-8") == markdown(list(METHODS))


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("gots", "residual"), ("cdpruner", "residual"), ("resprune", "residual"), ("divprune", "farthest"),
        ("anchorprune", "farthest"), ("crisp", "farthest"), ("scope", "coverage"), ("mmtok", "coverage"),
        ("eadp", "coverage"), ("sfpruner", "peaks"), ("priortr", "prior"), ("tops", "balance"), ("fastv", "top-k"),
    ],
)  # fmt: skip
def test_kernels_are_read_off_imports(name, kernel):
    assert entry(name).kernel == kernel


def test_who_asks_and_who_merges():
    asks = {n for n in METHODS if entry(n).asks}
    for name in METHODS:
        cuts = METHODS[name](keep=0.25, **options(name)).cuts
        assert (name in asks) == any(c.select.reads & ASKED for c in cuts)
    assert {"fastv", "cdpruner", "dart", "priortr"} <= asks and not asks & {"gots", "visionzip", "vtw", "evs"}
    assert {n for n in METHODS if entry(n).merges} == {"pool", "visionzip", "prumerge", "tome", "trim", "sparsevlm"}


def test_who_can_be_served():
    """One cut before the LLM; nobody merges before a server's projector."""
    for name in METHODS:
        plan = METHODS[name](keep=0.25, **options(name))
        early = plan.cuts[0].at == "encoder" and entry(name).merges
        assert (
            ("vllm" in entry(name).engines) == (servable(plan) is None and not early) == (entry(name).served == "yes")
        )
    by_option = {n for n in METHODS if entry(n).served == 'at="input"'}
    assert by_option == {"visionzip", "prumerge", "tome"}
    assert all(servable(METHODS[n](keep=0.25, at="input")) is None for n in by_option)


def test_every_paper_is_named():
    ours = {"random", "uniform", "pool", "psigmoid"}
    assert {n for n in METHODS if entry(n).paper is None} <= ours
