"""One step of pointing, the same for training and for use: scores, the stop, and what a pick changes.

The score of token i is `w.C_i + q.K_i - c * covered_i`: what it is worth by itself, what the state asks for, and how
much a token already picked covers it. The stop sees the best score that is left, so the count follows the content.
"""

import copy
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.pointer.candidates import Candidates
from foveate.pointer.config import PointerConfig
from foveate.pointer.encoder import Encoder

_COVERAGE = 5.0
"""The weight that coverage begins with. It hardly moves in a few hundred updates, and picks repeat with less."""
HUSHED = 1e-4
"""What is left of a token's worth where coverage decides: enough to choose among those that nothing covers."""
NEVER = -1e9
_STEPS = ("query", "memory")
"""The parts that steps are made of."""


@dataclass(frozen=True)
class Scene:
    """What does not change while one image is picked from."""

    state_BNm: Tensor
    key_BNm: Tensor
    score_BN: Tensor
    """-1e9 at padding."""
    sight_BNd: Tensor
    """Unit vectors: two tokens cover each other as far as these agree."""
    budget_B: Tensor
    """The mean count that the selector was trained for, of each image's tokens."""
    lead_B: Tensor
    """After how many picks coverage alone decides."""


@dataclass(frozen=True)
class Asked:
    """What one step asks for: its scores before coverage, and the part of the stop's logit that no pick changes."""

    base_BN: Tensor
    calm_B: Tensor


class Pointing(nn.Module):
    """The parameters of all steps."""

    def __init__(self, config: PointerConfig) -> None:
        super().__init__()
        self.config, m = config, config.width
        self.encoder = Encoder(config.features, m, config.heads, config.blocks, config.text)
        self.score, self.key, self.query = nn.Linear(m, 1), nn.Linear(m, m, bias=False), nn.Linear(m, m)
        self.begin = nn.Linear(m, m)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        if config.coverage:
            self.sight = nn.Linear(config.features, config.likeness, bias=False)
            nn.init.orthogonal_(self.sight.weight)
            self.coverage = nn.Parameter(torch.tensor(_COVERAGE).expm1().log())
        if config.state:
            self.memory = nn.GRUCell(m, m)
        if config.stop != "none":
            self.stop_key = nn.Parameter(torch.zeros(m))
            self.stop_base = nn.Parameter(torch.tensor(-3.0))
        if config.stop == "hazard":
            self.stop_best, self.stop_time = (nn.Parameter(torch.tensor(v)) for v in (1.0, 0.0))

    def scene(self, c: Candidates) -> tuple[Scene, Tensor]:
        """Everything that is computed once an image, and the state before the first step, [B, width]."""
        z_BND = self.encoder.standard(c.tokens_BND)
        state_BNm, bonus = self.encoder(c, z_BND)
        score_BN = self.score(state_BNm).squeeze(-1) + bonus
        real_BN = torch.ones_like(score_BN) if c.real_BN is None else c.real_BN.to(score_BN)
        if c.real_BN is not None:
            score_BN = score_BN.masked_fill(~c.real_BN, NEVER)
        if self.config.text:
            # A lesson tells shares, and what is added to all scores of a picture is left open. The stop compares
            # pictures: worth is the logarithm of how many even shares a token gets.
            score_BN = score_BN.log_softmax(1) + c.counts_B.to(score_BN).log().unsqueeze(1)
            score_BN = score_BN if c.real_BN is None else score_BN.masked_fill(~c.real_BN, NEVER)
        mean_Bm = (state_BNm * real_BN.unsqueeze(-1)).sum(1) / real_BN.sum(1, keepdim=True)
        sight_BNd = z_BND[..., :0]
        if self.config.coverage:
            seen_BND = z_BND if self.config.centred else self.encoder.scaled(c.tokens_BND)
            sight_BNd = F.normalize(self.sight(seen_BND), dim=-1, eps=1e-6)
        budget_B = (self.config.budget * c.counts_B).clamp(min=1.0)
        lead_B = self.config.lead * c.counts_B
        scene = Scene(state_BNm, self.key(state_BNm), score_BN, sight_BNd, budget_B, lead_B)
        return scene, torch.tanh(self.begin(mean_Bm))

    def ask(self, scene: Scene, memory_Bm: Tensor, picked: int) -> Asked:
        """What a state asks for after so many picks."""
        q_Bm = self.query(memory_Bm) / self.config.width**0.5
        base_BN = scene.score_BN + (scene.key_BNm @ q_Bm.unsqueeze(-1)).squeeze(-1)
        if self.config.lead < 1:
            led_B1 = (picked < scene.lead_B).unsqueeze(1)
            base_BN = torch.where(led_B1 | (scene.score_BN <= NEVER), base_BN, HUSHED * base_BN)
        calm_B = q_Bm.new_zeros(len(q_Bm))
        if self.config.stop != "none":
            calm_B = q_Bm @ self.stop_key + self.stop_base
        if self.config.stop == "hazard":
            calm_B = calm_B + self.stop_time * (picked / scene.budget_B)
        return Asked(base_BN, calm_B)

    def covered(self, asked: Asked, covered_BN: Tensor) -> Tensor:
        """Scores with what is covered taken off."""
        return asked.base_BN - F.softplus(self.coverage) * covered_BN if self.config.coverage else asked.base_BN

    def stop(self, asked: Asked, best_B: Tensor) -> Tensor:
        """The stop's logit, where `best_B` is the best score left: positive means stop."""
        return asked.calm_B - (self.stop_best * best_B if self.config.stop == "hazard" else best_B)

    def cover(self, scene: Scene, covered_BN: Tensor, pick_Bd: Tensor) -> Tensor:
        """Coverage after a pick at this place of the likeness space."""
        if not self.config.coverage:
            return covered_BN
        return torch.maximum(covered_BN, F.relu((scene.sight_BNd @ pick_Bd.unsqueeze(-1)).squeeze(-1)))

    def exact(self, scene: Scene, memory_Bm: Tensor) -> tuple["Pointing", Scene, Tensor]:
        """The steps, a scene and a state in float64, where the order of sums moves no pick; without the encoder."""
        twin = copy.copy(self)
        # Beside the module's own, which a copy shares.
        twin._parameters = {name: p.double() for name, p in self.named_parameters(recurse=False)}  # type: ignore[misc]
        twin._modules = {name: copy.deepcopy(getattr(self, name)).double() for name in _STEPS if name in self._modules}
        wide = (getattr(scene, field.name).double() for field in fields(scene))
        return twin, Scene(*wide), memory_Bm.double()

    def remember(self, memory_Bm: Tensor, picked_Bm: Tensor) -> Tensor:
        """The state after a step that picked tokens of this mean state."""
        return self.memory(picked_Bm, memory_Bm) if self.config.state else memory_Bm
