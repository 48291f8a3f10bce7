"""Qwen2-VL: a tower without [CLS] that packs the patches of all images into one row."""

from importlib import import_module
from typing import Any

from torch import nn

from foveate.geometry.base import Call
from foveate.geometry.qwen import Qwen2VLGeometry
from foveate.hf.families.base import Family, Tap
from foveate.hf.families.llava import SIGNALS
from foveate.hf.families.towers import PackedTap


class Qwen2VL(Qwen2VLGeometry, Family):
    """`qwen2_vl`: Qwen2VLForConditionalGeneration."""

    video = True
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

    def tap(self, base: Any, reads: frozenset[str], call: Call, first: bool = False) -> Tap:
        """Projections of the last block that sees the whole frame, or of the first."""
        tower = base.visual
        module = import_module(type(tower).__module__)
        block = tower.blocks[self.full_block(base, first)]
        return PackedTap(reads, block, self.merge(base) ** 2, module.apply_rotary_pos_emb_vision, tower.blocks[-1])
