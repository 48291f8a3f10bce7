"""PaliGemma 1 and 2: a SigLIP tower, projected patch by patch; images and the prompt see themselves both ways."""

from collections.abc import Sequence
from typing import Any

from foveate.geometry.base import Call
from foveate.geometry.paligemma import PaliGemmaGeometry
from foveate.hf.families.base import Family, Inner, Tap
from foveate.hf.families.llava import SIGNALS
from foveate.hf.families.towers import TiledTap, inner


class PaliGemma(PaliGemmaGeometry, Family):
    """`paligemma`: PaliGemmaForConditionalGeneration."""

    signals = SIGNALS | {
        "cls_attn_BN": "no [CLS]: attention received in the last layer, mean over queries and heads",
        "cls_cos_BN": "no [CLS]: refused",
        "encoder_BNC": "output of the last layer before its norm",
        "keys_BNC": "keys of the last layer, mean over heads",
    }

    merges_between = True
    answer_type = 1

    def check_tower(self, base: Any) -> None:
        """SigLIP's tower."""
        self.only_tower(base, "siglip_vision_model")

    def tap(self, base: Any, reads: frozenset[str], call: Call, first: bool = False) -> Tap:
        """Queries and keys of the last layer, or of the first."""
        layer = base.vision_tower.encoder.layers[0 if first else -1]
        return TiledTap(reads, layer, layer.self_attn, self.has_cls(base))

    def inner(self, base: Any, call: Call) -> Sequence[Inner]:
        """All of the tower's layers."""
        return [inner(layer, layer.self_attn) for layer in base.vision_tower.encoder.layers]
