"""Load in interleaved pairs: who is asked when, what a ratio is, and where pruning begins to pay."""

from types import SimpleNamespace

import pytest

from foveate.bench.load import Arm, break_even, interval, measure, ratios, to_dict
from foveate.errors import FoveateError


class Fake:
    """Answers on a clock of its own; slower every time it is asked."""

    def __init__(self, name, seconds, seen):
        self.name, self.seconds, self.seen, self.calls = name, seconds, seen, 0
        self.computed = 0.0

    def answer(self, examples, plan=None, max_new_tokens=64, concurrency=1):
        self.calls += 1
        self.seen.append((self.name, tuple(examples), concurrency))
        slow = self.seconds * (1 + self.calls) / concurrency
        self.computed += self.seconds * len(examples)
        return [SimpleNamespace(began=i * slow, total=slow, first=slow / 2, new_tokens=4, prompt_tokens=10)
                for i, _ in enumerate(examples)]  # fmt: skip


def run(fast=0.5):
    seen = []
    fakes = Fake("stock", 1.0, seen), Fake("pruned", fast, seen)
    arms = [Arm(f.name, f, None, lambda f=f: f.computed) for f in fakes]
    return measure(arms, lambda n: [f"{n}-{i}" for i in range(3)], (1, 4), pairs=7), seen


def test_every_arm_is_asked_the_same_and_never_twice():
    _, seen = run()
    for i in range(0, len(seen), 2):
        (a, asked, clients), (b, too, others) = seen[i : i + 2]
        assert {a, b} == {"stock", "pruned"} and asked == too and clients == others
    assert len({s[1] for s in seen}) == len(seen) // 2
    # Blocks of two calls: one concurrency after the other, then the next round.
    first = [name for name, _, _ in seen[::2]]
    assert first[:4] == ["stock", "pruned", "pruned", "stock"], "each goes first in turn, at every concurrency"
    assert [clients for _, _, clients in seen[::2]][:4] == [1, 4, 1, 4]


def test_what_is_measured_is_saved_round_by_round():
    saved = []
    arms = [Arm(n, Fake(n, 1.0, [])) for n in ("a", "b")]
    rounds = measure(arms, lambda n: [n], (1, 2), pairs=2, save=lambda r: saved.append(to_dict(r, "a")["ratios"]))
    assert [len(s) for s in saved] == [2, 4, 4, 4] and len(rounds) == 8


def test_a_machine_that_slows_down_leaves_the_ratio_alone():
    rounds, _ = run()
    rows = {(r["arm"], r["concurrency"]): r for r in ratios(rounds, "stock")}
    for clients in (1, 4):
        row = rows["pruned", clients]
        assert row["pairs"] == 7
        assert row["requests_s_ratio"] == pytest.approx(2) and row["first_s_ratio"] == pytest.approx(0.5)
        assert row["cpu_s"] == pytest.approx(0.5) and row["cpu_s_ratio"] == pytest.approx(0.5)
        assert rows["stock", clients]["requests_s_interval"] == (1, 1)


def test_what_cannot_be_measured_has_no_ratio():
    arms = [Arm(n, Fake(n, 1.0, [])) for n in ("a", "b")]
    _, row = ratios(measure(arms, lambda n: ["x"], (1,), pairs=1), "a")
    assert row["cpu_s"] is row["cpu_s_ratio"] is row["cpu_s_interval"] is None


def test_break_even_is_where_it_stays_above():
    rows = [
        {"arm": "a", "concurrency": c, "requests_s_ratio": r} for c, r in ((1, 1.2), (4, 0.9), (16, 1.1), (64, 1.3))
    ]
    assert break_even(rows, "a") == 16
    assert break_even([{"arm": "a", "concurrency": 1, "requests_s_ratio": 0.5}], "a") is None
    assert to_dict(run(fast=2.0)[0], "stock")["break_even_concurrency"] == {"pruned": None}


def test_intervals_of_a_median():
    # By binomial tables: all of 6; for 9, the second to the second last.
    assert interval([1, 2, 3, 4, 5, 6]) == (1, 6)
    assert interval(list(range(1, 10))) == (2, 8)
    assert interval([1.0]) == (1.0, 1.0)


def test_one_way_is_no_comparison():
    with pytest.raises(FoveateError, match="at least two ways"):
        measure([Arm("stock", Fake("stock", 1.0, []))], lambda n: ["x"], (1,))
