"""LLaVA-1.5: one token a patch, one square grid an image."""

from typing import Any

from torch import Tensor

from foveate.errors import ModelError
from foveate.geometry.base import Call, Geometry, Kind

TOWERS = {"clip_vision_model": True, "dinov2": True, "siglip_vision_model": False}
"""Whether a tower has a [CLS]. DINOv2's config must give the size it is run at: patches are counted from it."""


class LlavaGeometry(Geometry):
    """`llava`."""

    model_type = "llava"

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
        """CLIP and DINOv2 have one, SigLIP has none.

        Raises:
            ModelError: another kind of tower, or settings that do not make one token a patch.
        """
        kind = base.config.vision_config.model_type
        if kind not in TOWERS:
            raise ModelError(f"the vision tower is {kind!r}; {self.model_type} is supported with {', '.join(TOWERS)}")
        strategy = base.config.vision_feature_select_strategy
        if strategy != (want := "default" if TOWERS[kind] else "full"):
            raise ModelError(
                f"vision_feature_select_strategy is {strategy!r} with a {kind}; only {want!r} makes one token a patch"
            )
        return TOWERS[kind]
