"""Keep a set of tokens that is relevant, diverse and covers the rest: before the LLM by [CLS], inside it by the text.

TOPS, arXiv 2606.27161. No code was released, so nothing could be compared; the greedy step is tested against a naive
loop. What the paper leaves open is a parameter here, and these are our readings:

- Similarity is the cosine, in float32. Tiles of one image are chosen from jointly.
- Normalisation: the algorithms divide by the mean, the main text says min-max. "mean" is the default, over the tokens
  still open, at every step. With the heavy tail of real [CLS] attention it reduces the published weights to [CLS]
  top-k. `transform="rank"`, which is not in the paper, repairs it and is the default; `transform="none"` is as
  published, and a warning says where it drowns the other criteria.
- "Layer 12" is before decoder layer 12, counted from 0: twelve layers see the larger set, as the accounting of the
  paper needs. Stage II ranks by the attention of the layer that just ran; `attention="own"` by the next layer's.
- Text raters are SparseVLM's: question tokens more relevant to the image than the mean of them.
- Budget: the paper's table (256-128-32 for "128") has a mean of 152 tokens over 32 layers. Its ablation (256-64-32)
  has 128, and is the default; `budget="table"` is the other one. For Qwen2.5-VL and InternVL3 the table means 32
  layers, but they have 28.
- Position ids stay what they were, which is worth 7 points on the embedded model; the paper renumbers them from 0:
  `positions="contiguous"`.
"""

import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from foveate.cut import Cut, check_keep
from foveate.errors import PlanError, unknown
from foveate.methods.idle import refuse_idle
from foveate.methods.tops_schedules import SCHEDULES, Budget, default_layers, keeps_of
from foveate.ops.balance import Normalise, balance
from foveate.ops.relevance import Transform, transform
from foveate.plan import Plan, Positions
from foveate.selection import Attention, Selection, TokenView
from foveate.typed import checked

DROWNING = 10.0
"""A relevance whose largest value is this many times its mean outweighs the other criteria, which stay near 1."""

DYNAMIC = Attention("dynamic", "previous")


@dataclass(frozen=True)
class _Greedy:
    """What both stages share.

    Args:
        alpha: weight of diversity.
        lam: weight of coverage.
        normalise: "mean" or "minmax", over the open tokens at each step.
        transform: of the relevance: "none", "rank", "log" or "clip".
        clip: the quantile at which "clip" cuts.
        beta: weight of relevance, the paper's is 1; at 0 the first token alone is the most relevant.
    """

    alpha: float = 0.5
    lam: float = 0.5
    normalise: Normalise = "mean"
    transform: Transform = "none"
    clip: float = 0.9
    beta: float = 1.0

    relevance: ClassVar[str]
    reads: ClassVar[frozenset[str]]
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("alpha", "lam", "beta"):
            if not (value := getattr(self, name)) >= 0:
                raise PlanError(f"{name} is {value}; a weight must be 0 or more")
        if self.alpha == self.lam == self.beta == 0:
            raise PlanError("alpha, lam and beta are all 0, so nothing would choose; give one of them a weight")
        if self.normalise not in ("mean", "minmax"):
            raise PlanError(f'normalise is {self.normalise!r}; it must be "mean" or "minmax"')
        if self.transform not in (known := ("none", "rank", "log", "clip")):
            raise PlanError(f"transform is {self.transform!r}; it must be one of {', '.join(known)}")
        if not 0 < self.clip <= 1:
            raise PlanError(f"clip is {self.clip}; a quantile must lie in (0, 1]")

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        hidden_BND, raw_BN = view.need("hidden_BND"), view.need(self.relevance)
        relevance_BN = transform(raw_BN, self.transform, self.clip)
        if self.normalise == "mean" and self.transform != "rank" and self.beta and (self.alpha or self.lam):
            _warn_if_drowned(relevance_BN)
        # Transforms may make the largest values equal; the most relevant token is first all the same.
        first_B1 = raw_BN.argmax(1, keepdim=True)
        order_BK = balance(
            hidden_BND, relevance_BN, k, self.alpha, self.lam, self.normalise, self.beta, start_BS=first_B1
        )
        return Selection.of(order_BK, hidden_BND.shape[1])


@dataclass(frozen=True)
class StageOne(_Greedy):
    """Before the LLM: projected tokens, relevance by [CLS] attention."""

    relevance: ClassVar[str] = "cls_attn_BN"
    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND", "cls_attn_BN"})


@dataclass(frozen=True)
class StageTwo(_Greedy):
    """Inside the LLM: hidden states, relevance by attention from the text."""

    attention: Attention = DYNAMIC

    relevance: ClassVar[str] = "text_attn_BN"
    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND", "text_attn_BN"})


def _warn_if_drowned(relevance_BN: Tensor) -> None:
    peak = float((relevance_BN.amax(1) / relevance_BN.mean(1).clamp(min=1e-30)).max())
    if peak > DROWNING:
        # The same words every time, so that Python's filters show them once.
        warnings.warn(
            f"TOPS: the largest attention is more than {DROWNING:g} times the mean, so relevance drowns diversity and "
            'coverage; use transform="rank"',
            stacklevel=3,
        )


