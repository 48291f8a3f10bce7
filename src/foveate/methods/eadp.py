"""Cover what the question's few pointed words speak of: coverage where each covered token weighs by its importance.

EADP, arXiv 2607.02484. Compared with the indices of SJTU-DeepVisionLab/EADP @ e1a08801461c181871b9ff1cb0803b8e9966f083,
whose code carries no licence and was not read for this: the same picks in the same order on every stored case, those
of several tiles where each tile is given the release's share.

All similarities to text are negated. Words whose similarities are spread over few tokens (low entropy of a softmax at
temperature 0.01) count, the lowest `words` share of them, weighted by softmax(-entropy / 0.01). Importance is
mu * whole question + (1 - mu) * those words, min-max, smoothed by a 3 x 3 Gaussian on the token grid, to the power
beta.

Differences:

- Words are those of the LLM's embedding space, the authors' path for Qwen; with a text tower the whole question's
  similarity is that of the image-text space (their LLaVA path takes the words from there too).
- Minimum and maximum, and the count, are the image's; the release shares an AnyRes image's count among tiles by summed
  importance and loses what rounding leaves.
- Grids that are one token high or wide, where the release fails, repeat their edge. Without a grid, after an earlier
  cut or between newline tokens, nothing is smoothed.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.methods.smoothing import smoothed
from foveate.ops.coverage import coverage
from foveate.ops.scale import minmax
from foveate.ops.wording import word_cosines
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked

_TEMPERATURE = 0.01
_EPS = 1e-6


@dataclass(frozen=True)
class Dispersed:
    """k tokens by greedy coverage of what is important to the question.

    Args:
        mu: weight of the whole question, 1 minus that of the words.
        words: the share of the words that counts.
        beta: the power of importance.
        text_tower: of the image-text space; None takes the mean of the word embeddings for the whole question.
    """

    mu: float = 0.5
    words: float = 0.2
    beta: float = 1.0
    text_tower: str | None = None

    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.mu <= 1 or not 0 < self.words <= 1:
            raise PlanError(f"mu is {self.mu} and words {self.words}; both are shares, and some word has to count")
        if not self.beta >= 0:
            raise PlanError(f"beta is {self.beta}; the power of importance is 0 or more")

    @property
    def reads(self) -> frozenset[str]:
        """Tokens, words and grid; the joint space where there is one."""
        more = {"relevance_BN"} if self.text_tower is not None else set()
        return frozenset({"hidden_BND", "text_BTD", "grid"} | more)

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        hidden_BND = view.need("hidden_BND")
        # Affine similarities (1 + cos) / 2, covered from 0 up, pick as cosines do that are covered from -1 up.
        order_BK = coverage(hidden_BND, k, weight_BN=self.importance(view), floor=-1.0)
        return Selection.of(order_BK, hidden_BND.shape[1])

    def importance(self, view: TokenView) -> Tensor:
        """[B, N], 0 or more."""
        hidden_BND, text_BTD = view.need("hidden_BND"), view.need("text_BTD")
        if not text_BTD.shape[1]:
            # Nothing is asked, so nothing is more important than anything else.
            return hidden_BND.new_ones(hidden_BND.shape[:2], dtype=torch.float32)
        if self.text_tower is None:
            whole_BN = word_cosines(hidden_BND, text_BTD.float().mean(1, keepdim=True))[:, 0].neg()
        else:
            whole_BN = view.need("relevance_BN").float().neg()
        score_BN = self.mu * whole_BN + (1 - self.mu) * pointed(-word_cosines(hidden_BND, text_BTD), self.words)
        return smoothed(minmax(score_BN, _EPS, _EPS), view).clamp(min=0) ** self.beta


def pointed(words_BTN: Tensor, share: float) -> Tensor:
    """[B, N]: what the share of the words says that is spread least over the image."""
    entropy_BT = torch.special.entr((words_BTN / _TEMPERATURE).softmax(-1)).sum(-1)
    low_BT, index_BT = entropy_BT.sort(dim=1, stable=True)
    count = max(1, int(share * words_BTN.shape[1]))
    weight_BT = (-low_BT[:, :count] / _TEMPERATURE).softmax(-1)
    chosen_BTN = words_BTN.gather(1, index_BT[:, :count, None].expand(-1, -1, words_BTN.shape[2]))
    return (weight_BT[:, :, None] * chosen_BTN).sum(1)


@checked
def eadp(
    keep: float | int, mu: float = 0.5, words: float = 0.2, beta: float = 1.0, text_tower: str | None = None
) -> Plan:
    """EADP: coverage weighted by what the question's pointed words speak of, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
        mu: weight of the whole question against its words.
        words: the share of the words that counts, those of lowest entropy.
        beta: the power of importance; 1 for LLaVA, 2 for Qwen.
        text_tower: folder or hub id of the CLIP or SigLIP checkpoint of the model's vision tower; None takes the mean
            of the LLM's word embeddings.
    """
    return Plan((Cut("input", Dispersed(mu, words, beta, text_tower), keep),))
