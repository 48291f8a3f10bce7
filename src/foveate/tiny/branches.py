"""Many questions about one image in one forward pass: the image is a shared prefix, each question a branch.

A branch sees the prefix and itself, and its positions go on from the unpruned prompt's, so each answer is what it would
be alone. Answers are read by teacher forcing: greedy decoding is right exactly if every token of the true answer and
the end token are the likeliest where they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveate.tiny.layout import Box
from foveate.tiny.processing import build_tokenizer
from foveate.tiny.questions import Question
from foveate.tiny.vocabulary import GRID
from foveate.tiny.world import patches

TOKENS = GRID * GRID
_TOKENIZER = build_tokenizer()
_MASKED = -1e4
_ROUND = 32
_NO_TARGET = -100
_KNOWN: dict[str, list[int]] = {}


def _encode(text: str) -> list[int]:
    if text not in _KNOWN:
        _KNOWN[text] = _TOKENIZER(text, add_special_tokens=False)["input_ids"]
    return _KNOWN[text]


@dataclass(frozen=True)
class Frame:
    """What stands around an image in a prompt, and where its tokens are.

    `head`: token ids before the image. `tail`: ids between the image and the question. `side`: visual tokens a side.
    `axial`: a visual token has a row and a column for positions (M-RoPE) and text goes on after the longer side; else
    it has its number.
    """

    head: tuple[int, ...]
    tail: tuple[int, ...] = ()
    side: int = GRID
    axial: bool = False

    @property
    def tokens(self) -> int:
        """Visual tokens of an image."""
        return self.side**2

    @property
    def after(self) -> int:
        """The position of the first token after the image."""
        return len(self.head) + (self.side if self.axial else self.tokens)

    def places(self, kept: Tensor) -> Tensor:
        """Positions of visual tokens, B x K, or 3 x B x K where they are axial."""
        if not self.axial:
            return kept + len(self.head)
        return torch.stack([torch.zeros_like(kept), kept // self.side, kept % self.side]) + len(self.head)

    def covered(self, boxes: Sequence[Box], share: float = 0.12) -> NDArray[np.bool_]:
        """Which visual tokens hold a patch that the boxes cover by at least `share`, as a flat mask."""
        size = GRID // self.side
        whole = patches(list(boxes), share).reshape(self.side, size, self.side, size)
        mask: NDArray[np.bool_] = whole.any((1, 3)).ravel()
        return mask


LLAVA = Frame(tuple(_TOKENIZER("USER:")["input_ids"]))
PREFIX = len(LLAVA.head)
"""Text tokens before the image."""


@dataclass(frozen=True)
class Branches:
    """The text after the images of a batch, B x T: token ids, positions, each token's branch (1, 2, ...; 0 for padding)
    and the token to be said there (-100 for none)."""

    ids: Tensor
    positions: Tensor
    branch: Tensor
    targets: Tensor


def pack(asked: Sequence[Sequence[Question]], frame: Frame = LLAVA) -> Branches:
    """Lay the questions of each image one after another, padded right to the longest row.

    The width is a multiple of 32: matrix kernels are made anew for each new shape, and that takes longer than the
    padding.
    """
    rows: list[tuple[list[int], list[int], list[int], list[int]]] = []
    for questions in asked:
        ids: list[int] = []
        positions: list[int] = []
        branch: list[int] = []
        targets: list[int] = []
        for number, question in enumerate(questions, 1):
            prompt = [*frame.tail, *_encode(f"{question.text} ASSISTANT:")]
            answer = _encode(question.answer)
            length = len(prompt) + len(answer)
            ids += prompt + answer
            positions += range(frame.after, frame.after + length)
            branch += [number] * length
            targets += [_NO_TARGET] * (len(prompt) - 1) + answer + [_TOKENIZER.eos_token_id]
        rows.append((ids, positions, branch, targets))
    width = -(-max(len(row[0]) for row in rows) // _ROUND) * _ROUND
    fill = (_TOKENIZER.pad_token_id, 0, 0, _NO_TARGET)
    stacked = [torch.tensor([r[i] + [v] * (width - len(r[i])) for r in rows]) for i, v in enumerate(fill)]
    return Branches(*stacked)


def answer_states(
    model: Any,
    image: Tensor,
    kept: Tensor,
    branches: Branches,
    watch: dict[int, Tensor] | None = None,
    frame: Frame = LLAVA,
) -> tuple[Tensor, Tensor]:
    """Final hidden states where a token is to be said, M x D, and those tokens, M.

    Args:
        image: projected visual tokens that stay, B x K x D.
        kept: their numbers among all, B x K, rising; they keep these positions.
        branches: the questions.
        watch: for the attention function of training (see there).
        frame: the model's prompt.
    """
    language = model.model.language_model
    size, head = len(image), len(frame.head)
    front = language.embed_tokens(torch.tensor(frame.head, device=image.device)).expand(size, -1, -1)
    x = torch.cat([front, image, language.embed_tokens(branches.ids)], 1)
    first = torch.arange(head, device=image.device).expand(size, -1)
    places = frame.places(kept)
    around = (first, branches.positions)
    before, behind = (part.expand(*places.shape[:-1], -1) for part in around)
    positions = torch.cat([before, places, behind], -1)
    prefix = head + image.shape[1]
    out = language(
        inputs_embeds=x,
        attention_mask=mask(prefix, branches.branch, x.dtype),
        position_ids=positions,
        use_cache=False,
        # For the attention function of training; others do without.
        shared_prefix=prefix,
        **({} if watch is None else {"watch": watch}),
    )
    said = branches.targets >= 0
    return out.last_hidden_state[:, prefix:][said], branches.targets[said]


def mask(prefix: int, branch: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask, B x 1 x L x L: causal, and each branch sees the prefix and itself only."""
    size, length = branch.shape[0], prefix + branch.shape[1]
    owner = torch.cat([torch.zeros(size, prefix, dtype=torch.long, device=branch.device), branch], 1)
    place = torch.arange(length, device=branch.device)
    shared = (place < prefix)[None, None, :]
    seen = (place[None, :] <= place[:, None])[None] & (shared | (owner[:, None, :] == owner[:, :, None]))
    return torch.zeros(size, 1, length, length, dtype=dtype, device=branch.device).masked_fill_(~seen[:, None], _MASKED)


def right_answers(
    model: Any,
    image: Tensor,
    kept: Tensor,
    asked: Sequence[Sequence[Question]],
    frame: Frame = LLAVA,
) -> Tensor:
    """For each question in order: is the whole answer, with its end, what greedy decoding would give? Bool."""
    branches = pack(asked, frame)
    states, targets = answer_states(model, image, kept, branches, frame=frame)
    hit = (model.lm_head(states).argmax(-1) == targets).long()
    said = branches.targets >= 0
    row = torch.arange(len(asked))[:, None].expand_as(branches.branch)[said]
    most = max(len(q) for q in asked) + 1
    owner = row * most + branches.branch[said]
    wrong = torch.zeros(len(asked) * most, dtype=torch.long).index_add_(0, owner, 1 - hit)
    places = [r * most + number for r, questions in enumerate(asked) for number in range(1, len(questions) + 1)]
    return wrong[torch.tensor(places)] == 0
