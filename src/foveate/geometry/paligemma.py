"""PaliGemma 1 and 2: one token a patch, one square grid an image."""

from typing import Any

from foveate.geometry.llava import LlavaGeometry


class PaliGemmaGeometry(LlavaGeometry):
    """`paligemma`."""

    model_type = "paligemma"

    def has_cls(self, base: Any) -> bool:
        """SigLIP has none."""
        return False
