"""LLaVA-NeXT-Video: CLIP tower, AnyRes images, videos pooled frame by frame."""

from typing import Any

from foveate.geometry.base import Call
from foveate.geometry.llava_next_video import LlavaNextVideoGeometry
from foveate.hf.families.llava_next import LlavaNext
from foveate.hf.families.towers import TiledTap


class LlavaNextVideo(LlavaNextVideoGeometry, LlavaNext):
    """`llava_next_video`: LlavaNextVideoForConditionalGeneration."""

    video = True
    note = f"{LlavaNext.note} A video's signals are means over the cells that the model pools."

    def tap(self, base: Any, reads: frozenset[str], call: Call, first: bool = False) -> TiledTap:
        """Queries and keys of the feature layer, or of the first."""
        tap = super().tap(base, reads, call, first)
        if "pixel_values_videos" in call:
            tap.merge = int(base.config.spatial_pool_stride)
        return tap
