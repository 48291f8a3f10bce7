"""Attention from the text that asks, in one decoder layer: which tokens ask, and what they look at."""

from typing import Any

import torch
from torch import Tensor

from foveate.hf.cache import kept_of
from foveate.hf.listen import heard_attention
from foveate.hf.prompt import Prompt
from foveate.hf.step import Step
from foveate.hf.taps import dynamic_raters, text_attention
from foveate.ops.host import rows_of, upload
from foveate.selection import Attention


def rater_attention(
    step: Step,
    prompt: Prompt,
    asked: Attention,
    number: int,
    layer: Any,
    told: dict[str, Any],
    plain: bool,
    apart: bool = False,
) -> Tensor:
    """Attention from the raters in a decoder layer: [B, M], or (apart) of each by itself: [B, R, M].

    Args:
        step: the pass.
        prompt: its prompts.
        asked: whose.
        number: the layer's place in the cache.
        layer: the layer.
        told: its arguments.
        plain: its parts are known; else it is listened to.
        apart: see above.
    """
    hidden = told["hidden_states"]
    who, most = raters(step, prompt, asked, step.seen(hidden))
    real = step.mask2d(kept_of(step.cache, number), step.segment).to(hidden.device)
    with torch.no_grad():
        if not plain:
            return heard_attention(layer, told, step.lm.config._attn_implementation, who, real, most, apart)
        past = real.shape[1] - hidden.shape[1]
        if not asked.rotary:
            # Keys of earlier turns are kept rotated: only this turn's count.
            real, past = real[:, past:], 0
        keys = step.cache.layers[number].keys[..., :past, :] if past else None
        cos, sin = (t.to(hidden.device) for t in told["position_embeddings"])
        return text_attention(layer, hidden, cos, sin, who, real, keys, asked.rotary, most, apart)


def _separator(prompt: Prompt, row: int, slots_L: Tensor) -> Tensor:
    """The first token behind a prompt's last image; none where the question does not follow it."""
    visual = (prompt.visual_BL[row] & prompt.real_BL[row]).nonzero()
    if len(visual):
        end = int(visual[-1]) + 1
        if end <= int(prompt.last_B[row]) and bool(prompt.question_BL[row, end:].any()):
            return slots_L[end][None]
    return slots_L[:0]


def raters(step: Step, prompt: Prompt, asked: Attention, hidden: Tensor) -> tuple[Tensor, int]:
    """Which tokens of the current segment are asked, [B, M], where the states are; and how many at most of a prompt.

    Where they are is known in host memory; "dynamic" asks the states which of them speak.
    """
    slots_BL = step.slots()
    out = torch.zeros(slots_BL.shape[0], hidden.shape[1], dtype=torch.bool)
    speaking: list[tuple[int, Tensor, Tensor]] = []
    for row, slots in enumerate(slots_BL):
        last = slots[prompt.last_B[row]][None]
        if asked.raters == "last":
            text = last
        elif asked.raters == "prior":
            text = _separator(prompt, row, slots)
        elif asked.raters == "received":
            text = slots[: int(prompt.last_B[row]) + 1][prompt.alive_BL[row, : int(prompt.last_B[row]) + 1]]
        else:
            text = slots[prompt.question_BL[row] & prompt.alive_BL[row]]
            visual = slots[prompt.visual_BL[row] & prompt.alive_BL[row]]
            if len(visual):
                # Words before the image cannot see it.
                text = text[text > visual.min()]
            if not len(text):
                text = last
            elif asked.raters == "dynamic" and len(visual):
                speaking.append((row, text, visual))
        out[row, text] = True
    most, out = int(out.sum(1).max()), upload(out, hidden.device)
    for row, text, visual in speaking:
        heard = dynamic_raters(rows_of(hidden, row, visual), rows_of(hidden, row, text))
        out[row].index_copy_(0, upload(text, out.device), heard)
    return out, most
