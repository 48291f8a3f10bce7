"""Video-LLaVA: one CLIP tower for images and one for videos, one projector for both."""

from dataclasses import replace
from typing import Any

from foveate.geometry.base import Call
from foveate.geometry.tower import TowerLayer
from foveate.geometry.video_llava import VideoLlavaGeometry
from foveate.hf.families.base import Family, Tap, feature_layer
from foveate.hf.families.llava import SIGNALS, asked_layer
from foveate.hf.families.towers import TiledTap, joined


class WholeTap(TiledTap):
    """[CLS] is projected as the patches are."""

    def shown(self) -> TowerLayer:
        """It has rows of its own."""
        return replace(super().shown(), whole=True)


class VideoLlava(VideoLlavaGeometry, Family):
    """`video_llava`: VideoLlavaForConditionalGeneration."""

    video = True
    signals = SIGNALS | {
        "grid": "one square block an image, or a frame of a video",
        "cls_attn_BN": "attention from [CLS] of the image or frame in the feature layer, head mean",
    }
    note = "Each frame's [CLS] is a visual token of its video; it lies outside the grid."

    def check_tower(self, base: Any) -> None:
        """CLIP's towers."""
        self.only_tower(base, "clip_vision_model")
        self.has_cls(base)
        feature_layer(base.config.vision_feature_layer, len(base.image_tower.encoder.layers))

    def tap(self, base: Any, reads: frozenset[str], call: Call, first: bool = False) -> Tap:
        """Queries and keys of the feature layer, or of the first, of the tower that is called."""
        video = "pixel_values_videos" in call
        layers = (base.video_tower if video else base.image_tower).encoder.layers
        asked = asked_layer(base, call)
        layer = layers[0 if first else feature_layer(asked, len(layers))]
        states = joined(layers, asked)
        return (WholeTap if video else TiledTap)(reads, layer, layer.self_attn, self.has_cls(base), joined=states)
