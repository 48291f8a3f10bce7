"""Inkling: attention is biased by distance, which each layer counts off its input's and its cache's length."""

import functools
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from foveate.hf.families.generic import Generic


class Inkling(Generic):
    """`inkling_mm_model`: InklingForConditionalGeneration."""

    def __init__(self) -> None:
        super().__init__("inkling_mm_model", probed=False)

    def wraps(self, lm: Any) -> Sequence[tuple[nn.Module, str, Any]]:
        """The modules that turn distance into bias: they get the distance between the places tokens stood at."""

        def make(attachment: Any, original: Any) -> Any:
            module = original.__self__

            @functools.wraps(original)
            def bias(states: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
                run = attachment.run
                there = run.layers.before[1] if run and run.step else None
                if there is None:
                    return original(states, queries, keys)
                step = run.step
                index = step.segment.index_BM
                at = queries.expand(step.b, -1) if index is None else index + step.past
                distance = (at.unsqueeze(2) - there.unsqueeze(1)).unsqueeze(1)
                logits = (states @ module.proj).transpose(1, 2)
                found = logits.gather(-1, distance.clamp(0, module.rel_extent - 1).expand(-1, logits.shape[1], -1, -1))
                return found.masked_fill((distance < 0) | (distance >= module.rel_extent), 0.0)

            return bias

        return [(x.self_attn.rel_logits_proj, "forward", make) for x in lm.layers]
