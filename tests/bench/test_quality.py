"""From records to figures, against what a hand computes."""

from typing import Any

import pytest

from foveate.bench.quality import figures
from foveate.bench.statistics import compare, holm, wilson
from foveate.bench.tasks import Task
from foveate.bench.ways import ALWAYS, Way, line_up
from foveate.data import Example
from foveate.errors import FoveateError
from foveate.methods import METHODS

WAYS = [
    Way("full"),
    Way("random", "0.5", "plan", METHODS["random"](keep=0.5)),
    Way("uniform", "0.5", "plan", METHODS["uniform"](keep=0.5)),
]


def task(name: str, n: int) -> Task:
    return Task(name, [Example(str(i), (), "?", ("a",)) for i in range(n)], lambda *_: 0.0, "exact match")


def records(name: str, way: Way, scores: list[float], visual: int = 100) -> list[dict[str, Any]]:
    kept = visual if way.plan is None else visual // 2
    kl = {} if way.plan is None else {"kl": 0.25}
    return [
        {"task": name, "id": str(i), "way": way.id, "answer": "a" if s else "b", "score": s, "visual": visual,
         "kept": kept, "budget": float(kept), **kl}
        for i, s in enumerate(scores)
    ]  # fmt: skip


ONE = [[1.0] * 8 + [0.0] * 2, [1.0] * 4 + [0.0] * 6, [1.0] * 6 + [0.0] * 3 + [1.0]]
TWO = [[1.0, 0.5, 0.5, 0.0], [0.5, 0.5, 0.0, 0.0], [1.0, 0.5, 0.5, 0.0]]


@pytest.fixture
def found() -> dict[str, Any]:
    log = [r for name, table in (("one", ONE), ("two", TWO)) for w, s in zip(WAYS, table, strict=True)
           for r in records(name, w, s)]  # fmt: skip
    return figures([task("one", 10), task("two", 4)], WAYS, log, "random")


def row(found: dict[str, Any], name: str, way: int) -> dict[str, Any]:
    return next(r for r in found["rows"] if (r["task"], r["way"]) == (name, WAYS[way].id))


def test_accuracy_and_interval(found: dict[str, Any]) -> None:
    r = row(found, "one", 1)
    assert (r["accuracy"], r["interval_95"], r["n"], r["binary"]) == (0.4, list(wilson(4, 10)), 10, True)
    assert not row(found, "two", 1)["binary"]


def test_the_budget_is_a_share_of_the_same_pictures() -> None:
    """A way that fails, fails on the largest: what it kept of the others is no share of those."""
    small, large = records("one", WAYS[0], [1.0] * 3, 100), records("one", WAYS[0], [1.0] * 4, 900)[3:]
    mine = [
        *records("one", WAYS[1], [1.0] * 3),
        {"task": "one", "id": "3", "way": WAYS[1].id, "failed": "no", "score": 0.0},
    ]
    assert row(figures([task("one", 4)], WAYS, [*small, *large, *mine], "random"), "one", 1)["budget_fraction"] == 0.5


def test_comparisons_are_paired_and_corrected(found: dict[str, Any]) -> None:
    mine = row(found, "one", 2)
    assert mine["vs_full"] | {"p_holm": None} == compare(ONE[2], ONE[0]).to_dict() | {"p_holm": None}
    assert mine["vs_baseline"] | {"p_holm": None} == compare(ONE[2], ONE[1]).to_dict() | {"p_holm": None}
    assert "vs_baseline" not in row(found, "one", 1)
    every = [row(found, n, w)["vs_full"] for n in ("one", "two") for w in (1, 2)]
    assert [e["p_holm"] for e in every] == holm([e["p"] for e in every])


def test_agreement_is_with_the_full_models_words(found: dict[str, Any]) -> None:
    # Not with what is right: question 9 is wrong in full and right in uniform.
    assert row(found, "one", 2)["agreement"] == 0.7
    assert row(found, "one", 2)["kl_mean"] == 0.25


