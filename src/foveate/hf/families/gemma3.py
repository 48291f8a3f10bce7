"""Gemma 3: a SigLIP tower, pooled by the projector; images see themselves both ways, most layers have a window."""

from typing import Any

from foveate.geometry.base import Call
from foveate.geometry.gemma3 import Gemma3Geometry
from foveate.hf.families.base import Family, Tap
from foveate.hf.families.llava import SIGNALS
from foveate.hf.families.towers import TiledTap


class Gemma3(Gemma3Geometry, Family):
    """`gemma3`: Gemma3ForConditionalGeneration."""

    signals = SIGNALS | {
        "cls_attn_BN": "no [CLS]: attention received in the last layer, mean over queries and heads, mean of each cell",
        "cls_cos_BN": "no [CLS]: refused",
        "encoder_BNC": "output of the last layer before its norm, mean of each pooled cell",
        "keys_BNC": "keys of the last layer, mean over heads, mean of each pooled cell",
    }
    note = "The projector pools patches to tokens, so an encoder cut spares it nothing, and merging there is refused."

    def tap(self, base: Any, reads: frozenset[str], call: Call, first: bool = False) -> Tap:
        """Queries and keys of the last layer, or of the first."""
        tower = base.vision_tower
        layer = getattr(tower, "vision_model", tower).encoder.layers[0 if first else -1]
        return TiledTap(reads, layer, layer.self_attn, self.has_cls(base))
