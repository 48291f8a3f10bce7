"""Merge the most alike pairs of tokens, between even and odd places, until few enough are left.

ToMe, arXiv 2210.09461, as a cut behind the encoder. Compared with facebookresearch/ToMe
@ af95e4b1befa172dadccd8c81e223b10090f9579 (`bipartite_soft_matching`, `merge_wavg`): the same merges and rows on every
stored case.

A round splits the tokens alternately, matches each even one with its most similar odd one by keys, and merges the
closest pairs into size-weighted means; the keys of merged tokens are averaged too.

Differences:

- The paper merges a few pairs in every block of the tower, which at="tower" does (`tome_inside.py`). By default all
  rounds come after its feature layer, by that layer's head-mean keys: the tower's own cost stays, the LLM's falls.
- Rounds follow each other until k are left; a round merges at most half (`rounds` sets how many share the work evenly).
- A merged token takes the place of its odd member, and between rounds tokens stay in image order. The release leaves
  them as a round leaves them, the unmerged even ones by falling likeness and then the odd ones, which decides who is
  even in the next: as_released=True.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.methods.tome_inside import MergedInside
from foveate.ops.bipartite import matched
from foveate.ops.merging import averaged
from foveate.ops.topk import check_k
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked


@dataclass(frozen=True)
class Matched:
    """k tokens by bipartite soft matching.

    Args:
        rounds: over how many rounds the merges are spread; more are added where half a round is not enough.
        as_released: between rounds tokens are in the order of the released code, not in that of the image.
    """

    rounds: int = 8
    as_released: bool = False

    # Even and odd places: the order of tokens matters, which `grid` says.
    reads: ClassVar[frozenset[str]] = frozenset({"keys_BNC", "grid"})
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or self.rounds < 1:
            raise PlanError(f"rounds is {self.rounds!r}; it must be a whole number, at least 1")

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens, with `mix_BKN`."""
        keys_BNC = view.need("keys_BNC").float()
        b, n = keys_BNC.shape[:2]
        check_k(k, n)
        if k == n:
            return Selection.everything(keys_BNC)
        own_BN = torch.arange(n, device=keys_BNC.device).expand(b, n)
        home_BN = alive_BM = own_BN
        size_BN = torch.ones(b, n, device=keys_BNC.device)
        step = -(-(n - k) // self.rounds)
        while (m := alive_BM.shape[1]) > k:
            metric_BMC = keys_BNC.gather(1, alive_BM[:, :, None].expand(-1, -1, keys_BNC.shape[2]))
            even_BE, odd_BE = matched(metric_BMC)
            r = min(step, m - k, m // 2)
            from_BR, to_BR = alive_BM.gather(1, even_BE[:, :r]), alive_BM.gather(1, odd_BE[:, :r])
            keys_BNC, size_BN = _merged(keys_BNC, size_BN, from_BR, to_BR)
            # Whatever lived in a merged token moves along with it.
            home_BN = own_BN.scatter(1, from_BR, to_BR).gather(1, home_BN)
            alive_BM = torch.cat((alive_BM.gather(1, even_BE[:, r:]), alive_BM[:, 1::2]), 1)
            if not self.as_released:
                alive_BM = alive_BM.sort(1).values
        keep_BN = torch.zeros(b, n, dtype=torch.bool, device=keys_BNC.device).scatter_(1, alive_BM, True)
        return Selection(keep_BN, averaged(keep_BN, home_BN, most=k))


def _merged(keys_BNC: Tensor, size_BN: Tensor, from_BR: Tensor, to_BR: Tensor) -> tuple[Tensor, Tensor]:
    wide_BRC = to_BR[:, :, None].expand(-1, -1, keys_BNC.shape[2])
    part_BRC = keys_BNC.gather(1, from_BR[:, :, None].expand_as(wide_BRC)) * size_BN.gather(1, from_BR)[:, :, None]
    total_BNC = (keys_BNC * size_BN[:, :, None]).scatter_add(1, wide_BRC, part_BRC)
    size_BN = size_BN.scatter_add(1, to_BR, size_BN.gather(1, from_BR))
    return total_BNC / size_BN[:, :, None], size_BN


@checked
def tome(
    keep: float | int,
    rounds: int | None = None,
    as_released: bool = False,
    at: Literal["encoder", "input", "tower"] = "encoder",
    proportional: bool = True,
) -> Plan:
    """ToMe: the most alike tokens merged pair by pair, before the projector.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
        rounds: over how many rounds the merges are spread, by default 8; in the tower its layers are the rounds.
        as_released: tokens are in the released code's order between rounds, not in that of the image.
        at: "encoder", before the projector; "input", for models that resample their features after it; "tower", in
            every layer of the tower up to its feature layer, as published, so that the tower is cheaper too.
        proportional: in the tower, attention counts a merged token as often as tokens were merged into it.

    Raises:
        PlanError: a keep out of range, or a setting of the tower elsewhere.
    """
    if at == "tower":
        if rounds is not None:
            raise PlanError(f"rounds is {rounds}, but in the tower each layer is a round; leave it out")
        return Plan((Cut("encoder", MergedInside(proportional, as_released), keep),))
    if not proportional:
        raise PlanError(f'proportional=False speaks of attention in the tower; at={at!r} comes after it: at="tower"')
    return Plan((Cut(at, Matched(8 if rounds is None else rounds, as_released), keep),))
