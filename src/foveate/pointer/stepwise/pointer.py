"""Memory and decoder as one set of parameters, and what one round of pointing is: the same for training and for use."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.pointer.candidates import Candidates
from foveate.pointer.stepwise.config import StepwiseConfig
from foveate.pointer.stepwise.decoder import Decoder, LayerScene
from foveate.pointer.stepwise.memory import Memory

_COVERAGE = 5.0
"""The weight that coverage begins with."""


@dataclass(frozen=True)
class Scene:
    """What does not change while one image is picked from."""

    memory_BMD: Tensor
    """N tokens, and the stop."""
    layers: list[LayerScene]
    sight_BNd: Tensor
    """Unit vectors, where there is coverage."""


class Pointer(nn.Module):
    """The parameters."""

    def __init__(self, config: StepwiseConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Memory(config), Decoder(config)
        if config.coverage:
            self.sight = nn.Linear(config.features, config.likeness, bias=False)
            nn.init.orthogonal_(self.sight.weight)
            self.coverage = nn.Parameter(torch.tensor(_COVERAGE).expm1().log())

    def scene(self, c: Candidates, text: float = 1.0) -> Scene:
        """Everything that is computed once an image."""
        memory_BMD = self.encoder(c, text)
        real_BM = None if c.real_BN is None else F.pad(c.real_BN, (0, 1), value=True)
        sight_BNd = memory_BMD[:, :-1, :0]
        if self.config.coverage:
            sight_BNd = F.normalize(self.sight(self.encoder.scaled(c.tokens_BND)), dim=-1, eps=1e-6)
        return Scene(memory_BMD, self.decoder.scenes(memory_BMD, real_BM), sight_BNd)

    def start(self, b: int) -> Tensor:
        """s_start as the first query, [B, 1, D]."""
        return self.decoder.start.expand(b, 1, -1)

    def candidates(self, logit_BM: Tensor, covered_BN: Tensor, closed_BN: Tensor, stop_bias: Tensor | float) -> Tensor:
        """Logits of all tokens and the stop, closed tokens at -inf, with our coverage where there is any."""
        token_BN, stop_B1 = logit_BM[:, :-1], logit_BM[:, -1:] + stop_bias
        if self.config.coverage:
            token_BN = token_BN - F.softplus(self.coverage) * covered_BN
        return torch.cat((token_BN.masked_fill(closed_BN, -torch.inf), stop_B1), 1)

    def cover(self, scene: Scene, covered_BN: Tensor, pick_Bg: Tensor) -> Tensor:
        """Coverage after these picks; a fact, nothing learns through it but the likeness."""
        if not self.config.coverage:
            return covered_BN
        sight_Bgd = take(scene.sight_BNd, pick_Bg)
        return torch.maximum(covered_BN, F.relu(scene.sight_BNd @ sight_Bgd.mT).amax(-1))


def take(x_BND: Tensor, index_Bg: Tensor) -> Tensor:
    """Rows of each image by number, [B, g, D]."""
    return x_BND.gather(1, index_Bg.unsqueeze(-1).expand(-1, -1, x_BND.shape[-1]))
