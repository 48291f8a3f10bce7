"""The losses of the CLIP stages: what each patch shows, and how the whole image matches texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel

from foveate.tiny.anatomy import VISION
from foveate.tiny.inputs import text_ids, to_pixels
from foveate.tiny.processing import build_tokenizer
from foveate.tiny.vocabulary import COLORS, KINDS, PATTERNS
from foveate.tiny.world import Scene
from instruments.llava.batches import Batch
from instruments.llava.captions import Bank, bank, caption, pair
from instruments.llava.labels import IGNORE, NONE_COLOR, NONE_KIND, NONE_LETTER
from instruments.llava.start import encode_positions, waves

Losses = dict[str, Tensor]
_TOKENIZER = build_tokenizer()
_HOTTEST = 50.0
_PLACES = encode_positions(waves(4, 6.0, 48.0))
_EARLY = 2
"""Hidden state at which outlines are asked for; centres one layer later."""


class Heads(nn.ModuleDict):
    """Linear probes that only training uses: each reads one hidden state of the tower, none is shipped."""

    def __init__(self) -> None:
        width = int(str(VISION["hidden_size"]))
        sizes = {"kind": NONE_KIND + 1, "color": NONE_COLOR + 1, "letters": 3 * (NONE_LETTER + 1)}
        sizes |= {"mask": 16, "offset": 3, "place": _PLACES.shape[1], "pattern": len(PATTERNS), "tints": len(COLORS)}
        super().__init__({name: nn.Linear(width, size) for name, size in sizes.items()})


def hidden_states(clip: CLIPModel, pixels: Tensor, where: Tensor, layers: int | None = None) -> list[Tensor]:
    """States before and after each layer, B x (1 + N) x C; `where` says which positions the patches have."""
    tower = clip.vision_model
    embeddings = tower.embeddings
    kernel = embeddings.patch_embedding
    x = kernel(pixels.to(kernel.weight.dtype)).flatten(2).transpose(1, 2)
    table = embeddings.position_embedding.weight
    x = x + table[1:][where]
    first = (embeddings.class_embedding + table[0]).expand(len(x), 1, -1)
    x = tower.pre_layrnorm(torch.cat([first, x], 1))
    states = [x]
    for layer in tower.encoder.layers[:layers]:
        x = layer(x, attention_mask=None)
        states.append(x)
    return states


def embed_texts(clip: CLIPModel, texts: Sequence[str]) -> Tensor:
    """Unit vectors in the joint space, float32."""
    ids = text_ids(_TOKENIZER, texts)
    pooled = clip.text_model(input_ids=ids, attention_mask=(ids != _TOKENIZER.pad_token_id).long()).pooler_output
    return F.normalize(clip.text_projection(pooled).float(), dim=-1)


def _embed_states(clip: CLIPModel, states: Tensor) -> Tensor:
    return F.normalize(clip.visual_projection(clip.vision_model.post_layernorm(states)).float(), dim=-1)


def _heat(clip: CLIPModel) -> Tensor:
    return clip.logit_scale.float().exp().clamp(max=_HOTTEST)


def patch_losses(
    clip: CLIPModel, heads: Heads, batch: Batch, states: list[Tensor], rng: np.random.Generator, region: float
) -> tuple[Losses, dict[str, float]]:
    """Probes of kind, colour, letters and place on the layer LLaVA reads, outlines lower, patch against text on top.

    `region` weighs patch against text: it decides how sharply a text points at its patches.
    """
    patches = [state[:, 1:] for state in states]
    losses, figures, chosen = probe_losses(heads, batch, patches[:-1], clip.vision_model.post_layernorm)
    k, c = batch.kind.reshape(-1)[chosen], batch.color.reshape(-1)[chosen]
    thing = k < NONE_KIND
    # Without this the patches of things keep what they show and forget where they are.
    read = clip.vision_model.post_layernorm(patches[-2].flatten(0, 1)[chosen])
    places = _PLACES.to(read.device)[batch.where.reshape(-1)[chosen]]
    losses["place"] = 4 * F.mse_loss(heads["place"](read).float(), places)
    pairs = torch.where(thing, k * len(COLORS) + c, len(KINDS) * len(COLORS))
    texts = bank(rng, sorted(set(pairs[thing].tolist())), questions=False)
    top = patches[-1].flatten(0, 1)[chosen]
    losses["region"] = region * _region_loss(clip, top, embed_texts(clip, texts.texts), texts, k, c, pairs)
    return losses, figures


def probe_losses(
    heads: Heads, batch: Batch, states: list[Tensor], norm: nn.Module
) -> tuple[Losses, dict[str, float], Tensor]:
    """What each patch shows, told from its last state after `norm`, and outlines and centres from lower states.

    Returns the losses, shares told right, and the numbers of the patches that were looked at.
    """
    kind, color = batch.kind.reshape(-1), batch.color.reshape(-1)
    chosen = _chosen(kind)
    k, c = kind[chosen], color[chosen]
    thing = k < NONE_KIND
    pick = lambda i: states[i].flatten(0, 1)[chosen]  # noqa: E731
    read = norm(pick(-1))
    say_kind, say_color = heads["kind"](read).float(), heads["color"](read).float()
    say_letters = heads["letters"](read).float().view(-1, NONE_LETTER + 1)
    letters = batch.letters.reshape(-1, 3)[chosen].reshape(-1)
    outline = batch.mask.view(-1, 16)[chosen]
    losses = {
        "kind": F.cross_entropy(say_kind, k),
        "color": F.cross_entropy(say_color, c),
        # Few patches hold a letter: weighing them up keeps "none" from being the whole answer.
        "letters": F.cross_entropy(say_letters, letters, weight=_letter_weights(), ignore_index=IGNORE),
        "mask": 2 * F.binary_cross_entropy_with_logits(heads["mask"](pick(_EARLY)).float(), outline),
        "offset": F.smooth_l1_loss(
            heads["offset"](pick(_EARLY + 1)).float()[thing], batch.offset.reshape(-1, 3)[chosen][thing]
        ),
    }
    losses |= _texture_losses(heads, batch, states[-1].flatten(0, 1), norm)
    seen = (letters >= 0) & (letters < NONE_LETTER)
    figures = {
        "kind_right": _right(say_kind, k, thing),
        "color_right": _right(say_color, c, thing),
        "letter_right": _right(say_letters, letters, seen),
        "background_right": _right(say_kind, k, ~thing),
    }
    return losses, figures, chosen


def _texture_losses(heads: Heads, batch: Batch, states: Tensor, norm: nn.Module) -> Losses:
    """Pattern and colours of distractors, so that they differ from each other and from the background."""
    pattern, tints = batch.pattern.reshape(-1), batch.tints.view(-1, len(COLORS))
    filled = pattern >= 0
    if not bool(filled.any()):
        return {}
    read = norm(states[filled])
    return {
        "pattern": F.cross_entropy(heads["pattern"](read).float(), pattern[filled]),
        "tints": F.cross_entropy(heads["tints"](read).float(), tints[filled]),
    }


def _chosen(kind: Tensor) -> Tensor:
    """Numbers of the patches that losses look at: all of things, and half as many of the rest (64 at least)."""
    thing = torch.nonzero((kind >= 0) & (kind < NONE_KIND)).squeeze(1)
    rest = torch.nonzero(kind == NONE_KIND).squeeze(1)
    return torch.cat([thing, rest[torch.randperm(len(rest))[: max(64, len(thing) // 2)]]])


def _letter_weights() -> Tensor:
    weights = torch.full((NONE_LETTER + 1,), 1.0)
    weights[NONE_LETTER] = 0.1
    return weights


def _right(scores: Tensor, truth: Tensor, where: Tensor) -> float:
    return float((scores.argmax(-1) == truth)[where].float().mean()) if bool(where.any()) else 0.0


def _region_loss(clip: CLIPModel, top: Tensor, t: Tensor, texts: Bank, k: Tensor, c: Tensor, pairs: Tensor) -> Tensor:
    seen = _heat(clip) * _embed_states(clip, top)
    n, m = len(KINDS), len(KINDS) + len(COLORS)
    none = t[-1:]
    loss = F.cross_entropy(seen @ torch.cat([t[:n], none]).T, k)
    loss = loss + F.cross_entropy(seen @ torch.cat([t[n:m], none]).T, c)
    return loss + F.cross_entropy(seen @ t[m:].T, texts.row[pairs])


def image_losses(clip: CLIPModel, scenes: Sequence[Scene], states: list[Tensor], rng: np.random.Generator) -> Losses:
    """[CLS] against captions and against a bank of texts, on the last layer and, at half weight, where LLaVA reads.

    There it is what makes [CLS] attention mean something.
    """
    has = [{pair(t.color, t.kind) for t in s.layout.things} for s in scenes]
    captions = [caption(rng, s.layout.things) for s in scenes]
    texts = bank(rng, sorted(set().union(*has)), questions=True)
    t = embed_texts(clip, texts.texts + [text for text, _ in captions])
    size = len(texts.texts)
    kinds, m = len(KINDS), len(KINDS) + len(COLORS)
    fits = torch.tensor([[float(named <= own) for _, named in captions] for own in has])
    want_pair = torch.zeros(len(scenes), size - m - 1)
    want = torch.zeros(len(scenes), m)
    row = texts.row.tolist()
    for i, own in enumerate(has):
        want_pair[i, [row[p] for p in own]] = 1
        want[i, [p // len(COLORS) for p in own]] = 1
        want[i, [kinds + p % len(COLORS) for p in own]] = 1
    losses: Losses = {}
    for name, layer, weight in (("", -1, 1.0), ("_read", -2, 0.5)):
        image = _heat(clip) * _embed_states(clip, states[layer][:, 0])
        scores = image @ t[size:].T
        losses["caption" + name] = weight * 0.5 * (_many(scores, fits) + _many(scores.T, fits.T))
        losses["pairs" + name] = weight * _many(image @ t[m : size - 1].T, want_pair)
        by_kind, by_color = image @ t[:kinds].T, image @ t[kinds:m].T
        losses["bank" + name] = weight * 0.5 * (_many(by_kind, want[:, :kinds]) + _many(by_color, want[:, kinds:]))
    return losses


def _many(scores: Tensor, wanted: Tensor) -> Tensor:
    """Divergence from an even spread over all that is wanted, so that a second right answer is not a wrong one."""
    goal = wanted / wanted.sum(-1, keepdim=True)
    cross = -(goal * F.log_softmax(scores, -1)).sum(-1).mean()
    return cross + (goal * goal.clamp_min(1e-9).log()).sum(-1).mean()


def forward_batch(clip: CLIPModel, batch: Batch) -> list[Tensor]:
    """The tower over the crops of a batch."""
    return hidden_states(clip, to_pixels(batch.pixels), batch.where)
