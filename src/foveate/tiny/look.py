"""What the instrument sees of a few scenes: visual tokens, [CLS] attention, relevance to questions, ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel, LlavaForConditionalGeneration

from foveate.tiny.branches import LLAVA, Frame
from foveate.tiny.inputs import text_ids, to_pixels
from foveate.tiny.processing import build_tokenizer
from foveate.tiny.questions import Question
from foveate.tiny.world import Scene, patches

_TOKENIZER = build_tokenizer()


@dataclass(frozen=True)
class Look:
    """S scenes with Q questions in all.

    image S x N x D: visual tokens as the decoder receives them. cls S x N: head-mean attention from [CLS] in the layer
    whose output LLaVA reads (without [CLS]: attention received). relevance Q x N: cosine of token and question in the
    joint space (without one: among the decoder's words). things S x N, needed Q x N: tokens of any thing, and of what a
    question needs. owner Q: each question's scene.
    """

    asked: list[list[Question]]
    image: Tensor
    cls: Tensor
    relevance: Tensor
    things: Tensor
    needed: Tensor
    owner: Tensor

    @property
    def questions(self) -> list[Question]:
        """All questions, scene by scene."""
        return [q for questions in self.asked for q in questions]


@torch.no_grad()
def look(model: LlavaForConditionalGeneration, clip: CLIPModel, scenes: Sequence[Scene]) -> Look:
    """Run the vision side once for all of `scenes`."""
    tower = model.model.vision_tower
    dtype = next(tower.parameters()).dtype
    pixels = to_pixels(np.stack([np.asarray(s.image) for s in scenes])).to(dtype)
    states = tower(pixel_values=pixels, output_hidden_states=True).hidden_states
    image = model.model.multi_modal_projector(states[-2][:, 1:])
    asked = [list(s.questions) for s in scenes]
    owner = torch.tensor([i for i, questions in enumerate(asked) for _ in questions])
    joint = F.normalize(clip.visual_projection(tower.post_layernorm(states[-1][:, 1:])).float(), dim=-1)
    questions = [q for each in asked for q in each]
    ids = text_ids(_TOKENIZER, [q.text for q in questions])
    text = clip.text_model(input_ids=ids, attention_mask=(ids != _TOKENIZER.pad_token_id).long()).pooler_output
    text = F.normalize(clip.text_projection(text).float(), dim=-1)
    return Look(
        asked=asked,
        image=image,
        cls=_cls_attention(tower, states[-3]),
        relevance=torch.einsum("qnc,qc->qn", joint[owner], text),
        things=torch.from_numpy(np.stack([patches([t.box for t in s.layout.things]) for s in scenes])),
        needed=torch.from_numpy(np.stack([patches(q.boxes) for q in questions])),
        owner=owner,
    )


def _cls_attention(tower: Any, state: Tensor) -> Tensor:
    """Attention of [CLS] to the patches in the last layer but one, mean over heads; `state` is what enters it."""
    layer = tower.encoder.layers[-2]
    attention = layer.self_attn
    x = layer.layer_norm1(state)
    split = lambda y: y.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2).float()  # noqa: E731
    query, key = split(attention.q_proj(x[:, :1])), split(attention.k_proj(x))
    return torch.softmax(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5, -1)[:, :, 0, 1:].mean(1)


@contextmanager
def hide_image(model: Any, share: float = 1 / 3, frame: Frame = LLAVA) -> Iterator[int]:
    """Let no text token attend to the image in the last `share` of the decoder's layers; yields how many those are.

    For forward passes of `branches` with all visual tokens.
    """
    layers = model.model.language_model.layers
    hidden = round(len(layers) * share)
    end = len(frame.head) + frame.tokens
    columns = slice(len(frame.head), end)

    def close(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        closed = kwargs["attention_mask"].clone()
        closed[:, :, end:, columns] = -1e4
        return args, {**kwargs, "attention_mask": closed}

    handles = [layer.register_forward_pre_hook(close, with_kwargs=True) for layer in layers[-hidden:]]
    try:
        yield hidden
    finally:
        for handle in handles:
            handle.remove()
