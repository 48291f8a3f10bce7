"""Reads all candidates together, once: what each token is among the others, before anything is picked."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.pointer.candidates import Candidates


class Block(nn.Module):
    """A pre-norm Transformer block that begins as the identity."""

    def __init__(self, width: int, heads: int, grow: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in, self.norm_mid = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, grow * width), nn.Linear(grow * width, width)
        for last in (self.out, self.down):
            nn.init.zeros_(last.weight)

    def forward(self, x_BNm: Tensor, real_BN: Tensor | None, causal: bool = False) -> Tensor:
        """Attention among the real tokens of each image (`causal`: to earlier ones), then each token by itself."""
        q, k, v = self.qkv(self.norm_in(x_BNm)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = None if real_BN is None else real_BN[:, None, None]
        if causal:
            n = x_BNm.shape[1]
            before = torch.ones(n, n, dtype=torch.bool, device=x_BNm.device).tril()
            # A row that sees nothing would be no number: padding sees itself.
            seen = before if seen is None else (before & seen) | torch.eye(n, dtype=torch.bool, device=x_BNm.device)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2)
        x_BNm = x_BNm + self.out(mixed)
        return x_BNm + self.down(F.gelu(self.up(self.norm_mid(x_BNm))))


class Standard(nn.Module):
    """Tokens with mean 0 and deviation 1 in each channel."""

    mean_D: Tensor
    std_D: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        # A projector's outputs share a large mean and differ a hundredfold between channels: without both, all tokens
        # look alike, and noise of one size drowns some channels and not others.
        self.register_buffer("mean_D", torch.zeros(features))
        self.register_buffer("std_D", torch.ones(features))

    def fit(self, mean_D: Tensor, std_D: Tensor) -> None:
        """Take over the channel statistics of the tokens to come."""
        self.mean_D.copy_(mean_D)
        # A channel that never moved says nothing; it must not become infinite where it does move.
        self.std_D.copy_(std_D.clamp(min=1e-4 * float(std_D.max())))

    def scaled(self, tokens_BND: Tensor) -> Tensor:
        """Tokens in units of their own size, directions as they are."""
        return tokens_BND / (self.mean_D.square() + self.std_D.square()).mean().sqrt()

    def standard(self, tokens_BND: Tensor) -> Tensor:
        """Tokens with mean 0 and deviation 1 in each channel."""
        return (tokens_BND - self.mean_D) / self.std_D


class Question(nn.Module):
    """The question for the blocks, word by word, and for each token its best match among the words.

    Words and projected tokens enter the LLM in one space, so that the match starts as a cosine there: both sides begin
    with the same projection. Centred on the mean token, which all tokens share and no word is.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.said, self.norm = nn.Linear(features, width), nn.LayerNorm(width)
        self.token, self.word = (nn.Linear(features, width, bias=False) for _ in range(2))
        self.match = nn.Linear(1, width, bias=False)
        self.weight = nn.Parameter(torch.tensor(3.0))
        nn.init.orthogonal_(self.token.weight)
        self.word.weight.data.copy_(self.token.weight)

    def forward(self, c: Candidates, mean_D: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The words, [B, T, width], and what to add to each token, [B, N, width], and to its score, [B, N]."""
        assert c.text_BTD is not None
        words = F.rms_norm(c.text_BTD, c.text_BTD.shape[-1:])
        said_BTm = self.norm(self.said(words))
        token = F.normalize(self.token(c.tokens_BND - mean_D), dim=-1, eps=1e-6)
        like_BNT = token @ F.normalize(self.word(words), dim=-1, eps=1e-6).mT
        if c.said_BT is not None:
            like_BNT = like_BNT.masked_fill(~c.said_BT.unsqueeze(1), -1.0)
        match_BN = like_BNT.amax(-1)
        return said_BTm + _order(said_BTm), self.match(match_BN.unsqueeze(-1)), self.weight * match_BN


def _order(x_BTm: Tensor) -> Tensor:
    """Sines and cosines of each place, [T, width], half as large as what a norm leaves."""
    t, m = x_BTm.shape[-2:]
    rate_m = torch.exp(torch.arange(0, m, 2, device=x_BTm.device) * (-math.log(100.0) / m))
    turn_Tm = torch.arange(t, device=x_BTm.device).unsqueeze(1) * rate_m
    return torch.cat((turn_Tm.sin(), turn_Tm.cos()), -1)[:, :m] / 2


class Encoder(Standard):
    """Standardises tokens channel by channel, and lets them see each other and the question's words."""

    def __init__(self, features: int, width: int, heads: int, blocks: int, text: bool) -> None:
        super().__init__(features)
        self.into = nn.Linear(features, width)
        self.question = Question(features, width) if text else None
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, c: Candidates, z_BND: Tensor) -> tuple[Tensor, Tensor | float]:
        """States [B, N, width] of standardised tokens, and what the question adds to their scores."""
        x, seen_BM, n, bonus = self.into(z_BND), c.real_BN, z_BND.shape[1], 0.0
        if self.question is not None:
            words_BTm, more, bonus = self.question(c, self.mean_D)
            x = torch.cat((x + more, words_BTm), 1)
            seen_BM = c.seen_BM
        for block in self.blocks:
            x = block(x, seen_BM)
        return self.norm(x[:, :n]), bonus
