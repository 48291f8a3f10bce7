"""LLaVA-NeXT: CLIP tower, AnyRes images."""

from foveate.geometry.llava_next import LlavaNextGeometry
from foveate.hf.families.llava import SIGNALS, Llava


class LlavaNext(LlavaNextGeometry, Llava):
    """`llava_next`: LlavaNextForConditionalGeneration."""

    signals = SIGNALS | {
        "grid": "the thumbnail's square block, then the tiled picture, unpadded, each row ended by a newline token",
    }
    # An image is several rows of the tower, some of whose patches are padding, and newlines stand between its tokens.
    merges_between = False
    note = "Newline tokens count as visual tokens; tower signals are 0 there."
