"""The pointer: a transformer decoder over the history of picks, whose last cross-attention logits say what comes next.

Keys and values of the memory are computed once a layer. A round's query is what was picked last, so its projections in
the first layer are rows of one product over the whole memory. Of the last layer only the logits reach anything: its
values and its feed-forward part are not built.
"""

from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.pointer.stepwise.config import StepwiseConfig


class Layer(nn.Module):
    """One decoder layer: causal self-attention, cross-attention, feed-forward."""

    def __init__(self, width: int, heads: int, last: bool) -> None:
        super().__init__()
        self.heads, self.last = heads, last
        self.norm_in, self.norm_mid = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        if not last:
            self.value, self.mix = nn.Linear(width, width), nn.Linear(width, width)
            self.norm_out = nn.LayerNorm(width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def project(self, x_BRD: Tensor) -> Tensor:
        """Queries, keys and values of self-attention, [B, R, 3 D]."""
        return self.qkv(self.norm_in(x_BRD))

    def look_back(self, x_BRD: Tensor, qkv_BR3: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, "Past"]:
        """Rows after self-attention to themselves and all before them, and the history they have become."""
        q, k, v = qkv_BR3.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x_BRD + self.out(seen), (k, v)

    def look_around(self, x_BRD: Tensor, scene: "LayerScene") -> Tensor:
        """Rows after cross-attention and feed-forward; of every layer but the last."""
        q = self._heads(self.query(self.norm_mid(x_BRD)))
        assert scene.value is not None
        seen = F.scaled_dot_product_attention(q, scene.key, scene.value, scene.mask).transpose(1, 2).flatten(2)
        x_BRD = x_BRD + self.mix(seen)
        return x_BRD + self.down(F.gelu(self.up(self.norm_out(x_BRD))))

    def point(self, x_BD: Tensor, scene: "LayerScene") -> Tensor:
        """The cross-attention's logits over the memory, [B, N + 1], one head; of the last layer."""
        q_BD = self.query(self.norm_mid(x_BD)) / x_BD.shape[-1] ** 0.5
        return (scene.key @ q_BD.unsqueeze(-1)).squeeze(-1)

    def scene(self, memory_BMD: Tensor, real_BM: Tensor | None) -> "LayerScene":
        """Keys and values of the memory."""
        if self.last:
            return LayerScene(self.key(memory_BMD), None, None)
        mask = None if real_BM is None else real_BM[:, None, None]
        return LayerScene(self._heads(self.key(memory_BMD)), self._heads(self.value(memory_BMD)), mask)

    def _heads(self, x_BRD: Tensor) -> Tensor:
        return x_BRD.unflatten(-1, (self.heads, -1)).transpose(1, 2)


Past = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LayerScene:
    """A layer's keys and values of the memory, and which of them are real."""

    key: Tensor
    value: Tensor | None
    mask: Tensor | None


@dataclass
class History:
    """What each layer remembers of the rounds so far."""

    layers: list[Past | None] = field(default_factory=list)


class Decoder(nn.Module):
    """The layers, and s_start."""

    def __init__(self, config: StepwiseConfig) -> None:
        super().__init__()
        d = config.size
        self.start = nn.Parameter(torch.randn(d))
        self.layers = nn.ModuleList(Layer(d, config.heads, i == config.layers - 1) for i in range(config.layers))

    @property
    def stack(self) -> list[Layer]:
        """The layers, first to last."""
        return cast(list[Layer], list(self.layers))

    def scenes(self, memory_BMD: Tensor, real_BM: Tensor | None) -> list[LayerScene]:
        """Everything that is computed once an image."""
        return [layer.scene(memory_BMD, real_BM) for layer in self.stack]

    def forward(
        self, rows_BRD: Tensor, scenes: list[LayerScene], history: History, qkv_BR3: Tensor | None = None
    ) -> Tensor:
        """Logits [B, N + 1] of the next round, after the rows just picked (at first: s_start); they join the history.

        Several rows are one group: the query is their mean. `qkv_BR3`: their projections in the first layer, if known.
        """
        history.layers = history.layers or [None] * len(self.layers)
        x_BRD = rows_BRD
        for i, (layer, scene) in enumerate(zip(self.stack, scenes, strict=True)):
            projected = layer.project(x_BRD) if i or qkv_BR3 is None else qkv_BR3
            x_BRD, history.layers[i] = layer.look_back(x_BRD, projected, history.layers[i])
            if not layer.last:
                x_BRD = layer.look_around(x_BRD, scene)
        return self.stack[-1].point(x_BRD.mean(1), scenes[-1])