_INSIDE = ("schedule", "layers", "budget", "alpha_inside", "lam_inside", "transform_inside", "raters", "attention")
"""Settings of Stage II. Not `depth`, which says what the model is and not what is wished."""


@checked
def tops(
    keep: float | int,
    schedule: str | None = None,
    stages: Literal["both", 1, 2] = "both",
    layers: tuple[int, ...] | None = None,
    depth: int | None = None,
    budget: Budget = "mean",
    alpha: float = 0.5,
    lam: float = 0.5,
    alpha_inside: float | None = None,
    lam_inside: float | None = None,
    normalise: Normalise = "mean",
    transform: Transform = "rank",
    transform_inside: Transform | None = None,
    clip: float = 0.9,
    beta: float = 1.0,
    raters: Literal["dynamic", "text", "last"] = "dynamic",
    attention: Literal["previous", "own"] = "previous",
    positions: Positions | None = None,
) -> Plan:
    """TOPS: two greedy stages, before the LLM and at two layers inside it.

    Args:
        keep: the paper's T: the mean over all layers of the share (float) or number (int) of tokens; with
            budget="table" the mean is above it. A number above half of the tokens may ask Stage I for more than there
            are.
        schedule: a model of the paper, for its layers, depth, shape and Stage-II weights; see
            `tops_schedules.SCHEDULES`.
        stages: "both"; 1, Stage I alone with exactly keep; 2, the stages inside the LLM alone (keep as a fraction).
        layers: Stage II comes before these decoder layers, counted from 0; by default 3/8 and 3/4 of the depth.
        depth: decoder layers of the LLM. Without it (and without a schedule or layers) the plan is laid out for 32 and
            its places are fractions of the depth: it fits any model, and a fraction as keep stays the exact mean.
        budget: "mean", 256-64-32 of 576 for 128, scaled to the depth; "table", 256-128-32 as printed.
        alpha: Stage I's weight of diversity.
        lam: Stage I's weight of coverage.
        alpha_inside: the same for Stage II; by default the schedule's, or 0.5.
        lam_inside: the same for Stage II.
        normalise: of all criteria: "mean" or "minmax".
        transform: of the relevance: "rank", "log", "clip", or "none" as in the paper.
        transform_inside: the same for Stage II; by default as in Stage I.
        clip: the quantile at which "clip" cuts.
        beta: weight of relevance in both stages; the paper's is 1, and 0 leaves it out of all picks but the first.
        raters: whose attention counts in Stage II: question tokens above the mean, all of them, or the last prompt
            token.
        attention: of which layer in Stage II: the one before the cut, or the one after it.
        positions: the plan's position policy; "contiguous" as in the paper.

    Raises:
        PlanError: an unknown schedule or choice, layers outside the model, a mean out of reach, an idle setting.
    """
    given = dict(locals())
    if schedule is not None and schedule not in SCHEDULES:
        raise PlanError(unknown("TOPS schedule", schedule, SCHEDULES, see="foveate.methods.tops_schedules"))
    first = StageOne(alpha, lam, normalise, transform, clip, beta)
    if depth is not None and depth < 1:
        raise PlanError(f"depth is {depth}; an LLM has at least 1 decoder layer")
    alone = Cut("input", first, keep)  # made in any case, because it refuses a keep out of range
    if stages == 1:
        refuse_idle(tops, given, _INSIDE, "stages=1", 'stages="both"')
    if stages == 2:
        outside_only = ("alpha", "lam") + (("transform",) if transform_inside is not None else ())
        refuse_idle(tops, given, outside_only, "stages=2", 'stages="both", or alpha_inside, lam_inside and so on')
    if "clip" not in (transform, transform_inside):
        refuse_idle(tops, given, ("clip",), f'transform="{transform}"', 'transform="clip"')
    if stages == 1:
        return Plan((alone,), positions)
    model = SCHEDULES.get(schedule or "")
    any_depth = depth is None and model is None and layers is None
    depth = depth or (model.depth if model else 32)
    if layers is None:
        layers = model.layers if model and model.depth == depth else default_layers(depth)
    if attention == "previous" and 0 in layers:
        raise PlanError('layers hold 0, which has no layer before it; use attention="own", or layers from 1')
    keep = check_keep(keep)
    keeps = keeps_of(keep, layers, depth, budget, model, inside_only=stages == 2)
    tuned = model.weights(keep) if model else (0.5, 0.5)
    inside = StageTwo(
        tuned[0] if alpha_inside is None else alpha_inside,
        tuned[1] if lam_inside is None else lam_inside,
        normalise,
        transform if transform_inside is None else transform_inside,
        clip,
        beta,
        Attention(raters, attention),
    )
    outside = () if stages == 2 else (Cut("input", first, keeps[0]),)
    later = keeps[len(outside) :]
    plan = Plan((*outside, *(Cut(at, inside, k) for at, k in zip(layers, later, strict=True))), positions)
    if not any_depth:
        return plan
    exact = budget == "mean" and isinstance(keep, float)
    return plan.relative(depth, float(keep) if exact else None)
