"""The model types that Foveate knows, by their Hugging Face name."""

from typing import Any

from foveate.errors import ModelError
from foveate.hf.families.base import Family
from foveate.hf.families.gemma3 import Gemma3
from foveate.hf.families.gemma4 import Gemma4
from foveate.hf.families.generic import Generic
from foveate.hf.families.glm4v import Glm4v, Glm4vMoe, Glm46v
from foveate.hf.families.idefics3 import Idefics3, SmolVLM
from foveate.hf.families.inkling import Inkling
from foveate.hf.families.internvl import InternVL
from foveate.hf.families.kimi import Kimi
from foveate.hf.families.known import UNSUPPORTED
from foveate.hf.families.lfm2_vl import Lfm2Vl
from foveate.hf.families.llama4 import Llama4
from foveate.hf.families.llava import Llava
from foveate.hf.families.llava_next import LlavaNext
from foveate.hf.families.llava_next_video import LlavaNextVideo
from foveate.hf.families.llava_onevision import LlavaOnevision
from foveate.hf.families.mistral3 import Mistral3, Pixtral
from foveate.hf.families.paligemma import PaliGemma
from foveate.hf.families.qwen2_5_vl import Qwen25VL
from foveate.hf.families.qwen2_vl import Qwen2VL
from foveate.hf.families.qwen3_5 import Qwen35, Qwen35Moe
from foveate.hf.families.qwen3_vl import Qwen3VL, Qwen3VLMoe
from foveate.hf.families.video_llava import VideoLlava

FAMILIES: dict[str, Family] = {
    "gemma3": Gemma3(),
    "gemma4": Gemma4(),
    "glm46v": Glm46v(),
    "glm4v": Glm4v(),
    "glm4v_moe": Glm4vMoe(),
    "idefics3": Idefics3(),
    "internvl": InternVL(),
    "kimi_k25": Kimi(),
    "lfm2_vl": Lfm2Vl(),
    "llava": Llava(),
    "llava_next": LlavaNext(),
    "llava_next_video": LlavaNextVideo(),
    "llava_onevision": LlavaOnevision(),
    "mistral3": Mistral3(),
    "paligemma": PaliGemma(),
    "qwen2_5_vl": Qwen25VL(),
    "qwen2_vl": Qwen2VL(),
    "qwen3_5": Qwen35(),
    "qwen3_5_moe": Qwen35Moe(),
    "qwen3_vl": Qwen3VL(),
    "qwen3_vl_moe": Qwen3VLMoe(),
    "smolvlm": SmolVLM(),
    "video_llava": VideoLlava(),
}
"""Those whose images, signals and grids are known."""
TOWERED: dict[tuple[str, str], Family] = {("llava", "pixtral"): Pixtral()}
"""(Type, its tower's type) where the tower makes another family of it."""
DECODERS: dict[str, Generic] = {
    "inkling2": Generic("inkling2", probed=False),
    "inkling2_loop": Generic("inkling2_loop", probed=False),
    "inkling_mm_model": Inkling(),
    "llama4": Llama4(),
}
"""Those whose layers ask where tokens stand otherwise than by positions; nothing is known of their images."""


def family(model: Any) -> Family:
    """The family of a model (or of its config): its own, or the one for all others.

    Raises:
        ModelError: a type of which it is known why it cannot be cut.
    """
    config = getattr(model, "config", model)
    kind = getattr(config, "model_type", type(model).__name__)
    tower = getattr(getattr(config, "vision_config", None), "model_type", "")
    if (reason := UNSUPPORTED.get(kind)) is not None:
        raise ModelError(f"model type {kind!r} is not supported: {reason}")
    return TOWERED.get((kind, tower)) or FAMILIES.get(kind) or DECODERS.get(kind) or Generic(kind)
