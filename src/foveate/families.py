"""The Hugging Face model types that Foveate knows: `FAMILIES`, by the name in a model's config."""

from foveate.hf.families import FAMILIES, family

__all__ = ["FAMILIES", "family"]
