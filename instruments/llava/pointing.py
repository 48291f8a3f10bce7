"""Where to look before answering: a loss that shows a few attention heads the way from the question to its answer.

Left alone, the decoder stays for hundreds of steps on answers that fit the picture as a whole, because among so many
image tokens the few words of a question hardly count. Heads that are shown the way end that; the last lesson goes
without. The way: each word looks back one word; the last row, which is to say the answer, looks at the noun; the noun
looks at the patches it names; then so does the last row. Two kinds take another hop, deeper down: a relation from its
anchor to its target, a plate from the plate to letter after letter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from foveate.tiny.branches import LLAVA, Branches, Frame
from foveate.tiny.layout import Box, Thing
from foveate.tiny.questions import Question

BACK, NOUN, NAMED, FIRST, SECOND = 0, 1, 2, 4, 7
"""Layers of the five shown heads."""
WATCHED = (BACK, NOUN, NAMED, FIRST, SECOND)
_TO_NOUN = 3
"""From the row that says the answer back to the noun: `circle ? assistant :`."""
_LEAST = 1e-3


def pointing_loss(
    watch: dict[int, Tensor],
    branches: Branches,
    asked: Sequence[Sequence[Question]],
    kept: Tensor,
    spelling: bool,
    hops: bool,
    frame: Frame = LLAVA,
) -> dict[str, Tensor]:
    """For each shown head, minus the logarithm of its attention that falls where it should; means over rows.

    Args:
        watch: attention weights of the text rows by layer, B x heads x T x L.
        branches: the text of the batch.
        asked: the questions of each image.
        kept: numbers of the visual tokens that stay, B x K.
        spelling: show the letters of plates too.
        hops: weigh the targets of relations up.
        frame: the model's prompt.
    """
    head = len(frame.head)
    prefix = head + kept.shape[1]
    row, last = torch.nonzero(first_rows(branches), as_tuple=True)
    noun = last - _TO_NOUN
    inner = branches.branch[:, 1:] == branches.branch[:, :-1]
    text = watch[BACK][:, 1, :, prefix:].float()
    back = text.diagonal(-1, 1, 2)[inner & (branches.branch[:, 1:] > 0)]
    losses = {"back": -(back + _LEAST).log().mean()}
    losses["noun"] = -(watch[NOUN][row, 1, last, prefix + noun].float() + _LEAST).log().mean()
    questions = [q for each in asked for q in each]

    def look(layer: int, at: Tensor, which: Tensor, boxes: Sequence[tuple[Box, ...]]) -> Tensor:
        """The loss of rows `at` of the questions numbered `which`, each of which is to see its boxes."""
        needed = torch.as_tensor(np.stack([frame.covered(each, 0.05) for each in boxes])).gather(1, kept[row[which]])
        seen = watch[layer][row[which], 0, at, head:prefix].float()
        return -((seen * needed).sum(1) + _LEAST).log()[needed.any(1)].mean()

    every = torch.arange(len(questions))
    anchors = [_boxes(q, 0, spelling) for q in questions]
    losses["named"] = look(NAMED, noun, every, anchors)
    losses["first"] = look(FIRST, last, every, anchors)
    losses["second"] = look(SECOND, last, every, [_boxes(q, 1, spelling) for q in questions])
    if spelling:
        letters = [(i, place, box) for i, q in enumerate(questions) for place, box in _letters(q)]
        if letters:
            which = torch.tensor([i for i, _, _ in letters])
            at = last[which] + torch.tensor([place for _, place, _ in letters])
            losses["letters"] = look(SECOND, at, which, [(box,) for _, _, box in letters])
    if hops:
        # Once more by itself: among all questions the second hop of the few relations would hardly count.
        which = torch.tensor([i for i, q in enumerate(questions) if q.kind == "relation"], dtype=torch.long)
        if len(which):
            losses["target"] = 2 * look(SECOND, last[which], which, [questions[i].boxes[1:] for i in which.tolist()])
    return losses


def first_rows(branches: Branches) -> Tensor:
    """Where the first token of each answer is to be said, B x T."""
    said = branches.targets >= 0
    before = torch.zeros_like(said)
    before[:, 1:] = said[:, :-1] & (branches.branch[:, 1:] == branches.branch[:, :-1])
    return said & ~before


def _letters(question: Question) -> list[tuple[int, Box]]:
    """For a plate, each place of its code and where that letter is drawn."""
    if question.kind != "plate":
        return []
    x0, y0, x1, y1 = question.boxes[0]
    plate = Thing("plate", "", x0, y0, x1 - x0, y1 - y0, code="???")
    return list(enumerate(plate.letter_boxes))


def _boxes(question: Question, hop: int, spelling: bool) -> tuple[Box, ...]:
    """What the last row is to see at a hop; a plate is left to its letters at the second."""
    if spelling and question.kind == "plate" and hop:
        return ()
    return question.boxes[hop : hop + 1] if question.kind == "relation" else question.boxes
