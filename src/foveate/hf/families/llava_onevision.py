"""LLaVA-OneVision: SigLIP tower, AnyRes images, videos."""

from foveate.geometry.llava_onevision import LlavaOnevisionGeometry
from foveate.hf.families.llava_next import LlavaNext


class LlavaOnevision(LlavaOnevisionGeometry, LlavaNext):
    """`llava_onevision`: LlavaOnevisionForConditionalGeneration."""

    video = True
    note = (
        "Newline tokens count as visual tokens; tower signals are 0 there, and resampled where the model resamples its "
        "features (large images, videos)."
    )
