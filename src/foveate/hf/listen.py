"""Reads the attention of chosen query rows by listening to a decoder layer: what its kernel gets is what is read.

The layer's own code runs once more, up to its attention, under a `TorchFunctionMode`: that is this thread's alone, and
lasts as long as the call. So windows, soft caps, sinks, fused or compressed projections and rotations of any kind are
what the layer makes of them, and nothing is registered or replaced anywhere.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, softmax
from torch.overrides import TorchFunctionMode

from foveate.errors import SignalError
from foveate.hf.cache import NAMES
from foveate.hf.taps import given, received
from foveate.ops.precise import precise

KERNELS = ("sdpa", "eager")
"""Attention implementations whose calls can be heard."""


class Heard(Exception):
    """The call of a layer's attention: no error, but the way out of the layer."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told


class Ear(TorchFunctionMode):
    """Ends a layer's run where it attends, over `keys` keys from `queries` queries."""

    def __init__(self, kernel: str, queries: int, keys: int) -> None:
        super().__init__()
        self.kernel, self.queries, self.keys = kernel, queries, keys

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every call of a torch function passes here."""
        kwargs = kwargs or {}
        if self.kernel == "sdpa" and func is scaled_dot_product_attention:
            names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
            raise Heard(dict(zip(names, args, strict=False)) | kwargs)
        if self.kernel == "eager" and func in (softmax, torch.softmax, Tensor.softmax):
            score = args[0] if args else kwargs["input"]
            # Sinks are one more column.
            if score.ndim == 4 and score.shape[2] == self.queries and score.shape[3] - self.keys in (0, 1):
                raise Heard({"score": score})
        return func(*args, **kwargs)


class Glance:
    """A cache that shows a layer the past and remembers nothing."""

    def __init__(self, cache: Any, held: int) -> None:
        self.cache, self.held = cache, held

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The past and the new, side by side."""
        layer = self.cache.layers[layer_idx]
        past = layer.keys[..., : self.held, :], layer.values[..., : self.held, :]
        return torch.cat((past[0], keys), -2), torch.cat((past[1], values), -2)

    def update_indexer(self, keys: Tensor, layer_idx: int) -> Tensor:
        """The same for an indexer."""
        past = self.cache.layers[layer_idx].indexer_keys
        return torch.cat((past[:, : self.held], keys), 1)


def heard_attention(
    layer: nn.Module,
    named: dict[str, Any],
    kernel: str,
    raters_BM: Tensor,
    real_BK: Tensor,
    most: int | None = None,
    apart: bool = False,
) -> Tensor:
    """`received` or (apart) `given`, from what the layer hands to its kernel.

    Args:
        layer: decoder layer.
        named: the arguments of its forward, by name.
        kernel: its attention implementation, one of KERNELS.
        raters_BM: which tokens are asked.
        real_BK: which keys exist, the past ones first.
        most: see `received`.
        apart: each rater by itself.

    Raises:
        SignalError: the layer does not attend in a way that can be heard.
    """
    (b, m), k = raters_BM.shape, real_BK.shape[1]
    past = k - m
    # Without a past a layer runs as without a cache.
    named = {n: (Glance(v, past) if past else None) if n in NAMES else v for n, v in named.items()}
    try:
        with Ear(kernel, m, k):
            # Not the instance's: hooks have nothing to do with this.
            type(layer).forward(layer, **named)
    except Heard as heard:
        told = heard.told
    except Exception as e:
        raise SignalError(
            f"{type(layer).__name__} cannot be run for its attention alone ({e}); cut at another layer, or use a "
            "method that does not read text_attn_BN"
        ) from e
    else:
        told = {}
    key = told.get("key", told.get("score"))
    if key is None or (key.shape[2] != k if "key" in told else key.shape[0] != b):
        raise SignalError(
            f"{type(layer).__name__} computes no attention over its tokens that can be read; cut at another layer, or "
            "use a method that does not read text_attn_BN"
        )
    slots_K = torch.arange(k, device=raters_BM.device)

    def rows(x: Tensor, places: Tensor) -> Tensor:
        return x.expand(b, *x.shape[1:]).gather(2, places[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))

    def share(places: Tensor) -> Tensor:
        if "score" in told:
            return rows(told["score"], places).float().softmax(-1).mean(1)
        q, keys, mask = told["query"], told["key"].float(), told.get("attn_mask")
        scale = told.get("scale") or q.shape[-1] ** -0.5
        groups = rows(q, places).float().unflatten(1, (keys.shape[1], -1))
        with precise(groups.device):
            score = (groups @ keys.unsqueeze(2).transpose(-1, -2) * scale).flatten(1, 2)
        if mask is None:
            seen = (slots_K <= (places + past).unsqueeze(-1)) & real_BK.unsqueeze(1)
            score = score.masked_fill(~seen[:, None], torch.finfo(torch.float32).min)
        elif (own := rows(mask, places)).dtype == torch.bool:
            score = score.masked_fill(~own, torch.finfo(torch.float32).min)
        else:
            score = score + own.float()
        return score.softmax(-1).mean(1)

    return (given if apart else received)(raters_BM, past, share, most)