def test_the_three_meanings_of_relative_accuracy(found: dict[str, Any]) -> None:
    mine = next(r for r in found["relative"] if r["way"] == WAYS[1].id)
    assert mine["mean_of_ratios"] == pytest.approx((0.4 / 0.8 + 0.25 / 0.5) / 2)
    assert mine["ratio_of_means"] == pytest.approx((0.4 + 0.25) / (0.8 + 0.5))
    assert mine["mean_score"] == pytest.approx((0.4 + 0.25) / 2)
    other = next(r for r in found["relative"] if r["way"] == WAYS[2].id)
    assert other["worst"] == {"task": "one", "ratio": pytest.approx(0.7 / 0.8)}
    assert next(r for r in found["relative"] if r["way"] == "full")["mean_of_ratios"] == 1


def test_budget_stands_beside_keep(found: dict[str, Any]) -> None:
    r = row(found, "one", 1)
    assert (r["keep"], r["kept"], r["budget"], r["budget_fraction"]) == ("0.5", 50, 50, 0.5)


def test_broken_examples_count_nowhere_and_failures_as_wrong() -> None:
    log = records("one", WAYS[0], [1.0, 1.0, 1.0]) + records("one", WAYS[1], [1.0, 1.0])
    log += [{"task": "one", "id": "2", "way": WAYS[1].id, "failed": "too few tokens", "score": 0.0}]
    log += [{"task": "one", "id": "3", "broken": "no picture"}]
    found = figures([task("one", 4)], WAYS[:2], log, "random")
    assert found["tasks"][0]["broken"] == [{"id": "3", "why": "no picture"}]
    r = row(found, "one", 1)
    assert (r["n"], r["failed"], r["why"]) == (3, 1, "too few tokens")
    assert r["accuracy"] == pytest.approx(2 / 3)
    assert r["agreement"] == pytest.approx(2 / 3)


def test_a_full_model_that_fails_everywhere_leaves_the_ways_their_own_figures() -> None:
    log = [{"task": "one", "id": str(i), "way": "full", "failed": "out of memory", "score": 0.0} for i in range(10)]
    log += [r for w, s in zip(WAYS[1:], ONE[1:], strict=True) for r in records("one", w, s)]
    found = figures([task("one", 10)], WAYS, log, "random")
    assert row(found, "one", 0)["accuracy"] is None
    mine = row(found, "one", 2)
    assert mine["accuracy"] == 0.7 and mine["vs_baseline"]["difference"] == pytest.approx(0.3)
    assert mine["budget_fraction"] is None and not {"agreement", "vs_full"} & mine.keys()


def test_the_baselines_are_always_there() -> None:
    plans: list[tuple[str, str]] = []

    def build(name: str, keep: str) -> Any:
        plans.append((name, keep))
        return METHODS[name](keep=float(keep))

    ways = line_up(["fastv", "random"], ["0.5", "0.1"], build)
    assert ways[0].id == "full"
    assert [(w.method, w.keep) for w in ways[1:]] == [(m, k) for k in ("0.5", "0.1") for m in (*ALWAYS, "fastv")]
    assert len(plans) == 8
    assert len({w.id for w in ways}) == len(ways)

    def sometimes(name: str, keep: str) -> Any:
        if name == "fastv" and keep == "0.1":
            raise FoveateError("not so few")
        return build(name, keep)

    some = {w.id: w for w in line_up(["fastv"], ["0.5", "0.1"], sometimes)}
    assert (some["fastv@0.1"].plan, some["fastv@0.1"].why, some["fastv@0.5"].why) == (None, "not so few", "")
    with pytest.raises(FoveateError, match="not so few"):
        line_up(["fastv"], ["0.1"], sometimes)
    with pytest.raises(FoveateError, match=r"keep is -1\.0"):
        line_up(["fastv"], ["0.5", "-1"], build)
    for methods, keeps in ((["fastv", "fastv"], ["0.5"]), (["fastv"], ["0.5", "0.5"]), (["fastv"], [])):
        with pytest.raises(FoveateError, match="--"):
            line_up(methods, keeps, build)
