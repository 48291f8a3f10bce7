"""What is refused, and when: at attach where the model tells, before the encoder runs where only the prompt tells."""

from typing import Any

from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from foveate.errors import ModelError, PlanError, SignalError
from foveate.fields import check_reads
from foveate.hf.families.base import Family
from foveate.hf.taps import check_layer
from foveate.plan import Plan
from foveate.selection import Attention

MARK = "_foveate"
"""The attribute by which a base model knows its attachment, and an encoder's output its encoding."""


def check_model(model: nn.Module, family: Family) -> None:
    """Refuse a model that is attached already, or runs in a way that cannot be cut.

    Raises:
        ModelError: attached; an unknown or untried attention implementation; sliding windows.
    """
    base = family.base(model)
    if MARK in base.__dict__:
        raise ModelError(
            "this model already has a plan attached; detach it first, or put the cuts of both into one plan"
        )
    config = family.language_model(model).config
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
    kinds = getattr(config, "layer_types", None)
    if "sliding_attention" in kinds if kinds else getattr(config, "sliding_window", None):
        raise ModelError(
            "some decoder layers attend in a sliding window, which counts tokens that pruning removes; set "
            "sliding_window=None (or use_sliding_window=False) in the text config"
        )
    if config.is_encoder_decoder:
        raise ModelError("encoder-decoder language models are not supported")


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


def check_plan(plan: Plan, model: nn.Module, family: Family) -> None:
    """Refuse a plan that can never apply to this model.

    Raises:
        PlanError: attention of a layer before the first.
        SignalError: a signal that this model or this cut cannot give.
    """
    family.check_tower(family.base(model))
    for cut in plan.cuts:
        who, reads = type(cut.select).__name__, frozenset(cut.select.reads)
        if "relevance_BN" in reads:
            raise SignalError(
                f"{who} reads relevance_BN, the image-text similarity of a joint space, but {family.model_type} comes "
                "without a text tower; use a method that reads text_BTD or text_attn_BN"
            )
        if "cls_cos_BN" in reads and not family.has_cls(family.base(model)):
            raise SignalError(
                f"{who} reads cls_cos_BN, the cosine to [CLS], but this vision tower has no [CLS]; use a method that "
                'reads cls_attn_BN, which is the attention received here (sms: score="attention")'
            )
        check_reads(cut)
        if cut.at == "encoder" and family.joins_units and isinstance(cut.keep, int):
            raise PlanError(
                f"keep={cut.keep} tokens at the encoder, but {family.model_type} encodes an image as tiles and cannot "
                'tell how many make one; give a fraction, or cut at "input"'
            )
        if "text_attn_BN" in reads:
            _check_attention(cut.at, cut.select, family.layers(model), who)


def _check_attention(at: Any, select: Any, layers: nn.ModuleList, who: str) -> None:
    asked = getattr(select, "attention", None)
    if not isinstance(asked, Attention):
        raise SignalError(
            f"{who} reads text_attn_BN, and its field `attention` must say whose: a foveate.Attention, not {asked!r}"
        )
    if not isinstance(at, int):
        raise SignalError(
            f'{who} reads LLM attention, but at {at!r} no decoder layer has run; cut at 0 with layer="own", or later'
        )
    if at == 0 and asked.layer == "previous":
        raise PlanError(f'{who} asks for the layer before layer 0; use Attention(layer="own"), or cut at 1 or later')
    check_layer(layers[at if asked.layer == "own" else at - 1])


def check_counts(plan: Plan, tokens: list[int]) -> None:
    """Before anything is encoded: can every cut keep what it says of images this large?

    Raises:
        PlanError: a keep larger than the image, or keeps that grow.
    """
    for n in sorted(set(tokens)):
        before: tuple[int, Any] | None = None
        for cut in plan.cuts:
            if cut.over != "visual":
                continue
            k = cut.count(n)
            if before is not None and k > before[0]:
                raise PlanError(
                    f"keep grows from {before[0]} at {before[1]!r} to {k} at {cut.at!r} for an image of {n} tokens; "
                    "dropped tokens cannot return"
                )
            before = k, cut.at
