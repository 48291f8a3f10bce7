"""Greedy choice where a pick only ever lowers the others' values: a few candidates are kept up to date, not all tokens.

A value from some picks ago bounds what it is now. So the best quarter of an image is followed pick by pick, and the
rest waits until a candidate falls to what the best of the rest had; then one matrix product brings all up to date. The
picks are those of updating everything at every pick, and most of the work is a product instead of many thin ones.
"""

from typing import Protocol

import torch
from torch import Tensor

_PICKS = 32
"""Picks between two products at most."""


class Rule(Protocol):
    """What is greedy about one kernel. A token's state is one float64 number."""

    def value(self, state_M: Tensor, index_M: Tensor) -> Tensor:
        """What tokens of these states are worth to pick; -inf where they are out."""
        ...

    def direction(self, pick: int) -> Tensor:
        """The vector [D] that tokens are multiplied by when this one is picked."""
        ...

    def step(self, state_M: Tensor, product_M: Tensor, at: int) -> Tensor:
        """Their states after pick number `at`, of whose direction they are these products."""
        ...


def pick(x_ND: Tensor, state_N: Tensor, k: int, start_S: Tensor, rule: Rule) -> Tensor:
    """One image's picks [k], -1 where nothing is left. For the host: it looks at what it computes.

    Args:
        x_ND: the rows that directions are multiplied with.
        state_N: each token's state before the first pick.
        k: how many.
        start_S: picks that are given.
        rule: the kernel.
    """
    n = len(x_ND)
    fixed = [i for i in start_S.tolist() if i >= 0]
    every_N, open_N = torch.arange(n), torch.ones(n, dtype=torch.bool)
    size = min(n, max(256, n // 4))
    picks: list[int] = []
    while len(picks) < k:
        value_N = rule.value(state_N, every_N).masked_fill_(~open_N, -torch.inf)
        best = int(value_N.argmax())
        if len(picks) >= len(fixed) and value_N[best] == -torch.inf:
            break
        few_M = every_N if size == n else value_N.topk(size, sorted=False).indices.sort().values
        bound = -torch.inf if size == n else float(value_N[few_M].min())
        x_MD, state_M, open_M = (t if size == n else t[few_M] for t in (x_ND, state_N, open_N))
        first = len(picks)
        directions: list[Tensor] = []
        while len(picks) < min(k, first + _PICKS):
            if len(picks) < len(fixed):
                best = fixed[len(picks)]
            elif directions:
                value_M = rule.value(state_M, few_M).masked_fill_(~open_M, -torch.inf)
                place = int(value_M.argmax())
                # Equal to the bound is not enough: one that waits may stand further left.
                if value_M[place] <= bound:
                    break
                best = int(few_M[place])
            directions.append(rule.direction(best))
            state_M = rule.step(state_M, x_MD @ directions[-1], len(picks))
            picks.append(best)
            open_N[best] = False
            open_M = open_N if size == n else open_M & (few_M != best)
        if size == n:
            state_N = state_M
        elif len(picks) < k:
            for at, product_N in enumerate((torch.stack(directions) @ x_ND.mT).unbind(), first):
                state_N = rule.step(state_N, product_N, at)
    return torch.tensor(picks + [-1] * (k - len(picks)))
