"""One layer of a vision tower of vLLM, recorded while it runs: what its attention is given, and what it puts out.

vLLM's towers fuse and shard their projections each in its own way, but all hand whole heads to one attention module.
That is where queries and keys are read, as many heads as this rank has; scores are then averaged over the ranks.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_reduce

from foveate.errors import SignalError
from foveate.geometry.tower import TowerLayer, TowerSignals, heads, tower_signals


class Recorder:
    """Records one encoder call.

    Args:
        reads: TokenView fields to be told.
        attention: the attention module of the layer that is read, `.attn` being what runs the heads.
        last: the module whose output the features are.
        total: heads of the layer, over all ranks.
        cls: whether the first row of an image is [CLS].
        rows: as `TowerLayer` takes it.
        into: the features are what `last` is given, not its output.
    """

    def __init__(
        self,
        reads: frozenset[str],
        attention: Any,
        last: nn.Module,
        total: int,
        cls: bool,
        rows: Callable[[Tensor], Tensor],
        into: bool = False,
    ) -> None:
        self.reads, self.attention, self.last, self.total = reads, attention, last, total
        self.cls, self.rows, self.into = cls, rows, into
        self.first: Recorder | None = None
        """One of the tower's first layer, where that is read too."""
        self.seen: dict[str, Any] = {}

    def hooks(self) -> list[Any]:
        """Register on the tower, each only where it is read; returns the removable handles."""
        out: list[Any] = []
        if self.reads & {"cls_attn_BN", "keys_BNC"}:
            out.append(self.attention.attn.register_forward_pre_hook(self._attend, with_kwargs=True))
            out.append(self.attention.register_forward_pre_hook(self._enter, with_kwargs=True))
        if self.reads & {"encoder_BNC", "hidden_BND", "cls_cos_BN"}:
            out.append(self.last.register_forward_hook(self._output))
        return out + (self.first.hooks() if self.first else [])

    def signals(self) -> TowerSignals:
        """What was seen, row by row."""
        inner, packed = self.attention.attn, "segments" in self.seen
        layer = TowerLayer(
            queries=partial(self._heads, "queries"),
            keys=partial(self._heads, "keys"),
            content=self._content,
            features=self._features,
            scale=inner.scale,
            cls=self.cls,
            rows=self.rows,
            segments=(lambda: self.seen["segments"].tolist()) if packed else None,
            reduce=mean_over_ranks if inner.num_heads < self.total else lambda x: x,
        )
        found = tower_signals(layer, self.reads)
        return replace(found, cls_first=self.first.signals().cls_attn) if self.first else found

    def _attend(self, _module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        self.seen["queries"], self.seen["keys"] = given["query"], given["key"]
        if given.get("cu_seqlens") is not None:
            self.seen["segments"] = given["cu_seqlens"]

    def _enter(self, _module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        self.seen["tables"] = kwargs.get("rotary_pos_emb_cos"), kwargs.get("rotary_pos_emb_sin")

    def _output(self, _module: nn.Module, args: Any, output: Any) -> None:
        found = args if self.into else output
        self.seen["features"] = found[0] if isinstance(found, tuple) else found

    def _heads(self, name: str) -> Tensor:
        """[B, H, S, D], whatever the tower hands over."""
        x = self._look(name)
        return x.transpose(1, 2) if x.ndim == 4 else heads(x, self.attention.attn.num_heads)

    def _content(self) -> Tensor:
        """Keys before rotation: turned back by the same angle."""
        cos, sin = self.seen.get("tables", (None, None))
        if cos is None:
            return self._heads("keys")
        return self.attention.apply_rotary_emb(self._look("keys"), cos, -sin).transpose(1, 2)

    def _features(self) -> Tensor:
        """[B, S, C]; Qwen's towers have patches first."""
        x = self._look("features")
        return x.transpose(0, 1) if x.shape[1] == 1 else x

    def _look(self, name: str) -> Any:
        if name not in self.seen:
            raise SignalError(f"the vision tower ran without showing its {name}; this attention backend hides it")
        return self.seen[name]


def mean_over_ranks(x: Tensor) -> Tensor:
    """Mean over the ranks that share a tower's heads."""
    return tensor_model_parallel_all_reduce(x.contiguous()) / get_tensor_model_parallel_world_size()
