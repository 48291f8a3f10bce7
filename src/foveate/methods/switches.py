"""Switches for any selector: what becomes of dropped tokens, and how many stay. Each wraps, none copies.

    plan = merged(cdpruner(keep=64))        # dropped tokens are averaged into the nearest kept one
    plan = restored(divprune(keep=64))      # RESTORE: half of the count goes to merged groups
    plan = counted(fastervlm(keep=0.5))     # as many as beat the mean attention, at most half

A floor under an image's count, and one total for the images of a prompt, are no switches: `Cut` has `least` and `per`.

RESTORE, arXiv 2606.01711 (cvlab-yonsei/RESTORE @ 9b27e687a2b877d6facacae093b8d9686afa5c6f is GPL-3.0 and was not read):
the same anchors, groups, positions and rows on every stored case, with as_released=True for the release's mask, which
is the paper's Eq. 6 turned round. Its bias on attention is a switch of its own (`sized.py`): by the paper's ablation
groups and positions without it lose 6 points where all three gain 4, so `merged` is the one to use alone.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from foveate.errors import PlanError
from foveate.methods.by_count import by_count
from foveate.methods.wrapper import Wrapper, each_cut
from foveate.ops.cosine import Cosine
from foveate.ops.merging import alone, averaged, nearest_kept
from foveate.ops.suppress import peaks
from foveate.ops.topk import check_k, head_mask, ranked
from foveate.plan import Plan
from foveate.selection import Attention, Knob, Selection, TokenView
from foveate.typed import checked


@dataclass(frozen=True)
class Merged(Wrapper):
    """Every dropped token is averaged into the kept one it is most like.

    Args:
        select: which stay.
        least: the cosine below which a token joins nobody.
    """

    least: float = -1.0

    @property
    def reads(self) -> frozenset[str]:
        """What likeness is measured on too."""
        return self.select.reads | {"hidden_BND"}

    def __call__(self, view: TokenView, k: int) -> Selection:
        """As the selector inside, with `mix_BKN`."""
        hidden_BND = view.need("hidden_BND")
        keep_BN = self._plain(view, k).keep_BN
        if bool(keep_BN.all()):
            return Selection(keep_BN)
        home_BN, like_BN = nearest_kept(hidden_BND, keep_BN)
        return Selection(keep_BN, averaged(keep_BN, home_BN.masked_fill(like_BN < self.least, -1)))


@dataclass(frozen=True)
class Restored(Wrapper):
    """A share of the count goes to groups of dropped tokens, each at the place of its median member.

    Args:
        select: which tokens stay by themselves.
        gamma: their share of the count; the rest of it are groups.
        as_released: compare a token with those it outranks, not with those that outrank it.
    """

    gamma: float = 0.5
    as_released: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise PlanError(f"gamma is {self.gamma}; it is a share of the count, above 0 and at most 1")
        if self.select.adaptive:
            raise PlanError(f"{type(self.select).__name__} keeps as many as it likes; Restored needs a fixed count")

    @property
    def reads(self) -> frozenset[str]:
        """What groups are made by too."""
        return self.select.reads | {"hidden_BND"}

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens, with `mix_BKN`."""
        hidden_BND = view.need("hidden_BND")
        b, n = hidden_BND.shape[:2]
        check_k(k, n)
        own = max(1, int(self.gamma * k + 0.5))
        if k == n or own == k:
            answer = self._plain(view, k)
            # Of so few there is no group; of other images there is, and these are told in the same way.
            return answer if k == n or self.gamma == 1 else Selection(answer.keep_BN, alone(answer.keep_BN, k))
        base_BN = self._plain(view, own).keep_BN
        # The others of each image, in order: they are as many in all.
        rest_BR = (~base_BN).nonzero()[:, 1].view(b, n - own)
        rest_BRD = hidden_BND.gather(1, rest_BR[:, :, None].expand(-1, -1, hidden_BND.shape[2]))
        cosine = Cosine(rest_BRD)
        like_BR = torch.cat([cosine.rows(part).sum(-1, dtype=torch.float64) for part in cosine.chunks()], 1)
        counts_B = torch.full((b,), k - own, device=base_BN.device)
        anchor_BR = head_mask(peaks(rest_BRD, like_BR, reverse=self.as_released), counts_B)
        group_BR, _ = nearest_kept(rest_BRD, anchor_BR)
        # The median member of each group: its members stand in order, and half of them come before.
        same_BRR = group_BR[:, :, None] == group_BR[:, None]
        before_BR = same_BRR.tril(-1).sum(-1)
        median_BR = before_BR == (same_BRR.sum(-1) - 1) // 2
        place_BR = torch.where(median_BR, rest_BR, 0)
        home_BR = torch.zeros_like(rest_BR).scatter_add_(1, group_BR, place_BR).gather(1, group_BR)
        home_BN = torch.arange(n, device=base_BN.device).repeat(b, 1).scatter_(1, rest_BR, home_BR)
        keep_BN = base_BN.scatter(1, rest_BR, median_BR)
        return Selection(keep_BN, averaged(keep_BN, home_BN))


