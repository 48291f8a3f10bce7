"""What is refused, and when: at attach where the model tells, before the encoder runs where only the prompt tells."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from foveate.errors import ModelError
from foveate.hf.families.base import Family
from foveate.hf.picking import flat_masks

MARK = "_foveate"
"""The attribute by which a base model knows its attachment, and an encoder's output its encoding."""


def check_model(model: nn.Module, family: Family) -> None:
    """Refuse a model that is attached already, or runs in a way that cannot be cut.

    Raises:
        ModelError: attached; no config; see also `check_kernel`.
    """
    base = family.base(model)
    if not hasattr(base, "config"):
        raise ModelError(
            f"{type(model).__name__} has no config, which says what it is made of; attach takes a transformers model"
        )
    if MARK in base.__dict__:
        raise ModelError(
            "this model already has a plan attached; detach it first, or put the cuts of both into one plan"
        )
    family.check_tower(base)
    config = family.language_model(model).config
    check_kernel(config)
    if config.is_encoder_decoder:
        raise ModelError("encoder-decoder language models are not supported")


def check_kernel(config: Any) -> None:
    """Refuse attention that cannot be cut; asked again with every prompt, as it can be set anew.

    Raises:
        ModelError: an unknown or untried attention implementation; sliding windows.
    """
    kernel = config._attn_implementation
    if kernel == "flex_attention" or "paged" in str(kernel):
        raise ModelError(
            f"attention implementation {kernel!r} was never tried with pruning; use 'sdpa', 'eager' or FlashAttention"
        )
    if kernel not in ALL_MASK_ATTENTION_FUNCTIONS:
        raise ModelError(
            f"attention implementation {kernel!r} has no mask function, so padding would be attended to; register one "
            "with AttentionMaskInterface, or use 'sdpa'"
        )
    if has_windows(config) and flat_masks(config):
        raise ModelError(
            "some decoder layers attend in a sliding window, which FlashAttention counts in what is left; load the "
            "model with attn_implementation='sdpa', or set sliding_window=None in the text config"
        )


def has_windows(config: Any) -> bool:
    """Whether some decoder layer sees only so far back."""
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return any("sliding" in k or "chunked" in k for k in kinds)
    return bool(getattr(config, "sliding_window", None) or getattr(config, "attention_chunk_size", None))


def check_mask(mask: Any) -> None:
    """Refuse masks that were already spread over queries and keys.

    Raises:
        ModelError: anything but a 2-D padding mask or None.
    """
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
        what = f"{mask.ndim}-D" if isinstance(mask, Tensor) else type(mask).__name__
        raise ModelError(
            f"attention_mask is {what}; pass the 2-D padding mask [batch, length], from which masks are cut"
        )


ROW_BOUNDS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
"""How FlashAttention is told where one sample of a row ends and the next begins."""


def check_rows(call: Mapping[str, Any], mask: Tensor | None, ids: Tensor | None, length: int, last_only: bool) -> None:
    """Refuse rows of several samples, and rows whose last place is padding where that place is to predict.

    Args:
        call: the base model's arguments by name.
        mask: its padding mask in host memory.
        ids: its position ids, those of the first axis, in host memory.
        length: of this call's tokens.
        last_only: nothing but the last place's logits are asked for.

    Raises:
        ModelError: positions start again within a row; its bounds are given; padding on the right.
    """
    packed = [name for name in ROW_BOUNDS if call.get(name) is not None]
    if packed:
        raise ModelError(f"{', '.join(packed)}: several samples in one row cannot be cut; give a row for each, padded")
    real = None if mask is None else mask[:, -length:]
    if ids is not None:
        # Of several axes the first is text's or time's, which never goes back within a sample.
        back = ids.diff(dim=1) < 0
        if real is not None:
            back = back & real[:, 1:] & real[:, :-1]
        if bool(back.any()):
            row, place = back.nonzero()[0].tolist()
            raise ModelError(
                f"position_ids start again at place {place + 1} of row {row}, as where several samples share a row; "
                "give a row for each, padded"
            )
    if last_only and real is not None and not bool(real[:, -1].all()):
        raise ModelError(
            "padding on the right: the next token would be predicted from a place that holds nothing; pad on the left "
            '(processor.tokenizer.padding_side = "left")'
        )
