"""The embedded instrument: a small, really trained VLM and the synthetic world it was trained on.

model, processor = foveate.tiny.load()
scene = foveate.tiny.world.scene("test", 0)
"""

from foveate.tiny import world
from foveate.tiny.checkpoint import load, load_joint, path
from foveate.tiny.inputs import PROMPT, text_ids

__all__ = ["PROMPT", "load", "load_joint", "path", "text_ids", "world"]