@dataclass(frozen=True)
class Counted(Wrapper):
    """As many tokens as score at least `times` the mean, at most k; which ones, the selector inside says.

    OccamToken's policy (arXiv 2605.29657) with the mean in the place of its register, which stock towers do not have.

    Args:
        select: which stay, of a fixed count.
        times: a token counts if its score is at least so many times the mean; larger keeps fewer.
        field: the score: attention of [CLS], or of the selector's raters.
        least: no image keeps fewer, unless k is smaller still.
    """

    times: float = 1.0
    field: Literal["cls_attn_BN", "text_attn_BN"] = "cls_attn_BN"
    least: int = 1

    knob: ClassVar[Knob] = Knob("times", 0.0, 20.0, rising=False)

    def __post_init__(self) -> None:
        if self.field not in ("cls_attn_BN", "text_attn_BN"):
            raise PlanError(f'field is {self.field!r}; it must be "cls_attn_BN" or "text_attn_BN"')
        if self.field == "text_attn_BN" and not isinstance(getattr(self.select, "attention", None), Attention):
            raise PlanError(f"{type(self.select).__name__} reads no attention of the LLM, so nobody says whose counts")
        if not self.times >= 0 or self.least < 1:
            raise PlanError(f"times is {self.times} and least {self.least}; at least 0, and at least 1")

    @property
    def reads(self) -> frozenset[str]:
        """What is counted by too."""
        return self.select.reads | {self.field}

    @property
    def adaptive(self) -> bool:
        """That is its point."""
        return True

    def __call__(self, view: TokenView, k: int) -> Selection:
        """At most k tokens of each image."""
        score_BN = view.need(self.field).float()
        check_k(k, score_BN.shape[1])
        ranked(score_BN)  # refuses NaN
        beat_B = (score_BN >= self.times * score_BN.mean(1, keepdim=True)).sum(1)
        counts_B = beat_B.clamp(min=min(self.least, k), max=k)
        return by_count(view, counts_B, self._plain)


@checked
def merged(plan: Plan, least: float = -1.0) -> Plan:
    """The plan, its dropped tokens averaged into the kept ones they are most like.

    Args:
        plan: any, over images.
        least: the cosine below which a token joins nobody.
    """
    return each_cut(plan, lambda cut: Merged(cut.select, least))


@checked
def restored(plan: Plan, gamma: float = 0.5, as_released: bool = False) -> Plan:
    """The plan with RESTORE's groups: a share 1 - gamma of each count are means of dropped tokens, at their median.

    Args:
        plan: any of fixed counts, over images.
        gamma: the share of the count that the selector itself chooses.
        as_released: the released code's mask, which is the paper's turned round.
    """
    return each_cut(plan, lambda cut: Restored(cut.select, gamma, as_released))


@checked
def counted(
    plan: Plan, times: float = 1.0, field: Literal["cls_attn_BN", "text_attn_BN"] = "cls_attn_BN", least: int = 1
) -> Plan:
    """The plan with as many tokens an image as score at least `times` the mean, its counts being the most.

    Args:
        plan: any of fixed counts, over images.
        times: larger keeps fewer; `foveate.search.calibrate` turns it until a mean budget is met.
        field: the score that is counted by.
        least: no image keeps fewer.
    """
    return each_cut(plan, lambda cut: Counted(cut.select, times, field, least))
