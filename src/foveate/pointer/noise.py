"""The relaxation of a selection: a token that is half kept reaches the LLM half drowned in noise of its own kind.

x~ = mean + sqrt(a) (x - mean) + sqrt(1 - a) std eps: the variance stays what it was whatever a is, so a token that is
not kept looks like a token that says nothing, and not like one that is missing or small. DiffPrune, arXiv 2605.28051,
writes it for tokens of unit variance. Real tokens share a mean larger than their deviation and differ between channels,
so ours is matched channel by channel; its literal form is `isotropic`.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.errors import FoveateError

Gate = Literal["matched", "isotropic", "mean", "scale"]
GATES = get_args(Gate)
_EDGE = 1e-2
"""How far a stays from 0 and 1, where the square root's slope is infinite."""


def gate(
    x_BSD: Tensor,
    alpha_BS: Tensor,
    mean_D: Tensor,
    std_D: Tensor,
    kind: Gate = "matched",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Tokens as far as they are kept.

    Args:
        x_BSD: tokens.
        alpha_BS: how far each is kept, 0 to 1.
        mean_D, std_D: statistics of each channel over many tokens.
        kind: "matched": noise of each channel's mean and deviation; "isotropic": around each token's own mean over its
            channels, of its own deviation, the same for all channels; "mean": no noise, towards the mean token;
            "scale": towards zero.
        generator: of the noise, on the tokens' device.

    Raises:
        FoveateError: no such kind.
    """
    a = (_EDGE + (1 - 2 * _EDGE) * alpha_BS).unsqueeze(-1)
    if kind == "scale":
        return x_BSD * alpha_BS.unsqueeze(-1)
    if kind == "mean":
        return mean_D + a.sqrt() * (x_BSD - mean_D)
    eps = torch.empty_like(x_BSD).normal_(generator=generator)
    if kind == "isotropic":
        centre, size = x_BSD.mean(-1, keepdim=True), x_BSD.std(-1, keepdim=True)
        return centre + a.sqrt() * (x_BSD - centre) + (1 - a).sqrt() * size * eps
    if kind == "matched":
        return mean_D + a.sqrt() * (x_BSD - mean_D) + (1 - a).sqrt() * std_D * eps
    raise FoveateError(f"no gate {kind!r}; there are {', '.join(GATES)}")


@dataclass(frozen=True)
class Support:
    """Which tokens reach the LLM in training: [B, S] places, rising, and which of them really do."""

    places_BS: Tensor
    there_BS: Tensor


def support(
    alpha_BN: Tensor,
    real_BN: Tensor | None,
    best: int,
    others: int,
    gone: float = 0.0,
    generator: torch.Generator | None = None,
) -> Support:
    """The `best` tokens by alpha as far as they exceed `gone`, at least one, and `others` by lot.

    The rest would be noise alone. Leaving it out is cheaper, and it is what use will be like: a model that has always
    seen its few tokens among many of noise misses the many when they are gone.
    """
    n = alpha_BN.shape[1]
    score_BN = alpha_BN.detach()
    best = min(best, n)
    others = min(others, n - best)
    lot_BN = torch.empty_like(score_BN).uniform_(generator=generator)
    if real_BN is not None:
        score_BN, lot_BN = (x.masked_fill(~real_BN, -1.0) for x in (score_BN, lot_BN))
    value_BS, first_BS = score_BN.topk(best, 1)
    there_BS = value_BS > gone if gone > 0 else value_BS >= 0
    there_BS[:, 0] = True
    lot_BN = lot_BN.scatter(1, first_BS, -2.0)
    drawn_BS, more_BS = lot_BN.topk(others, 1)
    places_BS, order_BS = torch.cat((first_BS, more_BS), 1).sort(1)
    return Support(places_BS, torch.cat((there_BS, drawn_BS >= 0), 1).gather(1, order_BS))


class Denoiser(nn.Module):
    """One ViT block whose attention sees the token itself alone; in training, dropped in use.

    Attention to one token is its value, so that queries and keys would reach nothing and are not there. It works on
    standardised tokens and begins as the identity.
    """

    def __init__(self, features: int, grow: int = 4) -> None:
        super().__init__()
        self.norm_in, self.norm_mid = nn.LayerNorm(features), nn.LayerNorm(features)
        self.value, self.out = nn.Linear(features, features), nn.Linear(features, features)
        self.up, self.down = nn.Linear(features, grow * features), nn.Linear(grow * features, features)
        for last in (self.out, self.down):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, x_BSD: Tensor, mean_D: Tensor, std_D: Tensor) -> Tensor:
        """Tokens, cleaned."""
        z_BSD = (x_BSD - mean_D) / std_D
        more = self.out(self.value(self.norm_in(z_BSD)))
        return x_BSD + std_D * (more + self.down(F.gelu(self.up(self.norm_mid(z_BSD + more)))))
