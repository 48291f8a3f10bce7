"""How the pictures of a model become tokens, by Hugging Face model type, for whatever engine runs it."""

from foveate.geometry.base import Geometry
from foveate.geometry.gemma3 import Gemma3Geometry
from foveate.geometry.gemma4 import Gemma4Geometry
from foveate.geometry.idefics3 import Idefics3Geometry, SmolVLMGeometry
from foveate.geometry.internvl import InternVLGeometry
from foveate.geometry.kimi import KimiGeometry
from foveate.geometry.lfm2_vl import Lfm2VlGeometry
from foveate.geometry.llava import LlavaGeometry
from foveate.geometry.llava_next import LlavaNextGeometry
from foveate.geometry.llava_next_video import LlavaNextVideoGeometry
from foveate.geometry.llava_onevision import LlavaOnevisionGeometry
from foveate.geometry.mistral3 import Mistral3Geometry
from foveate.geometry.paligemma import PaliGemmaGeometry
from foveate.geometry.qwen import (
    Glm4vGeometry,
    Glm4vMoeGeometry,
    Glm46vGeometry,
    Qwen2VLGeometry,
    Qwen3VLGeometry,
    Qwen3VLMoeGeometry,
    Qwen25VLGeometry,
    Qwen35Geometry,
    Qwen35MoeGeometry,
)
from foveate.geometry.video_llava import VideoLlavaGeometry

GEOMETRIES: dict[str, Geometry] = {
    "gemma3": Gemma3Geometry(),
    "gemma4": Gemma4Geometry(),
    "glm46v": Glm46vGeometry(),
    "glm4v": Glm4vGeometry(),
    "glm4v_moe": Glm4vMoeGeometry(),
    "idefics3": Idefics3Geometry(),
    "internvl": InternVLGeometry(),
    "kimi_k25": KimiGeometry(),
    "lfm2_vl": Lfm2VlGeometry(),
    "llava": LlavaGeometry(),
    "llava_next": LlavaNextGeometry(),
    "llava_next_video": LlavaNextVideoGeometry(),
    "llava_onevision": LlavaOnevisionGeometry(),
    "mistral3": Mistral3Geometry(),
    "paligemma": PaliGemmaGeometry(),
    "qwen2_5_vl": Qwen25VLGeometry(),
    "qwen2_vl": Qwen2VLGeometry(),
    "qwen3_5": Qwen35Geometry(),
    "qwen3_5_moe": Qwen35MoeGeometry(),
    "qwen3_vl": Qwen3VLGeometry(),
    "qwen3_vl_moe": Qwen3VLMoeGeometry(),
    "smolvlm": SmolVLMGeometry(),
    "video_llava": VideoLlavaGeometry(),
}
