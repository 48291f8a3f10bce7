"""Any model that puts image features in the place of placeholder tokens of a decoder: images are runs of those tokens.

Nothing is asked of the tower, so there are no tower signals, no grid, and no cut before the projector.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from transformers.cache_utils import DynamicCache

from foveate.errors import ModelError
from foveate.fields import LAYER_FIELDS, ROW_FIELDS
from foveate.geometry.base import Kind
from foveate.hf.cache import check_cache
from foveate.hf.families.base import Family
from foveate.hf.families.llava import SIGNALS

INNER = ("language_model", "text_model", "decoder", "model")


class Generic(Family):
    """Every type without a family of its own."""

    video = True
    by_runs = True
    joins_units = True
    signals: ClassVar[Mapping[str, str]] = {k: SIGNALS[k] for k in sorted(ROW_FIELDS | LAYER_FIELDS) if k in SIGNALS}
    note = "An image is a run of placeholder tokens: tiles and frames with text between them are images of their own."

    def __init__(self, model_type: str, probed: bool = True) -> None:
        self.model_type, self.probed = model_type, probed

    def base(self, model: nn.Module) -> Any:
        """The outermost module that holds both parts: the model called, or the one in it."""
        inner = getattr(model, "model", None)
        return inner if hasattr(inner, "get_image_features") or hasattr(inner, "get_video_features") else model

    def language_model(self, model: nn.Module) -> Any:
        """The first module on the way in that has layers."""
        at: Any = self.base(model)
        while not isinstance(getattr(at, "layers", None), nn.ModuleList):
            inner = [m for name in INNER if isinstance(m := getattr(at, name, None), nn.Module)]
            if not inner:
                raise ModelError(f"{type(model).__name__} has no decoder layers where they are looked for")
            at = inner[0]
        return at

    def check_tower(self, base: Any) -> None:
        """Refuse what does not work this way, as far as its parts tell."""
        if base.config.is_encoder_decoder:
            raise ModelError(f"{self.model_type} is an encoder-decoder; only decoders can be cut")
        if not (hasattr(base, "get_image_features") or hasattr(base, "get_video_features")):
            raise ModelError(f"{self.model_type} has no get_image_features: its images may not become tokens")
        inner = getattr(base, "language_model", None)
        if hasattr(inner, "generate") and "generate" in vars(type(base)):
            raise ModelError(
                f"{type(base).__name__} generates by its language model alone, where nobody sees which tokens are "
                "visual"
            )
        check_cache(DynamicCache(config=self.language_model(base).config))
        if self.token_id(base.config, "image") is None and self.token_id(base.config, "video") is None:
            raise ModelError(f"the config of this {self.model_type} names no image_token_id, so tokens cannot be found")

    def has_cls(self, base: Any) -> bool:
        """Nobody looked."""
        return False

    def token_id(self, config: Any, kind: Kind) -> int | None:
        """The placeholder, where the config names one that is a single token."""
        value = getattr(config, f"{kind}_token_id", None)
        return value if isinstance(value, int) else None
