"""LLaVA-1.5: CLIP (or SigLIP) tower, an MLP that projects token by token, one square grid an image."""

from typing import Any

from torch import Tensor

from foveate.errors import ModelError
from foveate.hf.families.base import Call, Family, Kind, Tap, feature_layer
from foveate.hf.families.towers import TiledTap

CLS = "attention from [CLS] in the feature layer, head mean; SigLIP towers: attention received, mean over queries"
SIGNALS = {
    "hidden_BND": "projected tokens at the input, hidden states at a layer, feature-layer features at the encoder",
    "grid": "one square block",
    "encoder_BNC": "output of the feature layer (vision_feature_layer), patches only",
    "keys_BNC": "keys of the feature layer, mean over heads",
    "cls_attn_BN": CLS,
    "cls_cos_BN": "cosine of [CLS] and each token in the output of the feature layer; SigLIP towers: none, refused",
    "text_BTD": "input embeddings of the question",
    "text_attn_BN": "attention of the rater tokens in the previous or the own decoder layer",
}


class Llava(Family):
    """`llava`: LlavaForConditionalGeneration."""

    model_type = "llava"
    signals = SIGNALS

    def patches(self, base: Any) -> int:
        """Patches of one tile."""
        vision = base.config.vision_config
        return (vision.image_size // vision.patch_size) ** 2

    def rows(self, base: Any, kind: Kind, call: Call) -> int:
        """Tiles x patches."""
        pixels = call["pixel_values"]
        return pixels.shape[:-3].numel() * self.patches(base)

    def pack(self, base: Any, kind: Kind, call: Call, rows_RC: Tensor, newline: float = 0.0) -> list[Tensor]:
        """Row order is token order."""
        return list(rows_RC.split(self.patches(base)))

    def has_cls(self, base: Any) -> bool:
        """CLIP has one, SigLIP has none."""
        kind = base.config.vision_config.model_type
        if kind not in ("clip_vision_model", "siglip_vision_model"):
            raise ModelError(
                f"the vision tower is {kind!r}; {self.model_type} is supported with CLIP and SigLIP towers"
            )
        cls = kind == "clip_vision_model"
        strategy = base.config.vision_feature_select_strategy
        if strategy != (want := "default" if cls else "full"):
            raise ModelError(
                f"vision_feature_select_strategy is {strategy!r} with a {kind}; only {want!r} makes one token a patch"
            )
        return cls

    def check_tower(self, base: Any) -> None:
        """CLIP and SigLIP, with their usual settings."""
        self.has_cls(base)
        feature_layer(base.config.vision_feature_layer, len(base.vision_tower.encoder.layers))

    def tap(self, base: Any, reads: frozenset[str], call: Call) -> Tap:
        """Queries and keys of the feature layer."""
        layers = base.vision_tower.encoder.layers
        layer = layers[feature_layer(asked_layer(base, call), len(layers))]
        return TiledTap(reads, layer, layer.self_attn, self.has_cls(base))


def asked_layer(base: Any, call: Call) -> Any:
    """The feature layer of a call: its own, or the config's."""
    asked = call.get("vision_feature_layer")
    return base.config.vision_feature_layer if asked is None else asked
