"""How the pictures of a model become tokens, by Hugging Face model type, for whatever engine runs it."""

from foveate.geometry.base import Geometry
from foveate.geometry.internvl import InternVLGeometry
from foveate.geometry.llava import LlavaGeometry
from foveate.geometry.llava_next import LlavaNextGeometry
from foveate.geometry.llava_onevision import LlavaOnevisionGeometry
from foveate.geometry.qwen import Qwen2VLGeometry, Qwen3VLGeometry, Qwen25VLGeometry

GEOMETRIES: dict[str, Geometry] = {
    "internvl": InternVLGeometry(),
    "llava": LlavaGeometry(),
    "llava_next": LlavaNextGeometry(),
    "llava_onevision": LlavaOnevisionGeometry(),
    "qwen2_5_vl": Qwen25VLGeometry(),
    "qwen2_vl": Qwen2VLGeometry(),
    "qwen3_vl": Qwen3VLGeometry(),
}
