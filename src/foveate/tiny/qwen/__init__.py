"""The second instrument: a Qwen2.5-VL in miniature, without [CLS], with a merger and M-RoPE.

model, processor = foveate.tiny.qwen.load(folder)
"""

from foveate.tiny.qwen.anatomy import FRAME
from foveate.tiny.qwen.checkpoint import load
from foveate.tiny.qwen.look import look
from foveate.tiny.qwen.processing import PROMPT

__all__ = ["FRAME", "PROMPT", "load", "look"]
