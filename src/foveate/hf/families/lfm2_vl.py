"""LFM2-VL: a SigLIP 2 tower over pictures of any size, its padding masked; most decoder layers are convolutions."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from foveate.geometry.base import Call
from foveate.geometry.lfm2_vl import Lfm2VlGeometry
from foveate.geometry.tower import TowerLayer, oblong_cells
from foveate.hf.families.base import Family, Tap
from foveate.hf.families.llava import SIGNALS
from foveate.hf.families.towers import TiledTap


class PaddedTap(TiledTap):
    """Pictures padded to one number of patches: [pictures, most, C]. What is shown is their patches in one row."""

    def __init__(self, reads: frozenset[str], layer: Any, sides: Sequence[tuple[int, int]], merge: int, slots: int):
        super().__init__(reads, layer, layer.self_attn, False, merge)
        self.sides, self.slots = sides, slots

    def shown(self) -> TowerLayer:
        """Each picture sees itself alone."""
        padded = super().shown()
        counts = [h * w for h, w in self.sides]

        def real(part: Any) -> Tensor:
            return torch.cat([x[..., :n, :] for x, n in zip(part(), counts, strict=True)], -2)[None]

        keys = partial(real, padded.keys)
        return replace(padded, queries=partial(real, padded.queries), keys=keys, content=keys, rows=self._slots,
                       features=partial(real, padded.features), segments=lambda: [0, *accumulate(counts)])  # fmt: skip

    def _slots(self, x: Tensor) -> Tensor:
        return torch.cat([pad(c, (0, 0, 0, self.slots - len(c))) for c in oblong_cells(x, self.sides, self.merge)])


class Lfm2Vl(Lfm2VlGeometry, Family):
    """`lfm2_vl`: Lfm2VlForConditionalGeneration."""

    signals = SIGNALS | {
        "grid": "one block of unshuffled cells a picture",
        "cls_attn_BN": "no [CLS]: attention received in the last layer within a picture, mean of each unshuffled cell",
        "cls_cos_BN": "no [CLS]: refused",
        "encoder_BNC": "output of the last layer before its norm, mean of each unshuffled cell",
        "keys_BNC": "keys of the last layer, mean over heads, mean of each unshuffled cell",
    }
    note = "What is dropped before a convolution leaves no trace in it, as if it had never been sent."

    def projector(self, base: Any) -> nn.Module:
        """What comes after the unshuffle."""
        return base.multi_modal_projector.linear_1

    def check_tower(self, base: Any) -> None:
        """SigLIP 2's tower."""
        self.only_tower(base, "siglip2_vision_model")

    def tap(self, base: Any, reads: frozenset[str], call: Call, first: bool = False) -> Tap:
        """Queries and keys of the last layer, or of the first."""
        layer, merge = base.vision_tower.encoder.layers[0 if first else -1], base.config.downsample_factor
        return PaddedTap(reads, layer, self.sides(base, call, 1), merge, self.slots(base, call))
