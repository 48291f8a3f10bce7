"""How far a token answers to the question, for methods that read it: by an image-text space, or by word embeddings.

With `text_tower`, the folder or hub id of a CLIP or SigLIP checkpoint that belongs to the model's vision tower, it is
the similarity of token and question in their joint space (`relevance_BN`). Without, it is the cosine of the token, as
the LLM is given it, to the nearest of the question's word embeddings: what AnchorPrune and ResPrune do where a model
has no such space. The joint space is inverted for single patches, so methods made for it turn it round (CDPruner,
TRIM, AnchorPrune, EADP do, SFPruner does not); word embeddings are not, and are used as they are.
"""

from typing import Literal

from torch import Tensor

from foveate.ops.wording import nearest_word
from foveate.selection import TokenView

JOINT = frozenset({"relevance_BN"})
WORDS = frozenset({"hidden_BND", "text_BTD"})


def signals(text_tower: str | None) -> frozenset[str]:
    """What a selector must read for `relevance`."""
    return WORDS if text_tower is None else JOINT


def relevance(view: TokenView, text_tower: str | None, joint: Literal[1, -1]) -> Tensor:
    """[B, N], larger is more to the question.

    Args:
        view: with what `signals` names.
        text_tower: as the selector has it.
        joint: the sign of the similarity in the joint space.
    """
    if text_tower is not None:
        return joint * view.need("relevance_BN").float()
    return nearest_word(view.need("hidden_BND"), view.need("text_BTD"))
