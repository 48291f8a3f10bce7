"""GLM-4.1V, 4.5V and 4.6V: packed patches as Qwen2-VL's, merged by a convolution before the projector."""

from foveate.geometry.qwen import Glm4vGeometry, Glm4vMoeGeometry, Glm46vGeometry
from foveate.hf.families.qwen2_vl import Qwen2VL


class Glm4v(Glm4vGeometry, Qwen2VL):
    """`glm4v`: Glm4vForConditionalGeneration."""

    video = False
    note = "A video's frames stand in the prompt as images do, and nothing there says which: videos are not supported."


class Glm4vMoe(Glm4vMoeGeometry, Glm4v):
    """`glm4v_moe`: Glm4vMoeForConditionalGeneration."""


class Glm46v(Glm46vGeometry, Glm4v):
    """`glm46v`: Glm46VForConditionalGeneration."""
