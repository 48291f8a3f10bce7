"""What is added to a layer's attention where merged tokens weigh as many as they stand for: a mask of floats.

log(size), and RESTORE's distance term (arXiv 2606.01711), from the model's own frequencies of rotation.
"""

from typing import Any

import torch
from torch import Tensor

from foveate.errors import ModelError


def biased(
    mask: Tensor | None, bias_BK: Tensor, queries: int, dtype: torch.dtype, flat: bool, near_BMM: Tensor | None = None
) -> Tensor:
    """A layer's mask with something added to its logits: [B, H, M, K], of the states' type.

    Args:
        mask: [B or 1, H, M, K] of either kind, or None: plainly causal, the queries being the last keys.
        bias_BK: what is added to each key, 0 or more.
        queries: M.
        dtype: of the states.
        flat: the kernel takes padding masks.
        near_BMM: what is added to each pair, 0 or more, where all keys are queries.

    Raises:
        ModelError: a kernel that adds nothing.
    """
    if flat or (mask is not None and mask.ndim != 4):
        raise ModelError(
            "attention is to know how many tokens each one stands for, and this kernel adds nothing to its logits; "
            'call model.set_attn_implementation("sdpa"), or leave sized(...) out of the plan'
        )
    keys = bias_BK.shape[1]
    if mask is None:
        at = torch.arange(keys, device=bias_BK.device)
        mask = (at <= at[keys - queries :, None])[None, None]
    bias_BMK = bias_BK[:, None] if near_BMM is None else bias_BK[:, None] + near_BMM
    bias = bias_BMK.to(mask.device, dtype)[:, None]
    if mask.dtype != torch.bool:
        return mask + bias
    return torch.where(mask, bias, torch.finfo(dtype).min)


def nearness(positions: Tensor, rotary: Any, config: Any) -> Tensor:
    """log(2 - D) for every pair of tokens, [B, M, M]: D is how alike rotation leaves two equal vectors so far apart.

    Args:
        positions: [B or 1, M], or [axes, B, M] where each axis turns a section of the dimensions: those weigh D.
        rotary: the module that rotates, for its frequencies.
        config: of the language model, for its sections.
    """
    ids_ABM = positions[None] if positions.ndim == 2 else positions
    shares = [1.0]
    if len(ids_ABM) > 1:
        parts = (getattr(config, "rope_parameters", None) or {})["mrope_section"]
        ids_ABM, shares = ids_ABM[-len(parts) :], [part / sum(parts) for part in parts]
    decay = torch.zeros((), device=positions.device)
    for share, id_BM in zip(shares, ids_ABM, strict=True):
        far_BMM = (id_BM[:, :, None] - id_BM[:, None]).abs()
        # One entry a distance: pairs are many, distances few.
        every_X1 = torch.arange(int(far_BMM.max()) + 1, device=far_BMM.device)[:, None]
        decay = decay + share * (every_X1 * rotary.inv_freq.to(far_BMM.device)).cos().mean(1)[far_BMM]
    return torch.log(2 - decay)
