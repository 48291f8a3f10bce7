"""LLaVA-NeXT: a thumbnail and the tiles of an AnyRes image, unpadded, with a newline token at the end of each row."""

from typing import Any

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from foveate.geometry.base import Call, Kind
from foveate.geometry.llava import LlavaGeometry
from foveate.selection import Block, Grid


class LlavaNextGeometry(LlavaGeometry):
    """`llava_next`. Newline tokens come from no row."""

    model_type = "llava_next"

    def tiles(self, base: Any, call: Call) -> list[int]:
        """Tiles of each image, the thumbnail counted."""
        size, pinpoints = base.config.vision_config.image_size, base.config.image_grid_pinpoints
        return [
            image_size_to_num_patches(image_size=s, grid_pinpoints=pinpoints, patch_size=size)
            for s in call["image_sizes"]
        ]

    def rows(self, base: Any, kind: Kind, call: Call) -> int:
        """Tiles x patches; padding tiles of a stacked batch never reach the tower."""
        return sum(self.tiles(base, call)) * self.patches(base)

    def pack(self, base: Any, kind: Kind, call: Call, rows_RC: Tensor, newline: float = 0.0) -> list[Tensor]:
        """The model's own packing, on whatever the rows hold."""
        tiles = rows_RC.unflatten(0, (-1, self.patches(base))).split(self.tiles(base, call))
        ends = torch.full((rows_RC.shape[1],), newline, dtype=rows_RC.dtype, device=rows_RC.device)
        return list(self.packed(base, call, tiles, ends))

    def packed(self, base: Any, call: Call, tiles: Any, newline: Tensor) -> list[Tensor]:
        """Call `pack_image_features` with this version's signature."""
        strategy = base.config.vision_feature_select_strategy
        return base.pack_image_features(tiles, call["image_sizes"], strategy, image_newline=newline)[0]

    def grid(self, base: Any, kind: Kind, call: Call, source_N: Tensor) -> Grid:
        """Read off where the newlines fell."""
        n, side = len(source_N), round(self.patches(base) ** 0.5)
        thumbnail = Block(0, side, side)
        ends = (source_N[side * side :] < 0).nonzero().flatten()
        if n <= side * side + 1:
            return (thumbnail,)
        columns = int(ends[0])
        return thumbnail, Block(side * side, (n - side * side) // (columns + 1), columns, newline=True)
