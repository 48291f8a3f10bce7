"""LLaVA-OneVision: AnyRes tiles resampled to a cap, videos pooled 2x2 with one newline at the end."""

import math
from typing import Any

import torch
from torch import Tensor

from foveate.geometry.base import Call, Kind
from foveate.geometry.llava_next import LlavaNextGeometry
from foveate.selection import Block, Grid


class LlavaOnevisionGeometry(LlavaNextGeometry):
    """`llava_onevision`."""

    model_type = "llava_onevision"

    def tiles(self, base: Any, call: Call) -> list[int]:
        """Images of a multi-image prompt are not tiled."""
        tiles = super().tiles(base, call)
        if (per_prompt := call.get("batch_num_images")) is None:
            return tiles
        alone = [n == 1 for n in map(int, per_prompt) for _ in range(n)]
        return [t if a else 1 for t, a in zip(tiles, alone, strict=True)]

    def rows(self, base: Any, kind: Kind, call: Call) -> int:
        """Tiles x patches, or frames x patches."""
        if kind == "video":
            videos, frames = pixels(call).shape[:2]
            return videos * frames * self.patches(base)
        return super().rows(base, kind, call)

    def pack(self, base: Any, kind: Kind, call: Call, rows_RC: Tensor, newline: float = 0.0) -> list[Tensor]:
        """The model's own packing or pooling, on whatever the rows hold."""
        if kind == "image":
            return super().pack(base, kind, call, rows_RC, newline)
        frames = pixels(call).shape[1]
        pooled = base.apply_pooling(rows_RC.unflatten(0, (-1, self.patches(base))))
        videos = pooled.reshape(-1, frames * pooled.shape[1], pooled.shape[2])
        end = torch.full((1, rows_RC.shape[1]), newline, dtype=rows_RC.dtype, device=rows_RC.device)
        return [torch.cat((v, end)) for v in videos]

    def packed(self, base: Any, call: Call, tiles: Any, newline: Tensor) -> list[Tensor]:
        """Call `pack_image_features` with this version's signature."""
        ratio = call.get("vision_aspect_ratio") or base.config.vision_aspect_ratio
        return base.pack_image_features(tiles, call["image_sizes"], image_newline=newline, vision_aspect_ratio=ratio)[0]

    def exact(self, base: Any, kind: Kind, call: Call) -> bool:
        """Resampling mixes rows, so a token may have no row of its own."""
        if kind == "video":
            return False
        side = round(self.patches(base) ** 0.5)
        index = torch.arange(self.rows(base, kind, call), dtype=torch.float64)
        packed = torch.cat(self.pack(base, kind, call, index[:, None], -1.0))
        return bool(side and torch.equal(packed, packed.round()))

    def grid(self, base: Any, kind: Kind, call: Call, source_N: Tensor) -> Grid:
        """A video is one block a frame; its newline lies outside them all."""
        if kind == "image":
            return super().grid(base, kind, call, source_N)
        frames = pixels(call).shape[1]
        side = math.ceil(round(self.patches(base) ** 0.5) / 2)
        return tuple(Block(f * side * side, side, side) for f in range(frames))


def pixels(call: Call) -> Tensor:
    """The video's frames; older transformers name them as they name an image's."""
    return call["pixel_values_videos"] if "pixel_values_videos" in call else call["pixel_values"]
