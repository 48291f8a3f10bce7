"""Taps on the two kinds of vision tower: an image a batch row with its projections apart, and packed patches."""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from foveate.geometry.tower import TowerLayer, consecutive_cells, heads, square_cells
from foveate.hf.families.base import Inner, Tap, feature_layers


class TiledTap(Tap):
    """One image a row, q_proj and k_proj apart: [tiles, 1? + patches, C]. Rows: patches, or cells of them."""

    joined: "Joined" = ()

    def __init__(
        self, reads: frozenset[str], layer: Any, attn: Any, cls: bool, merge: int = 1, joined: "Joined" = ()
    ) -> None:
        super().__init__(reads)
        self.layer, self.attn, self.cls, self.merge, self.joined = layer, attn, cls, merge, joined
        self.heads = _heads(attn)
        self.scale = getattr(attn, "scaling", None) or attn.scale

    def hooks(self) -> Sequence[Any]:
        """Record queries, keys and features, each only where read."""
        out = []
        if self.reads & {"cls_attn_BN"}:
            out.append(self.attn.q_proj.register_forward_hook(self.keep_output("queries")))
        if self.reads & {"cls_attn_BN", "keys_BNC"}:
            out.append(self.attn.k_proj.register_forward_hook(self.keep_output("keys")))
        if self.reads & {"encoder_BNC", "hidden_BND", "cls_cos_BN"}:
            out.append(self.layer.register_forward_hook(self.keep_output("features")))
        for i, (layer, given) in enumerate(self.joined if "hidden_BND" in self.reads else ()):
            if given:
                out.append(layer.register_forward_pre_hook(self.keep_input(f"state {i}"), with_kwargs=True))
            else:
                out.append(layer.register_forward_hook(self.keep_output(f"state {i}")))
        return out

    def shown(self) -> TowerLayer:
        """The layer's projections, split into heads; and the states that are joined."""

        def part(name: str, norm: str) -> Tensor:
            x = self.look(name)
            return heads(x if getattr(self.attn, norm, None) is None else getattr(self.attn, norm)(x), n)

        n, keys = self.heads, partial(part, "keys", "k_norm")
        cells = partial(square_cells, merge=self.merge)
        features = partial(self.look, "features")

        def states() -> Tensor:
            return torch.cat([self.look(f"state {i}") for i in range(len(self.joined))], -1)

        return TowerLayer(
            partial(part, "queries", "q_norm"), keys, keys, features, self.scale, self.cls, cells,
            joined=states if self.joined else None,
        )  # fmt: skip


Joined = Sequence[tuple[Any, bool]]
"""Layers, and whether it is what the layer is given that is joined and not what it puts out."""


def joined(layers: Any, index: int | Sequence[int]) -> Joined:
    """Where the states come from that a projector is given together; none where they are of one layer alone."""
    if isinstance(index, int):
        return ()
    return [(layers[max(0, i)], i < 0) for i in feature_layers(index, len(layers))]


def inner(layer: Any, attn: Any) -> Inner:
    """The parts of a layer of CLIP, SigLIP or DINOv2, under their different names."""
    norm = getattr(layer, "layer_norm2", None) or layer.norm2
    return Inner(layer, attn.k_proj, _heads(attn), norm, layer.mlp)


def _heads(attn: Any) -> int:
    # The same under different names: DINOv2's and Pixtral's, CLIP's.
    return int(getattr(attn, "num_attention_heads", None) or attn.num_heads)


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
            keep = self.keep_call("call", "cu_seqlens", "position_embeddings")
            out.append(self.block.attn.qkv.register_forward_hook(self.keep_output("projections")))
            out.append(self.block.attn.register_forward_pre_hook(keep, with_kwargs=True))
        if self.reads & {"encoder_BNC", "hidden_BND"}:
            out.append(self.last.register_forward_hook(self.keep_output("features")))
        return out

    def shown(self) -> TowerLayer:
        """The block's projections, apart and rotated."""
        module = self.block.attn

        def split() -> tuple[Tensor, Tensor]:
            qkv = self.look("projections")
            q, k, _ = qkv.reshape(qkv.shape[0], 3, module.num_heads, -1).unbind(1)
            return q, k

        @cache
        def both() -> tuple[Tensor, Tensor]:
            _, (cos, sin) = self.look("call")
            return self.rotate(*split(), cos, sin)

        def rotated(which: int) -> Tensor:
            return both()[which].transpose(0, 1)[None]

        return TowerLayer(
            queries=partial(rotated, 0),
            keys=partial(rotated, 1),
            content=lambda: split()[1].transpose(0, 1)[None],
            features=lambda: self.look("features")[None],
            scale=module.scaling,
            cls=False,
            rows=partial(consecutive_cells, merge=self.merge),
            segments=lambda: self.look("call")[0].tolist(),
        )
