"""The model types that Foveate knows, by their Hugging Face name."""

from typing import Any

from foveate.errors import ModelError
from foveate.hf.families.base import Family
from foveate.hf.families.internvl import InternVL
from foveate.hf.families.llava import Llava
from foveate.hf.families.llava_next import LlavaNext
from foveate.hf.families.llava_onevision import LlavaOnevision
from foveate.hf.families.qwen2_5_vl import Qwen25VL
from foveate.hf.families.qwen2_vl import Qwen2VL
from foveate.hf.families.qwen3_vl import Qwen3VL

FAMILIES: dict[str, Family] = {
    "internvl": InternVL(),
    "llava": Llava(),
    "llava_next": LlavaNext(),
    "llava_onevision": LlavaOnevision(),
    "qwen2_5_vl": Qwen25VL(),
    "qwen2_vl": Qwen2VL(),
    "qwen3_vl": Qwen3VL(),
}


def family(model: Any) -> Family:
    """The family of a model (or of its config).

    Raises:
        ModelError: the model type is not listed.
    """
    kind = getattr(getattr(model, "config", model), "model_type", type(model).__name__)
    if kind not in FAMILIES:
        raise ModelError(f"model type {kind!r} is not supported; supported are {', '.join(FAMILIES)} (foveate list)")
    return FAMILIES[kind]
