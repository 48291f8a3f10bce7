"""InternVL: InternViT with [CLS], 2x2 pixel shuffle, an image as one or more tiles that the model never tells apart."""

from typing import Any

from torch import Tensor

from foveate.errors import ModelError
from foveate.hf.families.base import Call, Family, Kind, Tap, feature_layer
from foveate.hf.families.llava import SIGNALS, asked_layer
from foveate.hf.families.towers import TiledTap


class InternVL(Family):
    """`internvl`: InternVLForConditionalGeneration. Video frames are images to this model."""

    model_type = "internvl"
    video = True
    signals = SIGNALS | {
        "grid": "one square block a tile",
        "cls_attn_BN": "attention from [CLS] in the feature layer, head mean, averaged over each merged 2x2 cell",
        "cls_cos_BN": "cosine of [CLS] and each patch in the feature layer's output, averaged over each merged cell",
        "encoder_BNC": "output of the feature layer, averaged over each merged 2x2 cell",
        "keys_BNC": "keys of the feature layer, mean over heads, averaged over each merged 2x2 cell",
    }
    note = (
        "Tiles that stand together in the prompt are one image; an encoder cut cannot see that and goes tile by tile."
    )
    joins_units = True

    def merge(self, base: Any) -> int:
        """Patches along one side of a token's cell."""
        return round(1 / base.config.downsample_ratio)

    def cells(self, base: Any) -> int:
        """Tokens of one tile."""
        vision = base.config.vision_config
        size, patch = (x if isinstance(x, int) else x[0] for x in (vision.image_size, vision.patch_size))
        return (size // patch // self.merge(base)) ** 2

    def rows(self, base: Any, kind: Kind, call: Call) -> int:
        """Tiles x tokens."""
        return int(call["pixel_values"].shape[0]) * self.cells(base)

    def pack(self, base: Any, kind: Kind, call: Call, rows_RC: Tensor, newline: float = 0.0) -> list[Tensor]:
        """Row order is token order."""
        return list(rows_RC.split(self.cells(base)))

    def has_cls(self, base: Any) -> bool:
        """InternViT has a class token."""
        return True

    def check_tower(self, base: Any) -> None:
        """InternViT without its [CLS] in the features."""
        if (strategy := base.config.vision_feature_select_strategy) != "default":
            raise ModelError(f'vision_feature_select_strategy is {strategy!r}; only "default" makes one token a cell')
        feature_layer(base.config.vision_feature_layer, len(base.vision_tower.encoder.layer))

    def tap(self, base: Any, reads: frozenset[str], call: Call) -> Tap:
        """Queries and keys of the feature layer."""
        layers = base.vision_tower.encoder.layer
        layer = layers[feature_layer(asked_layer(base, call), len(layers))]
        return TiledTap(reads, layer, layer.attention, self.has_cls(base), self.merge(base))
