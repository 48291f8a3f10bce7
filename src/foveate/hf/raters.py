"""Attention from the text that asks, in one decoder layer: which tokens ask, and what they look at."""

from typing import Any

import torch
from torch import Tensor

from foveate.hf.cache import kept_of
from foveate.hf.listen import heard_attention
from foveate.hf.prompt import Prompt
from foveate.hf.step import Step
from foveate.hf.taps import dynamic_raters, text_attention
from foveate.selection import Attention


def rater_attention(
    step: Step, prompt: Prompt, asked: Attention, number: int, layer: Any, told: dict[str, Any], plain: bool
) -> Tensor:
    """Attention from the raters in a decoder layer: [B, M].

    Args:
        step: the pass.
        prompt: its prompts.
        asked: whose.
        number: the layer's place in the cache.
        layer: the layer.
        told: its arguments.
        plain: its parts are known; else it is listened to.
    """
    hidden = told["hidden_states"]
    who = raters(step, prompt, asked, step.seen(hidden)).to(hidden.device)
    real = step.mask2d(kept_of(step.cache, number), step.segment).to(hidden.device)
    with torch.no_grad():
        if not plain:
            return heard_attention(layer, told, step.lm.config._attn_implementation, who, real)
        past = real.shape[1] - hidden.shape[1]
        if not asked.rotary:
            # Keys of earlier turns are kept rotated: only this turn's count.
            real, past = real[:, past:], 0
        keys = step.cache.layers[number].keys[..., :past, :] if past else None
        cos, sin = (t.to(hidden.device) for t in told["position_embeddings"])
        return text_attention(layer, hidden, cos, sin, who, real, keys, asked.rotary)


def _separator(prompt: Prompt, row: int, out_M: Tensor, slots_L: Tensor) -> None:
    """Mark the first token behind a prompt's last image; none where the question does not follow it."""
    visual = (prompt.visual_BL[row] & prompt.real_BL[row]).nonzero()
    if len(visual):
        end = int(visual[-1]) + 1
        if end <= int(prompt.last_B[row]) and bool(prompt.question_BL[row, end:].any()):
            out_M[slots_L[end]] = True


def raters(step: Step, prompt: Prompt, asked: Attention, hidden: Tensor) -> Tensor:
    """Which tokens of the current segment are asked: [B, M]."""
    slots = step.slots()
    b = slots.shape[0]
    out = torch.zeros(b, hidden.shape[1], dtype=torch.bool, device=slots.device)
    rows = torch.arange(b, device=slots.device)
    if asked.raters == "last":
        out[rows, slots[rows, prompt.last_B]] = True
    elif asked.raters == "prior":
        for row in range(b):
            _separator(prompt, row, out[row], slots[row])
    elif asked.raters == "received":
        places = torch.arange(prompt.alive_BL.shape[1], device=slots.device)
        asks = prompt.alive_BL & (places <= prompt.last_B[:, None])
        out.scatter_(1, torch.where(asks, slots, slots[rows, prompt.last_B][:, None]), True)
    else:
        for row in range(b):
            text = slots[row, prompt.question_BL[row] & prompt.alive_BL[row]]
            visual = slots[row, prompt.visual_BL[row] & prompt.alive_BL[row]]
            if len(visual):
                # Words before the image cannot see it.
                text = text[text > visual.min()]
            if not len(text):
                text = slots[row, prompt.last_B[row]][None]
            if asked.raters == "dynamic" and len(visual):
                text = text[
                    dynamic_raters(hidden[row, visual.to(hidden.device)], hidden[row, text.to(hidden.device)]).to(
                        text.device
                    )
                ]
            out[row, text] = True
    return out
