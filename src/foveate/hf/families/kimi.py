"""Kimi K2.5: a tower that packs patches and rotates by row and column, all frames of a video seeing each other."""

from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from foveate.errors import ModelError
from foveate.geometry.base import Call
from foveate.geometry.kimi import KimiGeometry
from foveate.geometry.tower import TowerLayer, heads, oblong_cells
from foveate.hf.families.base import Family, Tap
from foveate.hf.families.llava import SIGNALS
from foveate.hf.families.towers import TiledTap


class KimiTap(TiledTap):
    """All patches in one row: [patches, C]. Rows: merged cells, means over the frames of a video."""

    def __init__(self, reads: frozenset[str], layer: Any, thw: list[tuple[int, int, int]], merge: int) -> None:
        super().__init__(reads, layer, layer.attn, False, merge)
        self.thw = thw

    def hooks(self) -> list[Any]:
        """The rotary tables and the bounds too."""
        keep = self.keep_call("call", "cu_seqlens", "position_embeddings")
        return [*super().hooks(), self.attn.register_forward_pre_hook(keep, with_kwargs=True)]

    def shown(self) -> TowerLayer:
        """The layer's projections, split into heads and rotated."""
        turn = import_module(type(self.attn).__module__).apply_rotary_pos_emb_vision

        def part(name: str, rotated: bool = True) -> Tensor:
            x = heads(self.look(name)[None], self.heads)
            if not rotated:
                return x
            x = x.transpose(1, 2)
            return turn(x, x, *self.look("call")[1])[0].transpose(1, 2)

        return TowerLayer(partial(part, "queries"), partial(part, "keys"), partial(part, "keys", rotated=False),
                          lambda: self.look("features")[None], self.scale, False, self._cells,
                          lambda: self.look("call")[0].tolist())  # fmt: skip

    def _cells(self, x: Tensor) -> Tensor:
        parts = x[0].split([t * h * w for t, h, w in self.thw])
        flat = torch.cat([p.unflatten(0, (t, -1)).mean(0) for p, (t, _, _) in zip(parts, self.thw, strict=True)])
        return torch.cat(oblong_cells(flat[None], [(h, w) for _, h, w in self.thw], self.merge))


class Kimi(KimiGeometry, Family):
    """`kimi_k25`: Kimi_K25ForConditionalGeneration."""

    video = True
    signals = SIGNALS | {
        "grid": "one block of merged cells a picture; of a video too, whose frames are averaged",
        "cls_attn_BN": "no [CLS]: attention received in the last layer within a picture or video, mean of each cell",
        "cls_cos_BN": "no [CLS]: refused",
        "encoder_BNC": "output of the last layer before its norm, mean of each merged cell",
        "keys_BNC": "keys of the last layer before rotation, mean over heads, mean of each merged cell",
    }
    note = "A video becomes as many tokens as one frame."

    def projector(self, base: Any) -> nn.Module:
        """It takes the patches of a cell side by side."""
        return base.mm_projector

    def check_tower(self, base: Any) -> None:
        """Square cells."""
        rows, columns = base.config.vision_config.merge_kernel_size
        if rows != columns:
            raise ModelError(f"merge_kernel_size is {rows}x{columns}; {self.model_type} is supported with square cells")

    def tap(self, base: Any, reads: frozenset[str], call: Call, first: bool = False) -> Tap:
        """Queries and keys of the last layer, or of the first."""
        return KimiTap(reads, base.vision_tower.layers[0 if first else -1], self.thw(call), self.merge(base))
