"""InternVL: InternViT with [CLS], one or more tiles an image."""

from typing import Any

from foveate.errors import ModelError
from foveate.geometry.base import Call
from foveate.geometry.internvl import InternVLGeometry
from foveate.hf.families.base import Family, Tap, feature_layer
from foveate.hf.families.llava import SIGNALS, asked_layer
from foveate.hf.families.towers import TiledTap


class InternVL(InternVLGeometry, Family):
    """`internvl`: InternVLForConditionalGeneration. Video frames are images to this model."""

    video = True
    signals = SIGNALS | {
        "grid": "one square block a tile",
        "cls_attn_BN": "attention from [CLS] in the feature layer, head mean, averaged over each merged 2x2 cell",
        "cls_cos_BN": "cosine of [CLS] and each patch in the feature layer's output, averaged over each merged cell",
        "encoder_BNC": "output of the feature layer, averaged over each merged 2x2 cell",
        "keys_BNC": "keys of the feature layer, mean over heads, averaged over each merged 2x2 cell",
    }
    note = (
        "Tiles that stand together in the prompt are one image; an encoder cut cannot see that and goes tile by tile. "
        "InternVL 3.5 is of this type; its decoders (qwen3, qwen3_moe, gpt_oss) were tried."
    )

    def check_tower(self, base: Any) -> None:
        """InternViT without its [CLS] in the features."""
        if (strategy := base.config.vision_feature_select_strategy) != "default":
            raise ModelError(f'vision_feature_select_strategy is {strategy!r}; only "default" makes one token a cell')
        feature_layer(base.config.vision_feature_layer, len(base.vision_tower.encoder.layer))

    def tap(self, base: Any, reads: frozenset[str], call: Call, first: bool = False) -> Tap:
        """Queries and keys of the feature layer, or of the first."""
        layers = base.vision_tower.encoder.layer
        layer = layers[0 if first else feature_layer(asked_layer(base, call), len(layers))]
        return TiledTap(reads, layer, layer.attention, self.has_cls(base), self.merge(base))
