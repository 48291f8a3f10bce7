"""The one-shot rival: score every token once and keep the best k, trained through a differentiable top-k.

DiffPrune, arXiv 2605.28051 (from the lab of STS). Its published recipe: two Transformer blocks and a linear head, a
differentiable top-k whose weights sum to k exactly (`softtop`), the same variance-preserving noise.

Differences: a narrower encoder by default (the source: 1024 wide, 16 heads), tokens standardised channel by channel,
read as the LLM receives them instead of before the projector, and the perturbation of `soft`.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from foveate.ops.topk import check_k
from foveate.pointer.candidates import Candidates
from foveate.pointer.config import OneShotConfig
from foveate.pointer.encoder import Encoder
from foveate.pointer.learned import Learned
from foveate.pointer.soft import Heat, Soft, gumbel, hardened
from foveate.pointer.softtop import soft_top
from foveate.selection import Selection, TokenView


class OneShotSelector(Learned):
    """The k tokens of the highest learned score."""

    adaptive: ClassVar[bool] = False
    encoder: Encoder

    def __init__(self, config: OneShotConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.features, config.width, config.heads, config.blocks, config.text)
        # No bias: the threshold takes up what all scores share.
        self.score = nn.Linear(config.width, 1, bias=False)

    @torch.no_grad()
    def forward(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        check_k(k, view.shape[1])
        c = self.candidates(view)
        with torch.autocast(view.device.type, enabled=False):
            return Selection.top(self.on(view.device).scores(c), k)

    def scores(self, c: Candidates) -> Tensor:
        """One number a token, [B, N]; -1e9 at padding."""
        states_BNm, bonus = self.encoder(c, self.encoder.standard(c.tokens_BND))
        score_BN = self.score(states_BNm).squeeze(-1) + bonus
        return score_BN if c.real_BN is None else score_BN.masked_fill(~c.real_BN, -1e9)

    def _soft(
        self, c: Candidates, _most: int, heat: Heat, generator: torch.Generator | None, _stop_bias: Tensor | float
    ) -> Soft:
        """The differentiable top-k; its count is the budget, whatever is allowed; it never stops."""
        count_B = (self.config.budget * c.counts_B).clamp(min=1.0)
        score_BN = self.scores(c)
        alpha_BN = soft_top(score_BN + gumbel(score_BN, heat.perturbation, generator), count_B, heat.temperature)
        if heat.straight:
            rank_BN = alpha_BN.argsort(1, descending=True).argsort(1)
            alpha_BN = hardened(alpha_BN, rank_BN < count_B.round().unsqueeze(1))
        return Soft(alpha_BN, count_B)
