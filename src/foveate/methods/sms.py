"""Keep the head of each image's long-tailed [CLS] similarity, as long as it is; prune again inside the LLM, text too.

Sparsity Meets Similarity (SMS), arXiv 2409.01162. No code was released, and the full text could not be read: the
formulas are from summaries, and nothing could be compared. What they leave open is a parameter here, and these are our
readings:

- Stage 1 sorts an image's similarities to [CLS], d_1 >= ... >= d_n, and keeps the first i tokens for the i of largest
  f(i) = (n - i) (d_1 - d_i)^c. The count differs from image to image; `keep` is a cap on it.
- c is not published; larger keeps more. 4 keeps about what stands out; `foveate.search.calibrate` turns it until a data
  set meets a mean budget.
- The similarity is called a softmax of [CLS] against the tokens: the [CLS] attention of the feature layer, head mean.
  score="cosine" takes the cosine of the features instead; where background is nearest to [CLS], sign=-1 turns it round.
- Not in the source: the 0.99 quantile stands for d_1, because one register-like token would make everything else look
  like tail (quantile=1 is the formula as printed), and no image keeps fewer than `least`.
- Stage 2 drops image and text tokens of low correlation "with all preceding tokens". Literally (correlation=
  "similarity") that cannot see the question from an image token, which comes before it, and it favours what repeats.
  The default is the attention a token receives from the question's text.
- Layers and rates are not published. Here stage 2 comes before the layers at 3/8 and 3/4 of the depth, and each time
  keeps a share of the image tokens and a share of the question that are left: with one ranking over both, their scales
  would decide which goes. Template, special and last tokens are never candidates. The paper drops text too. Here the
  default keeps all of it: on the embedded model, where every word of a question is needed, dropping a quarter of it at
  each cut cost 19 points. `text` below 1 drops it.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.methods.idle import refuse_idle
from foveate.methods.sms_inside import ByAttention, BySimilarity, C
from foveate.ops.knee import check_knee, knee
from foveate.ops.topk import check_k
from foveate.plan import Plan, Positions
from foveate.selection import Attention, Knob, Selection, TokenView
from foveate.typed import checked


@dataclass(frozen=True)
class _Head:
    """The head of an image's sorted scores, at most k.

    Args:
        c: exponent of the knee, above 0; larger keeps more.
        quantile: of the scores, in (0, 1], which stands for the largest.
        least: no image keeps fewer, unless k is smaller still.
    """

    c: float = 4.0
    quantile: float = 0.99
    least: int = 1

    reads: ClassVar[frozenset[str]]
    adaptive: ClassVar[bool] = True
    knob: ClassVar[Knob] = C

    def __post_init__(self) -> None:
        check_knee(self.c, self.quantile)
        if isinstance(self.least, bool) or not isinstance(self.least, int) or self.least < 1:
            raise PlanError(f"least is {self.least!r}; it must be a whole number of tokens, at least 1")

    def __call__(self, view: TokenView, k: int) -> Selection:
        """At most k tokens."""
        score_BN = self._score(view)
        check_k(k, score_BN.shape[1])
        counts_B = knee(score_BN, self.c, self.quantile).clamp(min=self.least).clamp(max=k)
        # Stable: among equals the lower index wins, on every device.
        order_BN = score_BN.sort(dim=1, descending=True, stable=True).indices
        head_BN = torch.arange(order_BN.shape[1], device=order_BN.device) < counts_B[:, None]
        return Selection(torch.zeros_like(head_BN).scatter_(1, order_BN, head_BN))

    def _score(self, view: TokenView) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class HeadOfAttention(_Head):
    """By [CLS] attention; where there is no [CLS], by attention received."""

    reads: ClassVar[frozenset[str]] = frozenset({"cls_attn_BN"})

    def _score(self, view: TokenView) -> Tensor:
        return view.need("cls_attn_BN")


@dataclass(frozen=True)
class HeadOfCosine(_Head):
    """By cosine to [CLS], or with sign=-1 by its opposite."""

    sign: int = 1

    reads: ClassVar[frozenset[str]] = frozenset({"cls_cos_BN"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sign not in (1, -1):
            raise PlanError(f"sign is {self.sign!r}; 1 keeps what is like [CLS], -1 what is unlike it")

    def _score(self, view: TokenView) -> Tensor:
        return self.sign * view.need("cls_cos_BN")


_INSIDE = ("layers", "image", "text", "c_inside", "correlation", "sign_inside", "raters", "attention")
"""Settings of stage 2."""


@checked
def sms(
    keep: float | int,
    c: float = 4.0,
    quantile: float = 0.99,
    least: int = 1,
    score: Literal["attention", "cosine"] = "attention",
    sign: int = 1,
    stages: Literal["both", 1, 2] = "both",
    layers: tuple[int | float, ...] = (0.375, 0.75),
    image: float = 0.75,
    text: float = 1.0,
    c_inside: float | None = None,
    correlation: Literal["attention", "similarity"] = "attention",
    sign_inside: int = 1,
    raters: Literal["text", "dynamic", "last"] = "text",
    attention: Literal["previous", "own"] = "previous",
    positions: Positions | None = None,
) -> Plan:
    """SMS: as many tokens as each image needs, then fewer image and text tokens layer by layer.

    Args:
        keep: the most that an image may keep, a fraction (float) or a number (int): a cap, not the mean. Inside the LLM
            it caps the image tokens and the question together.
        c: exponent of the knee; larger keeps more. `foveate.search.calibrate` finds the c of a mean budget.
        quantile: of the scores, which stands for the largest: the guard against outliers; 1 is none.
        least: no image keeps fewer than this in stage 1.
        score: of stage 1: "attention" of [CLS], or "cosine" to it (towers with a [CLS] only).
        sign: of the cosine: 1 keeps what is like [CLS], -1 what is unlike it.
        stages: "both"; 1, stage 1 alone; 2, the stages inside the LLM alone.
        layers: stage 2 comes before these decoder layers: numbers, or fractions of the depth.
        image: the share of the image tokens left that each stage-2 cut keeps.
        text: the same for the question's text; 1 keeps it, 0 may drop all of it.
        c_inside: exponent of a knee that each layer's scores are cut by too, so that the shares are caps; None is none.
        correlation: of stage 2: "attention" received from the raters, or mean "similarity" to all preceding candidates.
        sign_inside: of the similarity: 1 keeps the most alike, -1 the most novel.
        raters: whose attention counts: the question's tokens, those of them that the image speaks of, or the last one.
        attention: of which layer: the one before the cut, or the one after it.
        positions: the plan's position policy.

    Raises:
        PlanError: an unknown choice, a value out of range, or one that has no effect beside the others.
    """
    given = dict(locals())
    if stages == 1:
        refuse_idle(sms, given, _INSIDE, "stages=1", 'stages="both"')
    if stages == 2:
        outside_only = ("c", "least", "score", "sign") + (("quantile",) if c_inside is None else ())
        refuse_idle(sms, given, outside_only, "stages=2", 'stages="both"')
    if score == "attention":
        refuse_idle(sms, given, ("sign",), 'score="attention"', 'score="cosine"')
    if correlation == "attention":
        refuse_idle(sms, given, ("sign_inside",), 'correlation="attention"', 'correlation="similarity"')
    else:
        refuse_idle(sms, given, ("raters", "attention"), 'correlation="similarity"', 'correlation="attention"')
    first = HeadOfAttention(c, quantile, least) if score == "attention" else HeadOfCosine(c, quantile, least, sign)
    outside = Cut("input", first, keep)
    if stages == 1:
        return Plan((outside,), positions)
    if not layers:
        raise PlanError("layers is empty; name the layers of stage 2, or leave it out with stages=1")
    if correlation == "attention":
        if attention == "previous" and 0 in layers:
            raise PlanError('layers hold 0, which has no layer before it; use attention="own", or layers from 1')
        inside: ByAttention | BySimilarity = ByAttention(
            image, text, c_inside, quantile, attention=Attention(raters, attention)
        )
    else:
        inside = BySimilarity(image, text, c_inside, quantile, sign=sign_inside)
    later = tuple(Cut(at, inside, keep, over="prompt") for at in layers)
    return Plan((outside, *later) if stages == "both" else later, positions)
