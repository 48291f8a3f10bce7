"""Stage 2 of SMS: of a prompt's image tokens and of its question, each the share that correlates most.

arXiv 2409.01162; what is read into it is in the docstring of `foveate.methods.sms`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foveate.errors import PlanError
from foveate.ops.cosine import unit
from foveate.ops.host import read
from foveate.ops.knee import check_knee, knee
from foveate.ops.topk import check_k, top_mask
from foveate.selection import Attention, Knob, Selection, TokenView

C = Knob("c", 2.0**-6, 2.0**16)
"""The exponent of a knee. Below, its head is two or three tokens; above, all but the very bottom."""


QUESTION = Attention("text", "previous")


@dataclass(frozen=True)
class _Quotas:
    """For cuts over the whole prompt: image and text tokens each have a quota, and each their own ranking.

    Args:
        image: the share of the image tokens at hand that stays, in (0, 1]; at least one stays.
        text: the same for the question's tokens, in [0, 1].
        c: where given, no more stay of either kind than the head of its sorted scores (see `ops.knee`).
        quantile: of the scores, which stands for their largest in that.

    Where both quotas together exceed k, image tokens give way: there are more of them.
    """

    image: float = 0.5
    text: float = 0.5
    c: float | None = None
    quantile: float = 0.99

    reads: ClassVar[frozenset[str]]
    adaptive: ClassVar[bool] = True
    knob: ClassVar[Knob] = C

    def __post_init__(self) -> None:
        if not 0 < self.image <= 1:
            raise PlanError(f"image is {self.image}; the share of image tokens that stays must lie in (0, 1]")
        if not 0 <= self.text <= 1:
            raise PlanError(f"text is {self.text}; the share of text tokens that stays must lie in [0, 1]")
        check_knee(1.0 if self.c is None else self.c, self.quantile)

    def __call__(self, view: TokenView, k: int) -> Selection:
        """At most k tokens of each prompt."""
        # How many of each kind stay is the scores' to say: they are looked at on the host, all at once.
        score_BN, text_BN = read(self._score(view).float(), view.need("text_BN"))
        check_k(k, score_BN.shape[1])
        rows = zip(score_BN, text_BN, strict=True)
        return Selection(torch.stack([self._row(score_N, text_N, k) for score_N, text_N in rows]))

    def _row(self, score_N: Tensor, text_N: Tensor, k: int) -> Tensor:
        images, texts = score_N[~text_N], score_N[text_N]
        some = bool(len(images))
        of_text = min(self._head(texts, self.text, least=not some), k - some)
        of_image = min(self._head(images, self.image, least=1), k - of_text)
        keep_N = torch.zeros_like(text_N)
        for where_N, score, count in ((~text_N, images, of_image), (text_N, texts, of_text)):
            if count:
                keep_N[where_N] = top_mask(score[None], count)[0]
        return keep_N

    def _head(self, score_M: Tensor, share: float, least: int) -> int:
        n = len(score_M)
        count = min(n, max(least, int(share * n + 0.5)))
        return min(count, int(knee(score_M[None], self.c, self.quantile))) if n and self.c is not None else count

    def _score(self, view: TokenView) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class ByAttention(_Quotas):
    """By the LLM attention that a token receives from the question."""

    attention: Attention = QUESTION

    reads: ClassVar[frozenset[str]] = frozenset({"text_attn_BN", "text_BN"})

    def _score(self, view: TokenView) -> Tensor:
        return view.need("text_attn_BN")


@dataclass(frozen=True)
class BySimilarity(_Quotas):
    """By the mean cosine of a token's state and those of all candidates before it; the first has none, and gets 0.

    Args:
        sign: 1 keeps the most alike, -1 the most novel.
    """

    sign: int = 1

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND", "text_BN"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sign not in (1, -1):
            raise PlanError(f"sign is {self.sign!r}; 1 keeps what is like the tokens before it, -1 what is unlike them")

    def _score(self, view: TokenView) -> Tensor:
        unit_BND = unit(view.need("hidden_BND")).double()
        before_BND = unit_BND.cumsum(1) - unit_BND
        places_N = torch.arange(unit_BND.shape[1], device=unit_BND.device).clamp(min=1)
        return self.sign * (before_BND * unit_BND).sum(-1) / places_N
