"""Which plans a model can carry out: what is refused at attach, and what only the prompt tells.

A refusal that hangs on the model, and not on the plan alone, names its rule (one of WHY): `refusals.py` lists them.
"""

from itertools import pairwise
from typing import Any

from foveate.cut import Cut
from foveate.errors import FoveateError, PlanError, SignalError
from foveate.fields import TOWER, check_reads
from foveate.hf.checks import has_windows
from foveate.hf.families.base import Family
from foveate.hf.listen import KERNELS
from foveate.hf.picking import RECURRENT
from foveate.plan import Plan
from foveate.selection import Attention

WHY = {
    "tower": "its vision tower is not known: a family of its own would tell",
    "cls": "its vision tower has no [CLS]",
    "positions": "it is not known what its decoder makes of renumbered positions",
    "tiles": "an image is encoded as tiles, and how many make one is not told there",
    "shared": "these layers use keys of earlier ones, and get the last token alone",
    "attends not": "these layers have no attention",
    "rotary": "its layers do not show queries and keys before rotation",
    "keys": "its layers do not show their keys before rotation",
    "kernel": "its attention can be heard under sdpa and eager alone",
    "between": "its tokens are not the rows of its tower, one by one",
    "bias": "it is not known what its decoder adds to attention",
}
"""Rule -> why a model refuses what others do."""


def _by(rule: str, error: FoveateError) -> FoveateError:
    error.rule = rule
    return error


def check_plan(plan: Plan, family: Family, base: Any, lm: Any) -> None:
    """Refuse a plan that can never apply to this model.

    Args:
        plan: the plan.
        family: the model's.
        base: the module that joins tower and language model; its config is looked at.
        lm: the language model; its config and its layers' number are.

    Raises:
        PlanError: attention of a layer before the first.
        SignalError: a signal that this model or this cut cannot give.
    """
    if family.by_runs:
        _check_unknown(plan, family)
    if plan.positions == "contiguous" and not family.plain(lm):
        raise _by("positions", PlanError(
            f'positions="contiguous" needs to know what a {lm.config.model_type} makes of positions; leave it out, or '
            'say "original"'
        ))  # fmt: skip
    for cut in plan.cuts:
        who, reads = type(cut.select).__name__, frozenset(cut.select.reads)
        if "relevance_BN" in reads and not getattr(cut.select, "text_tower", None):
            raise SignalError(
                f"{who} reads relevance_BN, the image-text similarity of a joint space, but {family.model_type} comes "
                "without a text tower and the selector names none in `text_tower`; use a method that reads text_BTD or "
                "text_attn_BN"
            )
        if "cls_cos_BN" in reads and not family.has_cls(base):
            raise _by("cls", SignalError(
                f"{who} reads cls_cos_BN, the cosine to [CLS], but this vision tower has no [CLS]; use a method that "
                'reads cls_attn_BN, which is the attention received here (sms: score="attention")'
            ))  # fmt: skip
        check_reads(cut)
        if cut.between is not None:
            _check_between(plan, cut, family, base)
        if cut.sized:
            _check_bias(family, lm)
        if cut.at == "encoder" and family.joins_units and isinstance(cut.keep, int):
            raise _by("tiles", PlanError(
                f"keep={cut.keep} tokens at the encoder, but {family.model_type} encodes an image as tiles and cannot "
                'tell how many make one; give a fraction, or cut at "input"'
            ))  # fmt: skip
        first = getattr(lm, "first_kv_shared_layer_idx", len(lm.layers))
        if isinstance(cut.at, int) and first < len(lm.layers) and cut.at >= first:
            raise _by("shared", PlanError(
                f"a cut at layer {cut.at}, but from layer {first} on this model sends the last token alone through its "
                f"layers, which have no keys of their own; cut before layer {first}"
            ))  # fmt: skip
        if reads & {"text_attn_BN", "text_rows_BRN", "prior_attn_BN"}:
            _check_attention(cut.at, cut.select, lm, reads_projections(family, lm) and not plan.sized)
        if reads & {"key_norm_BN", "text_norm_BT"}:
            if not isinstance(cut.at, int) or cut.at == 0:
                raise PlanError(f"{who} reads the keys of the layer before layer 0; cut at 1 or later")
            if not reads_projections(family, lm):
                raise _by("keys", SignalError(
                    f"{who} reads key_norm_BN, but this model's layers do not show their keys; use a method that reads "
                    "hidden_BND or text_attn_BN"
                ))  # fmt: skip


def reads_projections(family: Family, lm: Any) -> bool:
    """Whether decoder attention is read from projections; else layers are listened to."""
    return family.plain(lm) and not has_windows(lm.config)


