"""Idefics3 and SmolVLM: a SigLIP tower over square tiles, its patches shuffled into tokens before the projection."""

from typing import Any

from torch import nn

from foveate.geometry.base import Call
from foveate.geometry.idefics3 import Idefics3Geometry, SmolVLMGeometry
from foveate.hf.families.base import Family, Tap
from foveate.hf.families.llava import SIGNALS
from foveate.hf.families.towers import TiledTap


class Idefics3(Idefics3Geometry, Family):
    """`idefics3`: Idefics3ForConditionalGeneration."""

    signals = SIGNALS | {
        "grid": "one square block a tile",
        "cls_attn_BN": "no [CLS]: attention received in the last layer, mean over queries and heads, mean of each cell",
        "cls_cos_BN": "no [CLS]: refused",
        "encoder_BNC": "output of the last layer before its norm, mean of each shuffled cell",
        "keys_BNC": "keys of the last layer, mean over heads, mean of each shuffled cell",
    }
    note = "Tiles and the thumbnail stand apart in the prompt, and each is an image of its own."

    def language_model(self, model: nn.Module) -> Any:
        """The decoder."""
        return self.base(model).text_model

    def projector(self, base: Any) -> nn.Module:
        """What comes after the shuffle."""
        return base.connector.modality_projection

    def tap(self, base: Any, reads: frozenset[str], call: Call, first: bool = False) -> Tap:
        """Queries and keys of the last layer, or of the first."""
        layer = base.vision_model.encoder.layers[0 if first else -1]
        return TiledTap(reads, layer, layer.self_attn, self.has_cls(base), base.config.scale_factor)


class SmolVLM(SmolVLMGeometry, Idefics3):
    """`smolvlm`: SmolVLMForConditionalGeneration."""
