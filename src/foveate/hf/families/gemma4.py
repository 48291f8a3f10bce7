"""Gemma 4: a tower that rotates by row and column and masks its padding, pooled before the projector."""

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from foveate.geometry.base import Call, Kind
from foveate.geometry.gemma4 import Gemma4Geometry
from foveate.geometry.tower import TowerLayer
from foveate.hf.families.base import Family, Tap
from foveate.hf.families.llava import SIGNALS
from foveate.hf.families.towers import TiledTap


class Gemma4Tap(TiledTap):
    """Padded pictures, queries and keys normed by heads and rotated. What is shown is their patches in one row."""

    def __init__(self, reads: frozenset[str], layer: Any, spots: Tensor, sides: list[tuple[int, int]], merge: int):
        Tap.__init__(self, reads)
        self.layer, self.attn, self.merge = layer, layer.self_attn, merge
        self.spots, self.sides = spots, sides

    def hooks(self) -> Sequence[Any]:
        """The rotary tables too."""
        keep = self.keep_call("tables", "position_embeddings", "position_ids")
        return [*super().hooks(), self.attn.register_forward_pre_hook(keep, with_kwargs=True)]

    def shown(self) -> TowerLayer:
        """Each picture sees itself alone."""
        attn, turn = self.attn, import_module(type(self.attn).__module__).apply_multidimensional_rope
        here = (self.spots >= 0).all(-1)

        def part(name: str, norm: nn.Module, rotated: bool = True) -> Tensor:
            x = norm(self.look(name).unflatten(-1, (-1, attn.head_dim)))
            x = turn(x, *self.look("tables")[0], self.look("tables")[1]) if rotated else x
            each = x[here.to(x.device)].transpose(0, 1)[None]
            return each.repeat_interleave(attn.num_key_value_groups, 1) if name == "keys" else each

        def features() -> Tensor:
            x = self.look("features")
            return x[here.to(x.device)][None]

        bounds = [0, *accumulate(here.sum(1).tolist())]
        keys = partial(part, "keys", attn.k_norm)
        return TowerLayer(partial(part, "queries", attn.q_norm), keys, partial(keys, rotated=False), features,
                          attn.scaling, False, partial(self._cells, here), lambda: bounds)  # fmt: skip

    def _cells(self, here: Tensor, x: Tensor) -> Tensor:
        sizes = torch.tensor([(h * w, w) for h, w in self.sides], device=self.spots.device)
        spots = self.spots // self.merge
        cell = (sizes[:, 0].cumsum(0) - sizes[:, 0])[:, None] + spots[..., 1] * sizes[:, 1:] + spots[..., 0]
        rows = x.new_zeros(sum(h * w for h, w in self.sides), x.shape[-1])
        return rows.index_add(0, cell[here].to(x.device), x[0]) / self.merge**2


class Gemma4(Gemma4Geometry, Family):
    """`gemma4`: Gemma4ForConditionalGeneration."""

    video = True
    signals = SIGNALS | {
        "grid": "one block of pooled cells a picture, or a frame of a video",
        "cls_attn_BN": "no [CLS]: attention received in the last layer within a picture, mean of each pooled cell",
        "cls_cos_BN": "no [CLS]: refused",
        "encoder_BNC": "output of the last layer, mean of each pooled cell",
        "keys_BNC": "keys of the last layer, normed, before rotation, mean over heads, mean of each pooled cell",
    }
    note = (
        "Video frames stand apart in the prompt and are pruned as one video. Where later layers share the keys of "
        "earlier ones (E2B, E4B), a cut at those is refused."
    )

    def projector(self, base: Any) -> nn.Module:
        """What comes after the pooling and its norm."""
        return base.embed_vision.embedding_projection

    def tap(self, base: Any, reads: frozenset[str], call: Call, first: bool = False) -> Tap:
        """Queries and keys of the last layer, or of the first."""
        kind: Kind = "video" if "pixel_values_videos" in call else "image"
        layer = base.vision_tower.encoder.layers[0 if first else -1]
        merge = base.config.vision_config.pooling_kernel_size
        return Gemma4Tap(reads, layer, self.spots(kind, call), self.sides(base, kind, call), merge)
