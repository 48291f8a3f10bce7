"""Teach the projector to name: a visual token is pulled towards the words for what it shows and for where it lies.

It plays the part of LLaVA's caption stage and costs no LLM, so it sees six times the scenes of a step of questions in a
thirtieth of its time: alone it is the first stage of training, beside the questions it is where names are learnt.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instruments.smol import world
from instruments.smol.decoder import Decoder
from instruments.smol.pictures import things


def shown(placed: list[world.Placed], side: int, row: dict[str, int]) -> Tensor:
    """For each token the row of the word for what it shows."""
    out = torch.full((side * side,), row["background"])
    for p in placed:
        word = p.says if p.kind == "sign" else p.name
        out[world.cells_of(p.box, side)] = row[word]
        for colour, bar in p.bars:
            out[world.cells_of(bar, side)] = row[colour]
    return out


class Naming:
    """Words for what a token may show, and the nine places, as directions in the LLM's embedding space."""

    def __init__(self, tokenizer, model: Decoder, side: int) -> None:
        self.side, self.device = side, model.embed.device
        names = ["background", "chart", *(t.name for t in things()), *world.WORDS, *world.COLOURS]
        self.row = {n: i for i, n in enumerate(dict.fromkeys(names))}
        spread = model.embed[::7].float()
        self.middle, self.length = spread.mean(0), spread.norm(dim=-1).mean()

        def directions(words: Sequence[str]) -> Tensor:
            ids = [tokenizer(" " + w, add_special_tokens=False).input_ids for w in words]
            return F.normalize(torch.stack([model.embed[i].float().mean(0) for i in ids]) - self.middle, dim=-1)

        self.names_WD, self.cells_9D = directions(list(self.row)), directions(world.CELLS)
        third = torch.arange(side, device=self.device) * 3 // side
        self.cells_N = (third[:, None] * 3 + third).flatten()
        self.weight = torch.ones(len(self.row), device=self.device)
        self.weight[self.row["background"]] = 0.2

    def targets(self, scenes: Sequence[list[world.Placed]]) -> Tensor:
        """(scenes, tokens)."""
        return torch.stack([shown(s, self.side, self.row) for s in scenes]).to(self.device)

    def rated(self, projector: nn.Module, features_BLNC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the words and of the places for every token, and its length against a word's."""
        out = projector(features_BLNC) - self.middle
        unit = F.normalize(out, dim=-1)
        return unit @ self.names_WD.T * 20, unit @ self.cells_9D.T * 20, out.norm(dim=-1) / self.length

    def loss(self, projector: nn.Module, features_BLNC: Tensor, target_BN: Tensor) -> Tensor:
        """Cross entropy of words and of places, and a pull to a word's length."""
        what, where, length = self.rated(projector, features_BLNC)
        loss = F.cross_entropy(what.flatten(0, 1), target_BN.flatten(), weight=self.weight)
        loss = loss + 0.5 * F.cross_entropy(where.flatten(0, 1), self.cells_N.repeat(len(target_BN)))
        return loss + 0.2 * (length - 1).square().mean()

    @torch.no_grad()
    def scores(self, projector: nn.Module, features_BLNC: Tensor, target_BN: Tensor) -> dict[str, float]:
        """Per cent of tokens named rightly: of things, of words and bars, and placed rightly."""
        what, where, _ = self.rated(projector, features_BLNC)
        first = self.row[world.WORDS[0]]
        thing, word = (target_BN != self.row["background"]) & (target_BN < first), target_BN >= first
        hit, put = what.argmax(-1) == target_BN, where.argmax(-1) == self.cells_N
        return {k: round(100 * v.float().mean().item(), 1) for k, v in
                {"things": hit[thing], "words and bars": hit[word], "places": put}.items()}  # fmt: skip
