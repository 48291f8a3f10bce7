"""Mistral 3: a Pixtral tower, whose patches of all pictures stand in one row and rotate by row and column."""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from foveate.errors import ModelError
from foveate.geometry.base import Call
from foveate.geometry.mistral3 import Mistral3Geometry, PixtralGeometry
from foveate.geometry.tower import TowerLayer, heads, oblong_cells
from foveate.hf.families.base import Family, Tap, feature_layer
from foveate.hf.families.llava import SIGNALS, asked_layer
from foveate.hf.families.towers import TiledTap
from foveate.hf.taps import rotate


class PixtralTap(TiledTap):
    """All pictures in one row: [1, patches, C]. Rows: means over merged cells, picture by picture."""

    def __init__(self, reads: frozenset[str], layer: Any, sides: list[tuple[int, int]], merge: int) -> None:
        super().__init__(reads, layer, layer.attention, False, merge)
        self.sides = sides

    def hooks(self) -> Sequence[Any]:
        """The rotary tables too."""
        keep = self.keep_call("tables", "position_embeddings")
        return [*super().hooks(), self.attn.register_forward_pre_hook(keep, with_kwargs=True)]

    def shown(self) -> TowerLayer:
        """The layer's projections, split into heads and rotated."""

        def part(name: str, turn: bool = True) -> Tensor:
            x = heads(self.look(name), self.heads)
            return rotate(x, *(t.flatten(0, -2)[None] for t in self.look("tables")[0])) if turn else x

        bounds = [0, *accumulate(h * w for h, w in self.sides)]
        content = partial(part, "keys", turn=False)
        return TowerLayer(partial(part, "queries"), partial(part, "keys"), content, partial(self.look, "features"),
                          self.scale, False, self._cells, lambda: bounds)  # fmt: skip

    def _cells(self, x: Tensor) -> Tensor:
        return torch.cat(oblong_cells(x, self.sides, self.merge))


class Mistral3(Mistral3Geometry, Family):
    """`mistral3`: Mistral3ForConditionalGeneration."""

    signals = SIGNALS | {
        "grid": "one block of merged cells a picture",
        "cls_attn_BN": "no [CLS]: attention received in the feature layer within a picture, mean of each merged cell",
        "cls_cos_BN": "no [CLS]: refused",
        "encoder_BNC": "output of the feature layer, mean of each merged cell",
        "keys_BNC": "keys of the feature layer before rotation, mean over heads, mean of each merged cell",
    }
    note = "Row ends stand between a picture's tokens and are text to the model: they stay."

    def projector(self, base: Any) -> nn.Module:
        """What comes after the merger."""
        return base.multi_modal_projector.linear_1

    def check_tower(self, base: Any) -> None:
        """Pixtral's tower."""
        self.only_tower(base, "pixtral")
        feature_layer(base.config.vision_feature_layer, len(base.vision_tower.transformer.layers))

    def tap(self, base: Any, reads: frozenset[str], call: Call, first: bool = False) -> Tap:
        """Queries and keys of the feature layer, or of the first."""
        layers = base.vision_tower.transformer.layers
        layer = layers[0 if first else feature_layer(asked_layer(base, call), len(layers))]
        return PixtralTap(reads, layer, self.sides(base, call, 1), self.merge(base))


class Pixtral(PixtralGeometry, Mistral3):
    """`llava` with a Pixtral tower: LlavaForConditionalGeneration, as Pixtral 12B."""

    def check_tower(self, base: Any) -> None:
        """Pixtral's tower, whose every patch is a token."""
        super().check_tower(base)
        if (strategy := base.config.vision_feature_select_strategy) != "full":
            raise ModelError(
                f"vision_feature_select_strategy is {strategy!r} with a pixtral; only 'full' makes one token a patch"
            )
