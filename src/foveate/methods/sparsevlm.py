"""At three layers, keep what the words that see the image attend to, and fold the best of the rest into clusters.

SparseVLM, arXiv 2410.04417. Compared with Gumpest/SparseVLMs @ 26a5f48813c46cd1c7364160354e7fdd3febaa67
(`attn_postprocess_topk`, `cluster_and_merge`, version 1.0): the same kept tokens, recycled tokens, clusters and rows on
every stored case.

Of the tokens that would go, the most attended 30 % are recycled: density peaks make a tenth of their number into
centres, each of the others joins its nearest centre, and a cluster stays as its mean.

The paper counts by rank: of L tokens left, lam (L - rank P) go, P being the raters' attention, a row each: that is
count="rank". Words attend differently, so the rank is their number; such counts say nothing of the image.

Differences: counts are by default the nearest of the release's tables (for 192, 128 and 64 of 576), scaled so that the
mean over the layers is `keep`. Clusters are among the k, at their
centres' places; the release appends them. Raters are the words above the mean by the states at the cut; the release
finds them once, by the input embeddings. No noise is added to densities: of equal ones the lower index wins.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from foveate.cut import Cut, check_keep
from foveate.errors import PlanError
from foveate.methods.by_count import by_count
from foveate.methods.idle import refuse_idle
from foveate.ops.clusters import density_peaks
from foveate.ops.merging import alone, averaged
from foveate.ops.topk import check_k, ranked
from foveate.plan import Plan
from foveate.selection import Attention, Knob, Selection, TokenView
from foveate.typed import checked

_RECYCLED = 0.3
RATERS = Attention("dynamic", "previous")
# Of 576, after layers 2, 6 and 15 of 32.
_TABLES = {192: (300, 200, 110), 128: (303, 110, 36), 64: (66, 30, 17)}
_LAYERS, _DEPTH, _TOKENS = (2, 6, 15), 32, 576


@dataclass(frozen=True)
class Recycling:
    """The most attended tokens, and clusters of the next ones.

    Args:
        recycled: the share of the dropped tokens that is clustered; 0 is none.
        attention: whose attention ranks.
    """

    recycled: float = _RECYCLED
    attention: Attention = RATERS

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND", "text_attn_BN"})
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.recycled < 1:
            raise PlanError(f"recycled is {self.recycled}; it is a share of the dropped tokens, from 0 to below 1")

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens, with `mix_BKN` where there are clusters."""
        attn_BN = view.need("text_attn_BN")
        b, n = attn_BN.shape
        check_k(k, n)
        if k == n:
            return Selection.everything(attn_BN)
        order_BN = ranked(attn_BN)
        top, spent, clusters = self._split(n, k)
        keep_BN = torch.zeros_like(attn_BN, dtype=torch.bool).scatter_(1, order_BN[:, :top], True)
        if not clusters:
            return Selection(keep_BN, alone(keep_BN, k) if self.recycled else None)
        # In order of attention, as the release clusters them.
        spent_BR = order_BN[:, top : top + spent]
        hidden_BND = view.need("hidden_BND").float()
        states_BRD = hidden_BND.gather(1, spent_BR[:, :, None].expand(-1, -1, hidden_BND.shape[2]))
        centre_BC, nearest_BR = density_peaks(states_BRD, clusters)
        centre_BC = spent_BR.gather(1, centre_BC)
        home_BN = torch.arange(n, device=attn_BN.device).expand(b, n).masked_fill(~keep_BN, -1)
        home_BN = home_BN.scatter(1, spent_BR, centre_BC.gather(1, nearest_BR))
        keep_BN = keep_BN.scatter(1, centre_BC, True)
        return Selection(keep_BN, averaged(keep_BN, home_BN, most=k))

    def _split(self, n: int, k: int) -> tuple[int, int, int]:
        """How many are kept, recycled, and clusters: the kept and the clusters are k."""
        for top in range(k - 1, 0, -1) if self.recycled else ():
            spent = int(self.recycled * (n - top)) + 1
            if top + spent // 10 + 1 == k:
                return top, spent, spent // 10 + 1
        return k, 0, 0


@dataclass(frozen=True)
class ByRank(Recycling):
    """As many as the rank of the raters' attention says, at most k, and clusters among them.

    Args:
        lam: of the tokens above the rank this share goes; 0 is none of them, 1 all.
    """

    lam: float = 0.5

    reads: ClassVar[frozenset[str]] = Recycling.reads | {"text_rows_BRN"}
    adaptive: ClassVar[bool] = True
    knob: ClassVar[Knob] = Knob("lam", 0.0, 1.0, rising=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.lam <= 1:
            raise PlanError(f"lam is {self.lam}; it is the share that goes of the tokens above the rank, from 0 to 1")

    def __call__(self, view: TokenView, k: int) -> Selection:
        """At most k tokens, with `mix_BKN`."""
        rows_BRN = view.need("text_rows_BRN").float()
        n = rows_BRN.shape[2]
        check_k(k, n)
        rank_B = torch.linalg.matrix_rank(rows_BRN)
        counts_B = n - (self.lam * (n - rank_B)).long()
        return by_count(view, counts_B.clamp(min=1, max=k), super().__call__, mixes=True)


@checked
def sparsevlm(
    keep: float | int,
    recycled: float = _RECYCLED,
    layers: tuple[int | float, ...] | None = None,
    count: Literal["tables", "rank"] = "tables",
    lam: float = 0.5,
) -> Plan:
    """SparseVLM: attention top-k with clusters of the rest, at three layers inside the LLM.

    Args:
        keep: a fraction (float) is the mean over all layers of the share that stays; a number (int) is how many stay
            after the last cut, the cuts before it in the table's proportion.
        recycled: the share of the dropped tokens that is clustered; 0 is none.
        layers: the three places, layers or fractions of the depth; by default those of layers 2, 6 and 15 of 32.
        count: "tables", or by "rank", as the paper; `keep` is then the most that stays at each cut.
        lam: with "rank", the share that goes of the tokens above the rank, at each cut.

    Raises:
        PlanError: a keep or a share out of range, other than three layers, or lam without "rank".
    """
    given = dict(locals())
    check_keep(keep)
    places = layers or tuple(layer / _DEPTH for layer in _LAYERS)
    if count == "rank":
        return Plan(tuple(Cut(at, ByRank(recycled, lam=lam), keep) for at in places))
    refuse_idle(sparsevlm, given, ("lam",), 'count="tables"', 'count="rank"')
    if layers is not None and len(layers) != len(_LAYERS):
        raise PlanError(f"layers are {layers}; the tables give counts for three")
    select = Recycling(recycled)
    share = keep if isinstance(keep, float) else keep / _TOKENS
    table = _TABLES[min(_TABLES, key=lambda t: abs(t / _TOKENS - share))]
    if isinstance(keep, int):
        keeps: list[float | int] = [int(keep * count / table[-1] + 0.5) for count in table]
    else:
        keeps = [1.0 if keep == 1 else count / _TOKENS for count in table]
    plan = Plan(tuple(Cut(at, select, k) for at, k in zip(places, keeps, strict=True)))
    return Plan(plan.cuts, mean=keep) if isinstance(keep, float) and layers is None else plan
