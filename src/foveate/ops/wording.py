"""How close tokens are to words: cosines in one space, for methods that ask what of an image a question speaks of."""

import torch
from torch import Tensor

from foveate.ops.cosine import unit


def word_cosines(x_BND: Tensor, text_BTD: Tensor) -> Tensor:
    """Cosine of each word and each token: [B, T, N], float32 in [-1, 1]."""
    text_BTD, x_BND = unit(text_BTD), unit(x_BND)
    with torch.autocast(x_BND.device.type, enabled=False):
        return (text_BTD @ x_BND.mT).clamp_(-1, 1)


def nearest_word(x_BND: Tensor, text_BTD: Tensor) -> Tensor:
    """Cosine of each token to the word nearest to it: [B, N]; 0 where there is no word."""
    if not text_BTD.shape[1]:
        return x_BND.new_zeros(x_BND.shape[:2], dtype=torch.float32)
    return word_cosines(x_BND, text_BTD).amax(1)
