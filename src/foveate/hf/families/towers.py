"""Taps on the two kinds of vision tower: one image a batch row with separate projections, and packed patches with one.

[CLS] attention is one row of scores. Where there is no [CLS], attention received is summed over chunks of queries, so
that the whole N x N map never exists.
"""

import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from foveate.hf.families.base import Tap, TowerSignals

CHUNK = 256


def cls_attention(q_BHD: Tensor, k_BHSD: Tensor, scale: float) -> Tensor:
    """Head-mean softmax of one query against all keys: [B, S], float32."""
    score = torch.einsum("bhd,bhsd->bhs", q_BHD.float(), k_BHSD.float()) * scale
    return score.softmax(-1).mean(1)


def attention_received(q_BHSD: Tensor, k_BHSD: Tensor, scale: float) -> Tensor:
    """Mean over queries and heads of the attention that each key receives: [B, S], float32."""
    total = torch.zeros(k_BHSD.shape[0], k_BHSD.shape[2], dtype=torch.float32, device=k_BHSD.device)
    keys = k_BHSD.float().transpose(-1, -2)
    for queries in q_BHSD.float().split(CHUNK, dim=2):
        total += (queries @ keys * scale).softmax(-1).mean(1).sum(1)
    return total / q_BHSD.shape[2]


def heads(x: Tensor, n: int) -> Tensor:
    """[B, S, H*D] -> [B, H, S, D]."""
    return x.unflatten(-1, (n, -1)).transpose(1, 2)


class TiledTap(Tap):
    """CLIP, SigLIP, InternViT: [tiles, 1? + patches, C], q_proj and k_proj apart. Rows: patches, or cells of them."""

    def __init__(self, reads: frozenset[str], layer: Any, attn: Any, cls: bool, merge: int = 1) -> None:
        super().__init__(reads)
        self.layer, self.attn, self.cls, self.merge = layer, attn, cls, merge

    def hooks(self) -> Sequence[Any]:
        """Record queries, keys and features, each only where read."""
        out = []
        if self.reads & {"cls_attn_BN"}:
            out.append(self.attn.q_proj.register_forward_hook(self.keep_output("queries")))
        if self.reads & {"cls_attn_BN", "keys_BNC"}:
            out.append(self.attn.k_proj.register_forward_hook(self.keep_output("keys")))
        if self.reads & {"encoder_BNC", "hidden_BND", "cls_cos_BN"}:
            out.append(self.layer.register_forward_hook(self.keep_output("features")))
        return out

    def signals(self) -> TowerSignals:
        """Per patch, then averaged over each merged cell."""
        n, cls = self.attn.num_heads, self.cls
        attn = features = keys = cos = None
        if self.reads & {"cls_attn_BN", "keys_BNC"}:
            k = heads(self._norm("k_norm", self.take("keys")), n)
            if "keys_BNC" in self.reads:
                keys = k.mean(1)[:, int(cls) :]
            if "cls_attn_BN" in self.reads:
                q = heads(self._norm("q_norm", self.take("queries")), n)
                row = (
                    cls_attention(q[:, :, 0], k, self.attn.scale) if cls else attention_received(q, k, self.attn.scale)
                )
                attn = row[:, int(cls) :].unsqueeze(-1)
        if self.reads & {"encoder_BNC", "hidden_BND", "cls_cos_BN"}:
            every = self.take("features")
            features = every[:, int(cls) :]
            if "cls_cos_BN" in self.reads:
                cos = cosine_similarity(every[:, :1].float(), features.float(), dim=-1).unsqueeze(-1)
        return TowerSignals(*(self._rows(x) for x in (attn, features, keys, cos)))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        norm = getattr(self.attn, name, None)
        return x if norm is None else norm(x)

    def _rows(self, x: Tensor | None) -> Tensor | None:
        """[tiles, patches, C] -> [R, C], averaging each merge x merge cell."""
        if x is None:
            return None
        if self.merge > 1:
            side = round(x.shape[1] ** 0.5)
            x = x.reshape(x.shape[0], side // self.merge, self.merge, side // self.merge, self.merge, -1).mean((2, 4))
        return x.reshape(-1, x.shape[-1])


class PackedTap(Tap):
    """Qwen's towers: all patches of all images in one row, one qkv projection, rotary positions, no [CLS].

    Rows are merged cells: `merge` consecutive patches. Attention runs inside segments given by `cu_seqlens`.
    """

    def __init__(self, reads: frozenset[str], block: Any, merge: int, rotate: Any, last: Any) -> None:
        super().__init__(reads)
        self.block, self.merge, self.rotate, self.last = block, merge, rotate, last

    def hooks(self) -> Sequence[Any]:
        """Record the projections of the last full-attention block, and the tower's last features."""
        out = []
        if self.reads & {"cls_attn_BN", "keys_BNC"}:
            out.append(self.block.attn.qkv.register_forward_hook(self.keep_output("projections")))
            out.append(self.block.attn.register_forward_pre_hook(self._keep_call, with_kwargs=True))
        if self.reads & {"encoder_BNC", "hidden_BND"}:
            out.append(self.last.register_forward_hook(self.keep_output("features")))
        return out

    def _keep_call(self, _module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == self.thread:
            self.seen["call"] = (kwargs["cu_seqlens"], kwargs["position_embeddings"])

    def signals(self) -> TowerSignals:
        """Per patch, then averaged over each merged cell."""
        attn = features = keys = None
        if self.reads & {"cls_attn_BN", "keys_BNC"}:
            qkv, (cu_seqlens, (cos, sin)) = self.take("projections"), self.take("call")
            module = self.block.attn
            q, k, _ = qkv.reshape(qkv.shape[0], 3, module.num_heads, -1).unbind(1)
            if "keys_BNC" in self.reads:
                # Before rotation: a key's content, not its place.
                keys = k.mean(1)
            if "cls_attn_BN" in self.reads:
                q, k = self.rotate(q, k, cos, sin)
                bounds = cu_seqlens.tolist()
                parts = [
                    attention_received(q[a:b].transpose(0, 1)[None], k[a:b].transpose(0, 1)[None], module.scaling)[0]
                    for a, b in pairwise(bounds)
                ]
                attn = torch.cat(parts).unsqueeze(-1)
        if self.reads & {"encoder_BNC", "hidden_BND"}:
            features = self.take("features")
        return TowerSignals(
            *(None if x is None else x.unflatten(0, (-1, self.merge)).mean(1) for x in (attn, features, keys))
        )
