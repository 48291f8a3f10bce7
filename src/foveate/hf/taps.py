"""Reads the attention of chosen query rows from a decoder layer, without its kernel and without an N x N map.

Only the layer's norm and its query and key projections are used, queries for the rater rows alone. So any attention
kernel stays in place, nothing is registered globally, and no layer runs twice. It takes a layer whose parts are known
(`Family.plain`); what others compute is listened to (`listen.py`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foveate.ops.precise import precise

CHUNK = 256


def received(raters_BM: Tensor, past: int, share: Callable[[Tensor], Tensor], most: int | None = None) -> Tensor:
    """Head-mean attention that each token receives from the raters that can see it, averaged over those.

    Args:
        raters_BM: which tokens are asked; a token that no rater can see gets 0.
        past: keys before the first token's.
        share: places of some raters, [B, R] -> their attention to all keys, head mean, [B, R, past + M].
        most: no prompt has more raters; None: counted, which a device is waited for.

    Returns:
        [B, M], float32.
    """
    b, m = raters_BM.shape
    # Raters to the front, in order, so that the query rows of a ragged batch are one block.
    most = int(raters_BM.sum(1).max()) if most is None else most
    places_BR = raters_BM.long().sort(dim=1, descending=True, stable=True).indices[:, :most]
    asked_BR = raters_BM.gather(1, places_BR)
    total = torch.zeros(b, m, dtype=torch.float32, device=raters_BM.device)
    for places, asked in zip(places_BR.split(CHUNK, 1), asked_BR.split(CHUNK, 1), strict=True):
        total += (share(places)[..., past : past + m] * asked.unsqueeze(-1)).sum(1)
    seers = raters_BM.long().flip(1).cumsum(1).flip(1)
    return total / seers.clamp(min=1)


def given(raters_BM: Tensor, past: int, share: Callable[[Tensor], Tensor], most: int | None = None) -> Tensor:
    """As `received`, of each rater by itself, in order: [B, R, M]; zeros behind the last rater of a prompt."""
    most = int(raters_BM.sum(1).max()) if most is None else most
    places_BR = raters_BM.long().sort(dim=1, descending=True, stable=True).indices[:, :most]
    rows = [share(places)[..., past : past + raters_BM.shape[1]] for places in places_BR.split(CHUNK, 1)]
    return torch.cat(rows, 1) * raters_BM.gather(1, places_BR).unsqueeze(-1)


def rotate(x_BHSD: Tensor, cos_BSD: Tensor, sin_BSD: Tensor) -> Tensor:
    """Rotary embedding in the half-split form that Llama, Mistral and the Qwens share."""
    a, b = x_BHSD.chunk(2, dim=-1)
    return x_BHSD * cos_BSD.unsqueeze(1) + torch.cat((-b, a), -1) * sin_BSD.unsqueeze(1)


def project(attn: Any, name: str, x_BSD: Tensor, cos: Tensor, sin: Tensor, rotary: bool = True) -> Tensor:
    """Queries ("q") or keys ("k") of a layer's normed input, rotated or as they are before: [B, H, S, d]."""
    y = getattr(attn, f"{name}_proj")(x_BSD).unflatten(-1, (-1, attn.head_dim))
    norm = getattr(attn, f"{name}_norm", None)
    if norm is not None:
        y = norm(y)
    return rotate(y.transpose(1, 2), cos, sin) if rotary else y.transpose(1, 2)


def key_norms(layer: Any, hidden_BMD: Tensor) -> Tensor:
    """L1 norms of a decoder layer's keys before rotation, heads joined: [B, M], float32.

    Rotation changes them by the absolute position, and so by the padding beside a prompt.
    """
    x = layer.input_layernorm(hidden_BMD)
    keys = layer.self_attn.k_proj(x).unflatten(-1, (-1, layer.self_attn.head_dim))
    norm = getattr(layer.self_attn, "k_norm", None)
    return (keys if norm is None else norm(keys)).float().abs().sum((2, 3))


def text_attention(
    layer: Any,
    hidden_BMD: Tensor,
    cos: Tensor,
    sin: Tensor,
    raters_BM: Tensor,
    real_BK: Tensor,
    past_keys: Tensor | None,
    rotary: bool = True,
    most: int | None = None,
    apart: bool = False,
) -> Tensor:
    """`received` or (apart) `given`, from a layer's norm and projections.

    Args:
        layer: decoder layer.
        hidden_BMD: its input.
        cos, sin: rotary tables of that input, [B or 1, M, d].
        raters_BM: which tokens are asked.
        real_BK: which keys exist, the past ones first; K = P + M.
        past_keys: keys of earlier turns, [B, Hkv, P, d], or None.
        rotary: False compares queries and keys before rotation; past keys are rotated, so none must be given, and none
            counted in `real_BK`.
        most: see `received`.
        apart: each rater by itself.

    Returns:
        [B, M], or [B, R, M], float32. Shares of a softmax over all real keys up to the rater, earlier turns included.
    """
    attn = layer.self_attn
    b, m, _ = hidden_BMD.shape
    cos, sin = cos.expand(b, -1, -1), sin.expand(b, -1, -1)
    x = layer.input_layernorm(hidden_BMD)
    keys = project(attn, "k", x, cos, sin, rotary)
    if past_keys is not None:
        keys = torch.cat((past_keys.to(keys.device, keys.dtype), keys), 2)
    keys = keys.float().unsqueeze(2)
    past = keys.shape[3] - m
    slots_K = torch.arange(past + m, device=hidden_BMD.device)

    def share(places: Tensor) -> Tensor:
        pick = places.unsqueeze(-1)
        table = [t.gather(1, pick.expand(-1, -1, t.shape[-1])) for t in (cos, sin)]
        q = project(attn, "q", x.gather(1, pick.expand(-1, -1, x.shape[-1])), table[0], table[1], rotary)
        q = q.float().unflatten(1, (keys.shape[1], -1))
        with precise(q.device):
            score = q @ keys.transpose(-1, -2) * attn.scaling
        seen = (slots_K <= (places + past).unsqueeze(-1)) & real_BK.unsqueeze(1)
        score = score.masked_fill(~seen[:, None, None], torch.finfo(torch.float32).min)
        return score.softmax(-1).flatten(1, 2).mean(1)

    return (given if apart else received)(raters_BM, past, share, most)


def dynamic_raters(visual_VD: Tensor, text_TD: Tensor) -> Tensor:
    """The text tokens that the image speaks of: SparseVLM's rule, which TOPS's "relevance thresholding" is read as.

    Softmax over the text of visual x text products, mean over the visual tokens; those above the mean of the text.

    Args:
        visual_VD: states of the visual tokens.
        text_TD: states of the question's tokens, at least one.

    Returns:
        [T] bool, at least one True.
    """
    with precise(visual_VD.device):
        relevance = (visual_VD.float() @ text_TD.float().T).softmax(-1).mean(0)
    raters = relevance > relevance.mean()
    return raters | ~raters.any()
