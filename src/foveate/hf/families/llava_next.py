"""LLaVA-NeXT: CLIP tower, AnyRes images."""

from foveate.geometry.llava_next import LlavaNextGeometry
from foveate.hf.families.llava import SIGNALS, Llava


class LlavaNext(LlavaNextGeometry, Llava):
    """`llava_next`: LlavaNextForConditionalGeneration."""

    signals = SIGNALS | {
        "grid": "the thumbnail's square block, then the tiled picture, unpadded, each row ended by a newline token",
    }
    note = "Newline tokens count as visual tokens; tower signals are 0 there."
