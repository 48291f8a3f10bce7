"""Llama 4: layers without rotation scale their queries by their place, which they count off their input's length."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveate.hf.families.generic import Generic


class Llama4(Generic):
    """`llama4`: Llama4ForConditionalGeneration."""

    def __init__(self) -> None:
        super().__init__("llama4")

    def wraps(self, lm: Any) -> Sequence[tuple[nn.Module, str, Any]]:
        """The query projections of those layers: what they get is scaled to where the tokens stood."""
        config = lm.config

        def scale(position: Tensor) -> Tensor:
            return torch.log1p(((position.float() + 1) / config.floor_scale).floor()) * config.attn_scale + 1

        def make(attachment: Any, original: Any) -> Any:
            @functools.wraps(original)
            def project(hidden: Tensor) -> Tensor:
                out, step = original(hidden), attachment.run and attachment.run.step
                index = step.segment.index_BM if step else None
                if index is None:
                    return out
                stands = torch.arange(index.shape[1], device=out.device) + step.past
                return out * (scale(index.clamp(min=0) + step.past) / scale(stands)).unsqueeze(-1).to(out)

            return project

        attns = [x.self_attn for x in lm.layers]
        return [(a.q_proj, "forward", make) for a in attns if a.attn_temperature_tuning and not a.use_rope]
