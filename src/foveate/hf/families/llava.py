"""LLaVA-1.5: CLIP (or SigLIP, DINOv2) tower, an MLP that projects token by token, one square grid an image."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from foveate.errors import ModelError
from foveate.geometry.base import Call
from foveate.geometry.llava import LlavaGeometry
from foveate.hf.families.base import Family, Inner, feature_layer
from foveate.hf.families.towers import TiledTap, inner, joined

CLS = "attention from [CLS] in the feature layer, head mean; SigLIP towers: attention received, mean over queries"
SIGNALS = {
    "hidden_BND": "projected tokens at the input, hidden states at a layer; at the encoder features of the "
    "feature layer, or of all feature layers, as the projector is given them",
    "grid": "one square block",
    "encoder_BNC": "output of the feature layer (vision_feature_layer; of several the deepest), patches only",
    "keys_BNC": "keys of the feature layer, mean over heads",
    "cls_attn_BN": CLS,
    "cls_cos_BN": "cosine of [CLS] and each token in the output of the feature layer; SigLIP towers: none, refused",
    "text_BTD": "input embeddings of the question",
    "text_attn_BN": "attention of the rater tokens in the previous or the own decoder layer",
    "text_rows_BRN": "the same, of each rater by itself",
    "prior_attn_BN": "the same, of the first token behind the prompt's last image; 0 where no question follows it",
    "first_attn_BN": "as cls_attn_BN, in the tower's first layer",
    "input_BND": "projected tokens, at a layer",
    "key_norm_BN": "L1 norm of the keys of the decoder layer before the cut, before rotation",
    "text_hidden_BTD": "states at the layer of the text behind the image",
    "text_norm_BT": "as key_norm_BN, of that text",
}


class Llava(LlavaGeometry, Family):
    """`llava`: LlavaForConditionalGeneration."""

    signals = SIGNALS
    merges_between = True
    note = "Pixtral 12B is of this type; with its tower it is read as `mistral3` is."

    def check_tower(self, base: Any) -> None:
        """Known towers, with their usual settings."""
        self.has_cls(base)
        if not hasattr(_attention(tower_layers(base)[0]), "q_proj"):
            raise ModelError(
                "the queries of this DINOv2 tower cannot be read in this version of transformers; update it (5.24 was "
                "tested)"
            )
        feature_layer(base.config.vision_feature_layer, len(tower_layers(base)))

    def tap(self, base: Any, reads: frozenset[str], call: Call, first: bool = False) -> TiledTap:
        """Queries and keys of the feature layer, or of the first."""
        layers, asked = tower_layers(base), asked_layer(base, call)
        layer = layers[0 if first else feature_layer(asked, len(layers))]
        return TiledTap(reads, layer, _attention(layer), self.has_cls(base), joined=joined(layers, asked))

    def inner(self, base: Any, call: Call) -> Sequence[Inner]:
        """The tower's layers up to the feature layer."""
        layers = tower_layers(base)
        deepest = feature_layer(asked_layer(base, call), len(layers))
        return [inner(layer, _attention(layer)) for layer in layers[: deepest + 1]]

    def joined(self, base: Any, call: Call) -> nn.Module | None:
        """The tower, where features of several of its layers are joined."""
        return None if isinstance(asked_layer(base, call), int) else base.vision_tower


def _attention(layer: Any) -> Any:
    return getattr(layer, "self_attn", None) or layer.attention


def tower_layers(base: Any) -> Any:
    """The tower's blocks."""
    encoder = base.vision_tower.encoder
    return encoder.layer if base.config.vision_config.model_type == "dinov2" else encoder.layers


def asked_layer(base: Any, call: Call) -> Any:
    """The feature layer of a call: its own, or the config's."""
    asked = call.get("vision_feature_layer")
    return base.config.vision_feature_layer if asked is None else asked
