"""Gemma 4: pictures and frames of any size, padded to one number of patches, which are pooled to tokens."""

from itertools import accumulate, pairwise
from typing import Any

from torch import Tensor

from foveate.geometry.base import Call, Geometry, Kind, Unit
from foveate.selection import Block


class Gemma4Geometry(Geometry):
    """`gemma4`."""

    model_type = "gemma4"

    def spots(self, kind: Kind, call: Call) -> Tensor:
        """Column and row of each patch, -1 where there is none: [pictures or frames, patches, 2]."""
        return call[f"{kind}_position_ids"]

    def sides(self, base: Any, kind: Kind, call: Call) -> list[tuple[int, int]]:
        """Rows and columns of pooled cells of each picture or frame."""
        k = base.config.vision_config.pooling_kernel_size
        return [((y + 1) // k, (x + 1) // k) for x, y in self.spots(kind, call).amax(1).tolist()]

    def pictures(self, base: Any, kind: Kind, call: Call) -> list[list[tuple[int, int]]]:
        """The same, each image by itself and each video with all its frames."""
        sides = self.sides(base, kind, call)
        if kind == "image":
            return [[s] for s in sides]
        ends = [0, *accumulate(call["num_frames_per_video"].tolist())]
        return [sides[a:b] for a, b in pairwise(ends)]

    def units(self, base: Any, kind: Kind, call: Call) -> list[Unit]:
        """One block a picture or frame."""
        out = []
        for sides in self.pictures(base, kind, call):
            starts = [0, *accumulate(h * w for h, w in sides)]
            out.append(Unit(kind, starts[-1], tuple(Block(a, *s) for a, s in zip(starts, sides, strict=False))))
        return out

    def rows(self, base: Any, kind: Kind, call: Call) -> int:
        """Pooled cells of the whole call."""
        return sum(h * w for h, w in self.sides(base, kind, call))

    def pack(self, base: Any, kind: Kind, call: Call, rows_RC: Tensor, newline: float = 0.0) -> list[Tensor]:
        """Row order is token order."""
        return list(rows_RC.split([sum(h * w for h, w in sides) for sides in self.pictures(base, kind, call)]))

    def has_cls(self, base: Any) -> bool:
        """There is none."""
        return False
