"""Cover the question's words and the image together, by the tokens that each of them would look at.

MMTok, arXiv 2508.18264. Compared with Ironieser/MMTok @ d1522cda0ac4470589446b5f220534d892db4c62
(`mm_coverage_selection`): the same tokens on every stored case.

Every word is a row of softmax(cosines to the projected tokens / text_temperature), every token one of softmax(cosines
to the encoder's features / image_temperature); rows are divided by their number, the image's times alpha, and k tokens
are picked whose best entries add up to most.

Differences: words are the question's, all of them, in the LLM's embedding space (the paper extracts keywords first);
the release's list of excluded padding tokens has no counterpart, as our families give no padding tokens.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.ops.coverage import cover
from foveate.ops.wording import word_cosines
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked


@dataclass(frozen=True)
class CoveringBoth:
    """k tokens by greedy maximum coverage of words and image.

    Args:
        alpha: weight of the image's rows.
        text_temperature: of the words' softmax.
        image_temperature: of the tokens' softmax.
    """

    alpha: float = 0.5
    text_temperature: float = 0.02
    image_temperature: float = 0.2

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND", "encoder_BNC", "text_BTD"})
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise PlanError(f"alpha is {self.alpha}; the weight of covering the image is 0 or more")
        for name in ("text_temperature", "image_temperature"):
            if not getattr(self, name) > 0:
                raise PlanError(f"{name} is {getattr(self, name)}; a temperature is above 0")

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        features_BNC = view.need("encoder_BNC")
        words_BTN = word_cosines(view.need("hidden_BND"), view.need("text_BTD"))
        image_BNN = word_cosines(features_BNC, features_BNC)
        n, t = features_BNC.shape[1], words_BTN.shape[1]
        rows_BRN = torch.cat(
            (
                (words_BTN / self.text_temperature).softmax(-1) / max(1, t),
                (image_BNN / self.image_temperature).softmax(-1) * (self.alpha / n),
            ),
            1,
        )
        return Selection.of(cover(rows_BRN, k), n)


@checked
def mmtok(
    keep: float | int, alpha: float = 0.5, text_temperature: float = 0.02, image_temperature: float = 0.2
) -> Plan:
    """MMTok: greedy coverage of the question's words and the image, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
        alpha: weight of covering the image, beside covering the words.
        text_temperature: how sharply a word chooses its tokens.
        image_temperature: how sharply a token chooses its like.
    """
    return Plan((Cut("input", CoveringBoth(alpha, text_temperature, image_temperature), keep),))
