"""What the pointer points into: image tokens that have seen each other and the question, and the stop as one more row.

E~ = g LN(W_p E_txt),   H = Enc([X ; E~])[1:N],   M = [H ; s_stop]
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.pointer.candidates import Candidates
from foveate.pointer.encoder import Block, Standard
from foveate.pointer.stepwise.config import StepwiseConfig


class Memory(Standard):
    """The cross-modal encoder."""

    def __init__(self, config: StepwiseConfig) -> None:
        super().__init__(config.features)
        self.config, d = config, config.size
        self.into = nn.Linear(config.features, d) if config.width else nn.Identity()
        if config.words:
            self.word, self.word_norm = nn.Linear(config.words, d), nn.LayerNorm(d)
        self.blocks = nn.ModuleList(Block(d, config.heads, grow=4) for _ in range(config.blocks))
        self.stop = nn.Parameter(torch.randn(d))

    def forward(self, c: Candidates, text: float = 1.0) -> Tensor:
        """M, [B, N + 1, D], the stop last; `text` scales the question besides the config's own gate."""
        z_BND = self.standard(c.tokens_BND)
        b, n = z_BND.shape[:2]
        x, seen = self.into(z_BND), c.real_BN
        if self.config.words:
            assert c.text_BTD is not None
            said_BTd = self.word_norm(self.word(F.rms_norm(c.text_BTD, c.text_BTD.shape[-1:])))
            x = torch.cat((x, self.config.text * text * said_BTd), 1)
            seen = c.seen_BM
        for block in self.blocks:
            x = block(x, seen, self.config.causal)
        return torch.cat((x[:, :n], self.stop.expand(b, 1, -1)), 1)
