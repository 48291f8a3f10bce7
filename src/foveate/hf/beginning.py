"""A call of the base model, before anything heavy runs: what was asked, and what cannot be cut."""

from typing import Any

from torch import Tensor

from foveate.errors import ModelError
from foveate.hf.cache import check_cache, given, length
from foveate.hf.calls import SIZES, named, stand_in_ids
from foveate.hf.checks import MARK, check_kernel, check_mask, check_rows
from foveate.hf.embedded import Embedded
from foveate.hf.encodings import Encoding
from foveate.hf.guesses import guessed
from foveate.hf.locating import placeholders, runs
from foveate.hf.plan_checks import check_counts
from foveate.hf.run import Run
from foveate.ops.host import read

PIXELS = ("pixel_values", "image_patches")
"""How arguments that bring pictures begin."""


def begin(attached: Any, base: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse what cannot be cut, before anything heavy runs, and note what was asked."""
    attached.doubts.judge(wait=False)
    run = attached.local.run = Run(doubts=attached.doubts)
    kwargs = named(base, args, kwargs) if args else kwargs
    check_cache(given(kwargs))
    check_mask(kwargs.get("attention_mask"))
    ids = kwargs.get("input_ids")
    embeds = kwargs.get("inputs_embeds")
    encoded = kwargs.get("mm_encoder_outputs") or {}
    raw = False
    for name, value in kwargs.items():
        raw = raw or (value is not None and name.startswith(PIXELS))
    if ids is None and embeds is not None:
        told: Embedded | None = getattr(attached.local, "embedded", None)
        if not raw and not encoded and told is None and length(given(kwargs)) == 0:
            raise ModelError(
                "inputs_embeds alone do not say which tokens are visual; pass input_ids and pixel_values, say where "
                "they are (with attached.embedded(mask): ...), or detach first"
            )
        ids = stand_in_ids(attached.family, base, embeds, attached.special) if raw or encoded or told else None
        if told is not None and ids is not None and not raw and not encoded:
            check_counts(attached.plan, [n for _, _, n, _ in told.images])
            run.given, visual = told.in_batch(embeds)
            ids = ids.masked_fill(visual, attached.family.token_id(base.config, "image") or 0)
    run.mask = kwargs.get("attention_mask")
    if ids is not None:
        run.guesses = guessed(attached.local)
        if not (raw or encoded or run.given) and ids.shape[1] == 1:
            # A decoded token: of what is asked about prompts nothing is asked.
            return
    run.pictures = raw or bool(run.given) or any(v is not None for v in encoded.values())
    places = kwargs.get("position_ids")
    if ids is not None and (ids.shape[1] > 1 or run.pictures):
        # The one time that a device is waited for: all that the host has to know of a prompt.
        sizes = [v for k, v in kwargs.items() if k.endswith(SIZES) and isinstance(v, Tensor)]
        first = None if places is None else places[0] if places.ndim == 3 else places
        run.ids, run.real, places, *here = read(ids, run.mask, first, *sizes)
        run.told = [(v, copy) for v, copy in zip(sizes, here, strict=True) if copy is not None]
        run.real = None if run.real is None else run.real.bool()
    ids = run.ids
    if raw and ids is not None and attached.family.joins_units:
        check_counts(attached.plan, runs(visual_of(attached, ids)))
    # What a source of guesses copied out of the prompt is no image.
    own = None if ids is None else ids[:, : ids.shape[1] - run.guesses]
    if own is not None and own.shape[1] > 1 and not run.pictures and bool((visual := visual_of(attached, own)).any()):
        raise ModelError(
            f"{int(visual.sum())} image placeholders in input_ids, but no pixel_values with them; pass both in "
            "one call; leave prefill_chunk_size unset (chunked prefill parts them), and attach no plan to an "
            "assistant model (it is given no images)"
        )
    if ids is not None and run.pictures and attached.plan.cuts:
        check_kernel(attached.lm.config)
        check_rows(kwargs, run.real, places, ids.shape[1], bool(getattr(attached.local, "last_only", False)))
    for kind, output in encoded.items():
        if output is None or attached.family.by_runs:
            continue
        encoding = getattr(output, MARK, None)
        if not isinstance(encoding, Encoding) or encoding.owner is not attached:
            encoding = attached.pending.get(kind)
        if encoding is None or not encoding.made(output):
            raise ModelError(
                f"the pre-encoded {kind} features were not made by this attachment: encode them while it is "
                "attached, and leave prefill_chunk_size unset (chunked prefill cuts prompts where images are)"
            )
        run.encoded[kind] = encoding.images
        run.seconds += encoding.seconds


def end(attached: Any, _base: Any, _args: Any, _output: Any) -> None:
    """Forget the call, but for what the loss has to know."""
    local = attached.local
    run, local.run = getattr(local, "run", None), None
    local.dropped = run.dropped if run else None


def visual_of(attached: Any, ids: Tensor) -> Tensor:
    """Placeholders of either kind."""
    config = attached.base.config
    return placeholders(ids, attached.family.token_id(config, "image")) | placeholders(
        ids, attached.family.token_id(config, "video")
    )
