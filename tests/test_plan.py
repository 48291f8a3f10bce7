"""Plans are plain data: they refuse nonsense, go to JSON and back, and fit any depth."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate import Cut, FoveateError, Plan, PlanError
from foveate.methods import METHODS, method
from foveate.methods.uniform import Uniform
from learned import options

U = Uniform()


@pytest.mark.parametrize("keep", [0, -1, 0.0, 1.5, -0.2, True, "a", None, float("nan")])
def test_keeps_that_mean_nothing(keep):
    with pytest.raises(PlanError, match="keep is"):
        Cut("input", U, keep)


def test_a_number_written_as_a_fraction_is_told_the_way_out():
    with pytest.raises(PlanError, match="write keep=64"):
        Cut("input", U, 64.0)


@pytest.mark.parametrize("at", ["output", -1, True, None, 1.0, 1.5])
def test_places_that_do_not_exist(at):
    with pytest.raises(PlanError, match="cut at"):
        Cut(at, U, 0.5)


def test_the_type_of_one_decides():
    assert Cut("input", U, 1).count(576) == 1
    assert Cut("input", U, 1.0).count(576) == 576
    assert Cut("input", U, 0.222).count(576) == 128
    assert Cut("input", U, 0.001).count(36) == 1
    assert Cut("input", U, 37).count(36) == 36
    with pytest.raises(PlanError, match="at most 36"):
        Cut("input", U, 37, exact=True).count(36)


@pytest.mark.parametrize(
    ("cuts", "say"),
    [
        ([("input", 0.2), (2, 0.5)], "keep grows from 0.2 at 'input' to 0.5 at 2"),
        ([(4, 8), (8, 16)], "dropped tokens cannot return"),
        ([(8, 0.5), (4, 0.2)], "list cuts in forward order"),
        ([("input", 0.5), ("input", 0.2)], "one a place"),
        ([("input", 0.5), ("encoder", 0.2)], "forward order"),
        ([(0.75, 0.5), (0.25, 0.2)], "forward order"),
    ],
)
def test_cuts_that_contradict_each_other(cuts, say):
    with pytest.raises(PlanError, match=say):
        Plan(tuple(Cut(at, U, keep) for at, keep in cuts))


def test_with_keep_copies():
    plan = Plan((Cut("input", U, 0.5), Cut(2, U, 0.2)))
    assert [c.keep for c in plan.with_keep(0.3, 0.1).cuts] == [0.3, 0.1]
    assert [c.keep for c in plan.cuts] == [0.5, 0.2]
    with pytest.raises(PlanError, match="3 keeps for 2 cuts"):
        plan.with_keep(0.3, 0.2, 0.1)


@pytest.mark.parametrize("name", METHODS)
def test_json_and_back(name):
    plan = replace(METHODS[name](keep=0.5, **options(name)), note="from a test")
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.note == "from a test"
    assert again.to_json() == plan.to_json()
    assert [type(c.keep) for c in again.cuts] == [type(c.keep) for c in plan.cuts]


def edit(**changes):
    return json.dumps(json.loads(method("divprune", keep=0.5).to_json()) | changes)


def cut(**changes):
    return {"at": "input", "keep": 0.5, "select": {"kind": "foveate.methods.uniform:Uniform"}} | changes


INSIDE = '{"kind": "foveate.methods.switches:Merged", "select": '


@pytest.mark.parametrize(
    ("text", "say"),
    [
        ("{", "not JSON"),
        ("[]", "foveate_plan"),
        ("{}", "foveate_plan"),
        (edit(foveate_plan=99), "version 99"),
        (edit(cuts=[{}]), "incomplete"),
        (edit(cuts=[{"at": "input", "keep": 0.5, "select": {"kind": "os:system"}}]), "Foveate's own selectors only"),
        (
            edit(cuts=[{"at": "input", "keep": 0.5, "select": {"kind": "foveate.methods.uniform:Nothing"}}]),
            "does not have",
        ),
        (edit(cuts=[{"at": "input", "keep": 0.5, "select": {"kind": "foveate.methods.uniform:torch"}}]), "no selector"),
        (
            edit(cuts=[{"at": "input", "keep": 7.5, "select": {"kind": "foveate.methods.uniform:Uniform"}}]),
            "keep is 7.5",
        ),
        (edit(positions="sideways"), "positions"),
        (edit(positionz="original"), "no key of the plan 'positionz'; did you mean 'positions'"),
        (edit(cuts=[]), "without cuts drops nothing"),
        (edit(cuts=5), "cuts is 5"),
        (edit(cuts=[5]), "a cut is 5; it must be an object"),
        (edit(cuts=[cut(keeep=0.1)]), "did you mean 'keep'"),
        (edit(cuts=[cut(or_last="yes")]), "or_last is 'yes'"),
        (edit(cuts=[cut(or_last=True)]), "or_last=True speaks of a decoder layer's number, but the cut is at 'input'"),
        (edit(cuts=[cut(keep=10**400)]), "keep is 1000.* at most 1,000,000,000"),
        (edit(cuts=[cut(at=10**400)]), "cut at layer 1000"),
        (edit(cuts=[cut(select={"kind": "foveate.methods.random:Random", "seed": "x"})]), "seed is 'x'"),
        (edit(cuts=[cut(select={"kind": "foveate.methods.random:Random", "seeed": 1})]), "did you mean 'seed'"),
        (edit(cuts=[cut(select={"kind": 5})]), "Foveate's own selectors only"),
        (edit(mean=7), "mean is 7"),
        (edit(mean="much"), "mean is 'much'"),
        (edit(cuts=[cut(keep=64)], mean=0.3), "mean=0.3 scales fractions, but a cut keeps 64 tokens"),
        (edit(note=[1]), "note is"),
        (edit(mean=float("nan")), "NaN is no number of JSON"),
        (edit(cuts=[cut(select={"kind": "foveate.methods.tops:StageOne", "alpha": float("nan")})]), "NaN"),
        (edit().replace("0.5", "1e400"), "the number 1e400 is too large"),
        (edit().replace("0.5", "9" * 5_000), "a number has 5,000 digits"),
        ("[" * 100_000, "nested too deeply"),
        (edit(cuts=[cut(select=0)]).replace("0}", f"{INSIDE * 900}0{'}' * 901}"), "too deeply"),
        (edit(cuts=[cut(select={"kind": "foveate.methods.random:Random", "reads": 1})]), "known: seed "),
    ],
)
def test_plan_files_that_are_refused(text, say):
    with pytest.raises(PlanError, match=say):
        Plan.from_json(text)


@pytest.mark.parametrize("cuts", [None, 5, "ab", Cut("input", U, 0.5), ()])
def test_what_is_no_cuts_is_named(cuts):
    with pytest.raises(PlanError, match=r"write Plan|no Cut|without cuts"):
        Plan(cuts)


def test_a_byte_order_mark_is_passed_over():
    plan = method("divprune", keep=0.5)
    assert Plan.from_json("\ufeff" + plan.to_json()) == plan


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**300, 10**301) | st.floats() | st.text(max_size=8),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=8), v, max_size=3),
    max_leaves=5,
)
PLACES = [(), ("cuts",), ("positions",), ("mean",), ("note",), ("made",), ("foveate_plan",), ("cuts", 0),
          *(("cuts", 0, k) for k in ("at", "keep", "over", "or_last", "select")), ("cuts", 0, "select", "kind"),
          ("cuts", 0, "select", "alpha"), ("cuts", 1, "select", "attention"),
          ("cuts", 1, "select", "attention", "raters")]  # fmt: skip


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.sampled_from(PLACES), ANY, st.sampled_from(["replaced", "added", "cut"]), st.integers(0, 2_000))
def test_any_text_is_a_plan_or_a_sentence(place, value, how, size):
    """Whatever stands anywhere in a plan file, and wherever it is cut off."""
    data = json.loads(method("tops", keep=0.5).to_json())
    if how == "replaced" and place:
        *way, last = place
        inside = data
        for step in way:
            inside = inside[step]
        inside[last] = value
    elif how == "added":
        data["more"] = value
    text = json.dumps(data)
    text = text[:size] if how == "cut" else text if place else json.dumps(value)
    try:
        plan = Plan.from_json(text)
    except PlanError as e:
        assert len(str(e)) < 1_000
    else:
        assert Plan.from_json(plan.to_json()) == plan and plan.at_depth(32).cuts


def test_selectors_that_cannot_be_written():
    class Mine:
        reads, adaptive = frozenset(), False

    with pytest.raises(PlanError, match="plan file"):
        Plan((Cut("input", Mine(), 0.5),)).to_json()


def test_fractions_of_the_depth():
    plan = Plan((Cut("input", U, 0.9), Cut(0.375, U, 0.5), Cut(0.75, U, 0.2)))
    assert [c.at for c in plan.at_depth(32).cuts] == ["input", 12, 24]
    assert [c.at for c in plan.at_depth(28).cuts] == ["input", 10, 21]
    # Too shallow to keep both apart: the later one stands.
    assert [(c.at, c.keep) for c in plan.at_depth(2).cuts] == [("input", 0.9), (1, 0.2)]
    assert plan.at_depth(32).relative(32) == plan
    with pytest.raises(PlanError, match="layers 0 to 0"):
        plan.at_depth(1)
    with pytest.raises(PlanError, match="forward order"):
        Plan((Cut(10, U, 0.9), Cut(0.25, U, 0.5))).at_depth(8 * 2)


@pytest.mark.parametrize("depth", [4, 6, 28, 32, 36])
@pytest.mark.parametrize("name", ["tops", "pyramiddrop"])
def test_a_fraction_stays_the_mean_at_any_depth(name, depth):
    plan = METHODS[name](keep=0.5, **options(name)).at_depth(depth)
    held = []
    for layer in range(depth):
        done = [c.keep for c in plan.cuts if c.at == "input" or (isinstance(c.at, int) and c.at <= layer)]
        held.append(done[-1] if done else 1.0)
    assert sum(held) / depth == pytest.approx(0.5, rel=1e-6)


def test_selectors_from_elsewhere_are_not_written():
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Mine:
        reads = frozenset({"hidden_BND"})
        adaptive = False

    with pytest.raises(PlanError, match="nobody could read it back"):
        Plan((Cut("input", Mine(), 0.5),)).to_json()


@pytest.mark.parametrize("reads", [["hidden_BND"], "hidden_BND", None])
def test_reads_must_be_a_set(reads):
    class Mine:
        adaptive = False

    Mine.reads = reads
    with pytest.raises(PlanError, match="'reads' must be"):
        Cut("input", Mine(), 0.5)


@pytest.mark.parametrize("text", [None, 3, b"{}"])
def test_from_json_takes_text(text):
    with pytest.raises(PlanError, match="takes text"):
        Plan.from_json(text)


def test_every_error_is_a_value_error():
    assert issubclass(PlanError, FoveateError) and issubclass(FoveateError, ValueError)