def _check_bias(family: Family, lm: Any) -> None:
    """Refuse log-size attention where it cannot be added."""
    if not family.plain(lm):
        raise _by("bias", PlanError(
            f"sized(...) adds the sizes of merged tokens to attention, and what the layers of a {lm.config.model_type} "
            "attend to is not known well enough for that; leave sized(...) out of the plan"
        ))  # fmt: skip
    if (kernel := lm.config._attn_implementation) not in KERNELS:
        raise _by("kernel", PlanError(
            f"sized(...) adds the sizes of merged tokens to attention as a mask of floats, which {kernel!r} does not "
            f"take; load the model with attn_implementation={KERNELS[0]!r}, or leave sized(...) out of the plan"
        ))  # fmt: skip


def _check_between(plan: Plan, cut: Cut, family: Family, base: Any) -> None:
    """Refuse merging between the tower's layers where its rows are not the tokens, or are looked at by others."""
    who = f"{type(cut.select).__name__} merges tokens between the tower's layers"
    if not family.merges_between:
        raise _by("between", PlanError(
            f"{who}, but a {family.model_type} makes its tokens of windows, tiles or cells of patches; merge behind it"
        ))  # fmt: skip
    if seen := plan.reads & frozenset(TOWER):
        raise SignalError(
            f"{who}, and so nobody can read {', '.join(sorted(seen))} of the tokens that it had; leave one of both out"
        )
    kernel = getattr(base.config.vision_config, "_attn_implementation", None) or KERNELS[0]
    if cut.between is not None and cut.between.proportional and kernel not in KERNELS:
        raise PlanError(
            f"{who} and adds the logarithm of their sizes to its attention, which {kernel!r} does not take; load the "
            f"model with attn_implementation={KERNELS[0]!r}, or say proportional=False"
        )


def _check_unknown(plan: Plan, family: Family) -> None:
    """Refuse what needs a family of the model's own."""
    for cut in plan.cuts:
        who, reads = type(cut.select).__name__, frozenset(cut.select.reads)
        if missing := reads & {*TOWER, "grid", "relevance_BN"} or cut.at == "encoder":
            what = 'a cut at "encoder"' if missing is True else f"{who}, which reads {', '.join(sorted(missing))},"
            raise _by("tower", SignalError(
                f"{what} needs to know the vision tower of {family.model_type}, which has no family of its own; cut at "
                '"input" or at a layer, with a method that reads hidden_BND, text_BTD or text_attn_BN'
            ))  # fmt: skip


def _check_attention(at: Any, select: Any, lm: Any, projections: bool) -> None:
    who, config = type(select).__name__, lm.config
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
    if not projections and not asked.rotary:
        raise _by("rotary", SignalError(
            f"{who} reads attention without rotation, but the layers of a {config.model_type} do not show queries "
            "and keys before rotation; use another method"
        ))  # fmt: skip
    kinds, i = getattr(config, "layer_types", None), at if asked.layer == "own" else at - 1
    if kinds and i < len(kinds) and kinds[i] in RECURRENT:
        others = ", ".join(str(n) for n, kind in enumerate(kinds) if kind not in RECURRENT)
        raise _by("attends not", SignalError(
            f"{who} reads the attention of layer {i}, which is of type {kinds[i]!r} and has none; layers that attend: "
            f"{others}"
        ))  # fmt: skip
    if not projections and config._attn_implementation not in KERNELS:
        raise _by("kernel", SignalError(
            f"{who} reads LLM attention, which a {config.model_type} shows under {' and '.join(map(repr, KERNELS))} "
            f"only, not under {config._attn_implementation!r}; load the model with one of these, or use a method that "
            "does not read text_attn_BN"
        ))  # fmt: skip


def check_counts(plan: Plan, tokens: list[int]) -> None:
    """Before anything is encoded: can every cut keep what it says of images this large?

    Raises:
        PlanError: a keep larger than the image, or keeps that grow.
    """
    for n in sorted(set(tokens)):
        before: tuple[int, Any] | None = None
        for cut in plan.cuts:
            if cut.over != "visual" or cut.per == "prompt":
                continue
            k = cut.count(n)
            if before is not None and k > before[0]:
                raise PlanError(
                    f"keep grows from {before[0]} at {before[1]!r} to {k} at {cut.at!r} for an image of {n} tokens; "
                    "dropped tokens cannot return"
                )
            before = k, cut.at


def check_shares(plan: Plan, tokens: list[int]) -> None:
    """As `check_counts`, for plans that count by prompt, on the images of one.

    Raises:
        PlanError: a total too small for its images, or keeps that grow.
    """
    cuts = [cut for cut in plan.cuts if cut.over == "visual"]
    if not any(cut.per == "prompt" for cut in cuts):
        return
    for a, b in pairwise(cuts):
        if grown := [i for i, (x, y) in enumerate(zip(a.counts(tokens), b.counts(tokens), strict=True)) if y > x]:
            raise PlanError(
                f"keep grows from {a.keep} at {a.at!r} to {b.keep} at {b.at!r} for image {grown[0]} of a prompt; "
                "dropped tokens cannot return"
            )
