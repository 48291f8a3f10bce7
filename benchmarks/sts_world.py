"""The embedded world as a training task: vision features cached once, many questions behind one image prefix."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from foveate import tiny
from foveate.pointer.candidates import Candidates
from foveate.pointer.noise import Support
from foveate.pointer.train import Seen
from foveate.selection import TokenView
from foveate.tiny import world
from foveate.tiny.branches import LLAVA, Frame, answer_states, pack, right_answers
from foveate.tiny.checkpoint import SUMS, file_sum
from foveate.tiny.inputs import to_pixels
from foveate.tiny.processing import build_tokenizer
from instruments.llava.attention import register

FIRST = 5_000_000
"""Training scenes from here on; the embedded model was trained on scenes of lower numbers."""
_BATCH = 16
_ROUND = 8
_TOKENIZER = build_tokenizer()


def load_model() -> Any:
    """The embedded model in bfloat16, with the attention whose backward pass is fast on a CPU."""
    model, _ = tiny.load(dtype=torch.bfloat16)
    model.model.language_model.set_attn_implementation(register())
    return model


def items(asked: Sequence[Sequence[Any]], each: int) -> list[tuple[int, list[Any]]]:
    """Scenes by number with up to `each` of their questions, until all are asked."""
    return [(s, list(of[i : i + each])) for s, of in enumerate(asked) for i in range(0, len(of), each)]


class World:
    """Scenes of one split with what the tower gives for them; a `Task`, and what held-out figures are read from.

    Args:
        model: from `load_model`.
        split: "train", "val" or "test".
        count: scenes.
        questions: at most, of each.
        cache: a folder for features; another checkpoint or world makes another file.
        text: how many questions an item has where selectors read them; 0: they read none, and an item is a scene.
        place: the cut that tokens are shown at, "input" or "encoder".
        start: the first scene's number in its split.
    """

    frame: Frame = LLAVA
    """The model's prompt."""

    def __init__(
        self,
        model: Any,
        split: str,
        count: int,
        questions: int,
        cache: Path,
        text: int = 0,
        place: str = "input",
        start: int = 0,
    ) -> None:
        self.model, self.text, self.place = model, text, place
        self.astray = False
        """Whether selectors read another scene's question instead."""
        first = start + (FIRST if split == "train" else 0)
        self.scenes = [world.scene(split, first + i, questions) for i in range(count)]
        which = f"{split}-{start}-{count}" if start else f"{split}-{count}"
        self.features = self._stored(cache / f"{which}-{self._identity()}.safetensors")
        self.items = items([scene.questions for scene in self.scenes], text or questions)

    def by_question(self) -> World:
        """The same scenes, an item a question."""
        other = copy.copy(self)
        other.text = 1
        other.items = [(s, [q]) for s, asked in self.items for q in asked]
        return other

    @property
    def size(self) -> int:
        """Items to train on."""
        return len(self.items)

    @property
    def tiers(self) -> list[str]:
        """The tier of each scene."""
        return [s.tier for s in self.scenes]

    def look(self, numbers: Sequence[int]) -> Seen:
        """Tokens of the items' scenes at the cut, and the questions."""
        chosen = [self.items[n] for n in numbers]
        tokens = self.shown([s for s, _ in chosen])
        half = self.size // 2 if self.astray else 0
        asked = [self.items[(n + half) % self.size][1] for n in numbers]
        text, said = self.words(asked) if self.text else (None, None)
        return Seen(Candidates(tokens.float(), None, text, said), [q for _, q in chosen])

    def loss(self, seen: Seen, tokens_BSD: Tensor, alpha_BS: Tensor, support: Support) -> tuple[Tensor, Tensor]:
        """Over all questions of each scene, packed behind its image."""
        n = -(-int(support.there_BS.sum(1).max()) // _ROUND) * _ROUND
        # All scenes at once, each with as many tokens as the one with most: a few noisy tokens more cost less.
        at_Bn = (alpha_BS.detach() + support.there_BS).topk(min(n, alpha_BS.shape[1]), 1).indices.sort(1).values
        image = tokens_BSD.gather(1, at_Bn.unsqueeze(-1).expand(-1, -1, tokens_BSD.shape[-1])).bfloat16()
        if self.place == "encoder":
            image = self.projected(image)
        scores, targets = self.said(image, support.places_BS.gather(1, at_Bn), seen.material)
        return F.cross_entropy(scores, targets), (scores.argmax(-1) == targets).float().mean()

    def said(self, image_BnD: Tensor, places_Bn: Tensor, asked: Sequence[Sequence[Any]]) -> tuple[Tensor, Tensor]:
        """Logits wherever a token of an answer is due, and those tokens."""
        states, targets = answer_states(self.model, image_BnD, places_Bn, pack(asked, self.frame), frame=self.frame)
        return self.model.lm_head(states).float(), targets

    @torch.no_grad()
    def tokens(self, scenes: Sequence[int]) -> Tensor:
        """Projected visual tokens of these scenes, bfloat16."""
        return self.projected(self.features[torch.tensor(scenes)])

    def projected(self, image_BnC: Tensor) -> Tensor:
        """The tower's tokens as the LLM receives them."""
        return self.model.model.multi_modal_projector(image_BnC)

    def shown(self, scenes: Sequence[int]) -> Tensor:
        """Tokens of these scenes as a selector at the cut sees them, bfloat16."""
        return self.features[torch.tensor(scenes)] if self.place == "encoder" else self.tokens(scenes)

    def views(self) -> Iterator[TokenView]:
        """What a selector sees of all items in order: a batch of scenes, or one question at a time."""
        for start in range(0, self.size, size := 1 if self.text else _BATCH):
            seen = self.look(range(start, min(start + size, self.size))).candidates
            yield TokenView(hidden_BND=seen.tokens_BND, text_BTD=seen.text_BTD)

    def statistics(self, count: int = 256) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel over the first scenes."""
        seen = [self.shown([i]).double()[0] for i in range(min(count, len(self.scenes)))]
        means, squares = torch.stack([x.mean(0) for x in seen]), torch.stack([x.square().mean(0) for x in seen])
        mean = means.mean(0)
        return mean.float(), (squares.mean(0) - mean.square()).clamp(min=0).sqrt().float()

    @torch.no_grad()
    def answers(self, kept: Sequence[Tensor], merged: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Right or wrong for each item's questions, given the tokens kept of it: any number each, rising.

        Items that keep equally many are asked together; a bool vector an item. `merged`: other tokens at those places.
        """
        groups: dict[int, list[int]] = {}
        for i, k in enumerate(kept):
            groups.setdefault(len(k), []).append(i)
        out: list[Tensor] = [torch.zeros(0)] * len(kept)
        for members in groups.values():
            for start in range(0, len(members), _BATCH):
                part = members[start : start + _BATCH]
                places = torch.stack([kept[i] for i in part])
                if merged is None:
                    tokens = self.tokens([self.items[i][0] for i in part])
                    tokens = tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))
                else:
                    tokens = torch.stack([merged[i] for i in part]).to(self.model.dtype)
                asked = [self.items[i][1] for i in part]
                hits = right_answers(self.model, tokens, places, asked, self.frame).split([len(q) for q in asked])
                for i, hit in zip(part, hits, strict=True):
                    out[i] = hit
        return out

    def words(self, asked: Sequence[Sequence[Any]]) -> tuple[Tensor, Tensor]:
        """The embeddings of each row's questions, one after another, and which are no padding."""
        rows = [self.ids(" ".join(q.text for q in a)) for a in asked]
        width = max(map(len, rows))
        ids = torch.tensor([r + [0] * (width - len(r)) for r in rows])
        said = torch.tensor([[True] * len(r) + [False] * (width - len(r)) for r in rows])
        return self.model.get_input_embeddings()(ids).float(), said

    def ids(self, text: str) -> list[int]:
        """Tokens of a question."""
        return _TOKENIZER(text, add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def _stored(self, file: Path) -> Tensor:
        """What the vision side gives for each scene, bfloat16; from the file if it is there."""
        if file.exists():
            with safe_open(file, framework="pt") as stored:
                return stored.get_tensor("features")
        parts = []
        for start in track(range(0, len(self.scenes), _BATCH), description=f"features for {file.name}"):
            images = np.stack([np.asarray(s.image) for s in self.scenes[start : start + _BATCH]])
            parts.append(self._seen(to_pixels(images).to(self.model.dtype)).bfloat16())
        features = torch.cat(parts).contiguous()
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".partial")
        save_file({"features": features}, temporary)
        temporary.replace(file)
        return features

    def _seen(self, pixels_BCHW: Tensor) -> Tensor:
        """The states that LLaVA reads of each picture, without [CLS]."""
        states = self.model.model.vision_tower(pixel_values=pixels_BCHW, output_hidden_states=True).hidden_states
        return states[self.model.config.vision_feature_layer][:, 1:]

    def _identity(self) -> str:
        return f"{file_sum(tiny.path() / SUMS)[:8]}-{world.fingerprint(count=4)[:8]}"
