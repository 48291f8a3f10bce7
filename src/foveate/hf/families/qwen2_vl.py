"""Qwen2-VL: no [CLS], patches of all images packed into one row, a 2x2 merger, M-RoPE."""

from importlib import import_module
from typing import Any

from torch import Tensor, nn

from foveate.hf.families.base import Call, Family, Kind, Tap, Unit
from foveate.hf.families.llava import SIGNALS
from foveate.hf.families.towers import PackedTap
from foveate.selection import Block, Grid


class Qwen2VL(Family):
    """`qwen2_vl`: Qwen2VLForConditionalGeneration."""

    model_type = "qwen2_vl"
    video = True
    mrope = True
    signals = SIGNALS | {
        "grid": "one block of merged cells a frame",
        "cls_attn_BN": (
            "no [CLS]: attention received in the last full-attention block, mean over heads and the frame's queries, "
            "averaged over each merged 2x2 cell"
        ),
        "cls_cos_BN": "no [CLS]: refused",
        "encoder_BNC": "output of the last block, averaged over each merged 2x2 cell",
        "keys_BNC": "keys of that block before rotation, mean over heads, averaged over each merged 2x2 cell",
    }

    def projector(self, base: Any) -> nn.Module:
        """The patch merger; `merge` patches are one of its rows."""
        return base.visual.merger

    def merge(self, base: Any) -> int:
        """Patches along one side of a merged cell."""
        return base.visual.spatial_merge_size

    def thw(self, kind: Kind, call: Call) -> Tensor:
        """Frames, patch rows and patch columns of each image."""
        return call[f"{kind}_grid_thw"]

    def cells(self, base: Any, kind: Kind, call: Call) -> list[int]:
        """Tokens of each image."""
        return (self.thw(kind, call).prod(-1) // self.merge(base) ** 2).tolist()

    def rows(self, base: Any, kind: Kind, call: Call) -> int:
        """Merged cells of the whole call."""
        return sum(self.cells(base, kind, call))

    def pack(self, base: Any, kind: Kind, call: Call, rows_RC: Tensor, newline: float = 0.0) -> list[Tensor]:
        """Row order is token order."""
        return list(rows_RC.split(self.cells(base, kind, call)))

    def units(self, base: Any, kind: Kind, call: Call) -> list[Unit]:
        """Grids differ from image to image, so they are read off the call and not off the count."""
        m = self.merge(base)
        return [
            Unit(kind, t * (h // m) * (w // m), frames(t, h // m, w // m)) for t, h, w in self.thw(kind, call).tolist()
        ]

    def has_cls(self, base: Any) -> bool:
        """There is none."""
        return False

    def tap(self, base: Any, reads: frozenset[str], call: Call) -> Tap:
        """Projections of the last block that sees the whole frame."""
        tower = base.visual
        module = import_module(type(tower).__module__)
        block = tower.blocks[self.full_block(base)]
        return PackedTap(reads, block, self.merge(base) ** 2, module.apply_rotary_pos_emb_vision, tower.blocks[-1])

    def full_block(self, base: Any) -> int:
        """The last block with attention over the whole frame."""
        return -1


def frames(t: int, h: int, w: int) -> Grid:
    """One block a frame."""
    return tuple(Block(f * h * w, h, w) for f in range(t))
