"""A server under load, pruned and not: requests a second, time to first token, tokens a second, in interleaved pairs.

Closed loop: so many clients, each of which asks again as soon as it was answered. A round asks every arm the same fresh
examples, one arm after another and each first in turn, so that a machine that slows down slows down all; pictures are
new in every round, so no cache answers. What is reported are ratios to the first arm within a round: their median, and
the interval that the sign test gives it. Painting and encoding pictures is not in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import comb
from statistics import median
from typing import Any, Protocol

from foveate.data import Example
from foveate.errors import FoveateError
from foveate.plan import Plan

PAIRS = 7


class Answers(Protocol):
    """What is measured: an engine that answers examples."""

    def answer(
        self, examples: Sequence[Example], plan: Plan | None = None, max_new_tokens: int = 64, concurrency: int = 1
    ) -> list[Any]:
        """See `foveate.engines.vllm.client.Served.answer`."""
        ...


@dataclass(frozen=True)
class Arm:
    """One way of answering: an engine, and what it drops."""

    name: str
    engine: Answers
    plan: Plan | None = None
    computed: Callable[[], float] | None = None
    """Processor seconds that the engine has taken so far."""


@dataclass(frozen=True)
class Round:
    """One arm in one round."""

    arm: str
    concurrency: int
    requests_s: float
    tokens_s: float
    first_s: float
    """Median time to the first token."""
    prompt_tokens: float
    """Mean."""
    cpu_s: float | None = None
    """Processor seconds a request: what other work on the machine changes least."""


def measure(
    arms: Sequence[Arm],
    examples: Callable[[int], Sequence[Example]],
    concurrency: Sequence[int],
    pairs: int = PAIRS,
    max_new_tokens: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
    save: Callable[[Sequence[Round]], None] = lambda rounds: None,
) -> list[Round]:
    """Ask every arm, round by round.

    Args:
        arms: the first is what the others are compared with.
        examples: those of a round, by its number: the same for every arm, never seen before.
        concurrency: clients at once; each has its turn in every round.
        pairs: rounds that count; one more warms up.
        max_new_tokens: the longest answer.
        progress: (rounds done, of how many).
        save: is given all there is, each time that every arm was asked.

    Raises:
        FoveateError: fewer than two arms, or no pairs.
    """
    if len(arms) < 2 or pairs < 1:
        raise FoveateError(f"{len(arms)} ways and {pairs} pairs; compare at least two ways, in at least one pair")
    out: list[Round] = []
    number, total = 0, len(concurrency) * (pairs + 1)
    # One round of each concurrency after another, so that a measurement that is broken off has pairs of all.
    for turn in range(pairs + 1):
        for i, clients in enumerate(concurrency):
            asked = examples(number)
            number += 1
            first = (turn + i) % len(arms)
            for arm in (*arms[first:], *arms[:first]):
                before = arm.computed() if arm.computed else None
                replies = arm.engine.answer(asked, arm.plan, max_new_tokens, clients)
                taken = arm.computed() - before if arm.computed and before is not None else None
                if turn:
                    out.append(_round(arm.name, clients, replies, taken))
            progress(number, total)
            if turn:
                save(out)
    return out


def _round(name: str, clients: int, replies: Sequence[Any], taken: float | None) -> Round:
    n = len(replies)
    seconds = max(r.began + r.total for r in replies) - min(r.began for r in replies)
    return Round(
        name, clients, n / seconds, sum(r.new_tokens for r in replies) / seconds, median(r.first for r in replies),
        sum(r.prompt_tokens for r in replies) / n, None if taken is None else taken / n,
    )  # fmt: skip


def ratios(rounds: Sequence[Round], base: str) -> list[dict[str, Any]]:
    """Each arm against the base at each concurrency: medians of ratios within a round, with 95 % intervals."""
    out = []
    for clients in dict.fromkeys(r.concurrency for r in rounds):
        here = {a: [r for r in rounds if (r.arm, r.concurrency) == (a, clients)] for a in {r.arm: 0 for r in rounds}}
        for name, mine in here.items():
            row: dict[str, Any] = {"arm": name, "concurrency": clients, "pairs": len(mine)}
            for field in ("requests_s", "tokens_s", "first_s", "cpu_s"):
                pairs = [(getattr(a, field), getattr(b, field)) for a, b in zip(mine, here[base], strict=True)]
                found = sorted(a / b for a, b in pairs if a is not None and b)
                row[field] = median(a for a, _ in pairs) if None not in (a for a, _ in pairs) else None
                row[f"{field}_ratio"], row[f"{field}_interval"] = (
                    (median(found), interval(found)) if found else (None, None)
                )
            row["prompt_tokens"] = sum(r.prompt_tokens for r in mine) / len(mine)
            out.append(row)
    return out


def interval(ordered: Sequence[float]) -> tuple[float, float]:
    """Of the median, by the sign test: at least 95 %, or the whole range where there are too few."""
    n, drop, tail = len(ordered), 0, 1 / 2 ** len(ordered)
    # Leave out as many at each end as chance would put there in less than 2.5 % of all cases.
    while drop + 1 < (n + 1) // 2 and tail + comb(n, drop + 1) / 2**n <= 0.025:
        drop += 1
        tail += comb(n, drop) / 2**n
    return ordered[drop], ordered[n - 1 - drop]


def break_even(rows: Sequence[dict[str, Any]], arm: str) -> int | None:
    """The lowest concurrency from which on the arm answers at least as many requests a second as the base."""
    mine = sorted((r["concurrency"], r["requests_s_ratio"]) for r in rows if r["arm"] == arm)
    good: int | None = None
    for clients, ratio in reversed(mine):
        if ratio < 1:
            break
        good = clients
    return good


def to_dict(rounds: Sequence[Round], base: str) -> dict[str, Any]:
    """All of it as plain data."""
    rows = ratios(rounds, base)
    arms = dict.fromkeys(r.arm for r in rounds)
    return {
        "base": base,
        "ratios": rows,
        "break_even_concurrency": {a: break_even(rows, a) for a in arms if a != base},
        "rounds": [asdict(r) for r in rounds],
    }
