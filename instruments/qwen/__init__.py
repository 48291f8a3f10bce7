"""The second instrument: a Qwen2.5-VL in miniature, without [CLS], with a merger and M-RoPE.

model, processor = instruments.qwen.load(folder)
"""

from instruments.qwen.anatomy import FRAME
from instruments.qwen.checkpoint import load
from instruments.qwen.look import look
from instruments.qwen.processing import PROMPT

__all__ = ["FRAME", "PROMPT", "load", "look"]
