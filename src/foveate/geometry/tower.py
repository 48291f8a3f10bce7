"""What one attention layer of a vision tower says about its tokens, whatever engine runs it.

[CLS] attention is one row of scores. Where there is no [CLS], attention received is summed over chunks of queries, so
that the whole N x N map never exists.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from foveate.geometry.base import Call, Geometry, Kind
from foveate.ops.precise import precise

CHUNK = 256


@dataclass(frozen=True)
class TowerSignals:
    """What the tower gives for each row: [R] or [R, C]. Only what was asked for."""

    cls_attn: Tensor | None = None
    encoder: Tensor | None = None
    joined: Tensor | None = None
    keys: Tensor | None = None
    cls_cos: Tensor | None = None
    cls_first: Tensor | None = None


@dataclass(frozen=True)
class TowerLayer:
    """A layer that ran. What is read is called for, and nothing else; the layer's rows come one image a batch row.

    Args:
        queries: [B, H, S, D], normed and rotated as the layer's attention takes them.
        keys: the same of its keys.
        content: keys before rotation: what a token is, not where. Towers that do not rotate: the keys.
        features: the output that the signals go with, [B, S, C].
        scale: of the scores.
        cls: whether the first of S is [CLS].
        rows: [B, S without [CLS], C] -> [R, C]: the projector's rows, means over merged cells.
        segments: bounds of what attends to each other within S, where that is not all; one batch row.
        joined: features of several layers as the projector is given them, where those are not `features`.
        whole: [CLS] is one of the projector's rows, and `rows` takes it too.
        reduce: mean over the processes that share the heads of one tower; by itself one has them all.
    """

    queries: Callable[[], Tensor]
    keys: Callable[[], Tensor]
    content: Callable[[], Tensor]
    features: Callable[[], Tensor]
    scale: float
    cls: bool
    rows: Callable[[Tensor], Tensor]
    segments: Callable[[], Sequence[int]] | None = None
    reduce: Callable[[Tensor], Tensor] = lambda x: x
    whole: bool = False
    joined: Callable[[], Tensor] | None = None


def tower_signals(layer: TowerLayer, reads: frozenset[str]) -> TowerSignals:
    """What TokenView fields need of a layer, row by row."""
    skip = int(layer.cls and not layer.whole)

    def rows(x: Tensor) -> Tensor:
        return layer.rows(x[:, skip:])

    attn = keys = features = cos = joined = None
    if "keys_BNC" in reads:
        keys = rows(layer.reduce(layer.content().mean(1)))
    if "cls_attn_BN" in reads:
        attn = rows(layer.reduce(_attention(layer)).unsqueeze(-1))
    if reads & {"encoder_BNC", "hidden_BND", "cls_cos_BN"}:
        every = layer.features()
        features = rows(every)
        if "cls_cos_BN" in reads:
            cosine = cosine_similarity(every[:, :1].float(), every.float(), dim=-1)
            cos = rows(cosine.unsqueeze(-1))
    if "hidden_BND" in reads and layer.joined is not None:
        joined = rows(layer.joined())
    return TowerSignals(attn, features, joined, keys, cos)


def _attention(layer: TowerLayer) -> Tensor:
    q, k = layer.queries(), layer.keys()
    if layer.cls:
        return cls_attention(q[:, :, 0], k, layer.scale)
    if layer.segments is None:
        return attention_received(q, k, layer.scale)
    parts = [attention_received(q[:, :, a:b], k[:, :, a:b], layer.scale) for a, b in pairwise(layer.segments())]
    return torch.cat(parts, 1)


def cls_attention(q_BHD: Tensor, k_BHSD: Tensor, scale: float) -> Tensor:
    """Head-mean softmax of one query against all keys: [B, S], float32."""
    with precise(q_BHD.device):
        score = torch.einsum("bhd,bhsd->bhs", q_BHD.float(), k_BHSD.float()) * scale
    return score.softmax(-1).mean(1)


def attention_received(q_BHSD: Tensor, k_BHSD: Tensor, scale: float) -> Tensor:
    """Mean over queries and heads of the attention that each key receives: [B, S], float32."""
    total = torch.zeros(k_BHSD.shape[0], k_BHSD.shape[2], dtype=torch.float32, device=k_BHSD.device)
    keys = k_BHSD.float().transpose(-1, -2)
    for queries in q_BHSD.float().split(CHUNK, dim=2):
        with precise(keys.device):
            total += (queries @ keys * scale).softmax(-1).mean(1).sum(1)
    return total / q_BHSD.shape[2]


def heads(x: Tensor, n: int) -> Tensor:
    """[B, S, H*D] -> [B, H, S, D]."""
    return x.unflatten(-1, (n, -1)).transpose(1, 2)


def square_cells(x: Tensor, merge: int) -> Tensor:
    """Square tiles [B, S, C] -> [R, C], averaging each merge x merge cell; what fills none falls away, as in pools."""
    if merge > 1:
        side = round(x.shape[1] ** 0.5)
        n = side // merge
        x = x.unflatten(1, (side, side))[:, : n * merge, : n * merge]
        x = x.unflatten(2, (n, merge)).unflatten(1, (n, merge)).mean((2, 4))
    return x.reshape(-1, x.shape[-1])


def oblong_cells(x: Tensor, sides: Sequence[tuple[int, int]], merge: int) -> list[Tensor]:
    """Patches of pictures one after the other [1, S, C] -> [R, C] a picture, averaging each merge x merge cell."""
    parts = x[0].split([h * w for h, w in sides])
    cells = (p.view(h // merge, merge, w // merge, merge, -1) for p, (h, w) in zip(parts, sides, strict=True))
    return [c.mean((1, 3)).flatten(0, 1) for c in cells]


def consecutive_cells(x: Tensor, merge: int) -> Tensor:
    """Packed patches [1, S, C] -> [R, C], averaging `merge` that follow each other."""
    return x[0].unflatten(0, (-1, merge)).mean(1)


def by_image(geometry: Geometry, base: Any, kind: Kind, call: Call, signals: TowerSignals) -> list[dict[str, Tensor]]:
    """The tower's signals token by token, image by image: name -> [N] or [N, C]."""
    found: list[dict[str, Tensor]] = [{} for _ in geometry.units(base, kind, call)]
    for name in ("cls_attn", "encoder", "joined", "keys", "cls_cos", "cls_first"):
        rows = getattr(signals, name)
        if rows is None:
            continue
        for at, x in zip(found, geometry.pack(base, kind, call, rows), strict=True):
            at[name] = x.squeeze(-1) if name.startswith("cls") else x
    return found
