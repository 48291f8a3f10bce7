"""Does cutting work on this language model? Nine tokens, three of them cut away: held against never sending them.

A net and not a proof: it sees the language model alone, one prompt, and a cut at the input. It costs three passes of
these tokens, once for each model object.
"""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from foveate.cut import Cut
from foveate.errors import ModelError
from foveate.geometry.base import Kind, Unit
from foveate.hf.prompt import Encoded
from foveate.hf.run import Run
from foveate.plan import Plan
from foveate.selection import Block, Selection, TokenView

LENGTH, FIRST, LAST = 9, 1, 7
"""Tokens, and those of them that are an image's; few, so that no window is shorter."""
ROUNDING = {torch.float32: 2e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far states may be apart by rounding, relative to their size."""
_DONE: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


class EverySecond:
    """Keeps every second token."""

    reads = frozenset({"hidden_BND"})
    adaptive = False

    def __call__(self, view: TokenView, k: int) -> Selection:
        """The first k of them."""
        b, n = view.shape
        return Selection.of(torch.arange(0, n, 2, device=view.device)[:k].expand(b, -1), n)


def probe(model: nn.Module, make: Callable[[nn.Module, Plan], Any]) -> float | None:
    """The largest difference between tokens cut away and tokens never sent (or hidden), relative to the states.

    Args:
        model: nothing is attached to it.
        make: attaches a plan to it.

    Returns:
        The difference; None where it would tell nothing: the model was probed before, trains, takes no bare embeddings,
        or counts distances off lengths.

    Raises:
        ModelError: it is too large to be rounding.
    """
    attachment = make(model, Plan((Cut("input", EverySecond(), 0.5),), "original"))
    attachment.detach()
    lm, family, base = attachment.lm, attachment.family, attachment.base
    done = _DONE.setdefault(lm, set())
    kernel = lm.config._attn_implementation
    if kernel in done or lm.training or lm is base or not family.probed:
        return None
    table = base.get_input_embeddings()
    device = "cpu" if table.weight.is_meta else table.weight.device
    # Real tokens: some models look up from an embedding which one it was.
    words = torch.randperm(min(table.weight.shape[0], 64), generator=torch.Generator().manual_seed(0))[:LENGTH]
    kind: Kind = "video" if family.token_id(base.config, "image") is None else "image"
    ids = torch.full((1, LENGTH), -1, device=device)
    ids[:, FIRST:LAST] = family.token_id(base.config, kind)
    kept = torch.ones(LENGTH, dtype=torch.bool, device=device)
    kept[FIRST + 1 : LAST : 2] = False
    at = torch.arange(LENGTH, device=device)[None]
    with torch.no_grad():
        embeds = table(words[None].to(device))
        try:
            never = _states(lm, embeds[:, kept], at[:, kept], kept[kept], kept[kept])
            hidden = _states(lm, embeds, at, kept, kept)
        except Exception:  # a stock model that does not take this says so in its own way
            return None
        attachment = make(model, attachment.plan)
        run = attachment.local.run = Run()
        run.ids, run.pictures = ids.cpu(), True
        run.encoded = {kind: [Encoded(Unit(kind, LAST - FIRST, (Block(0, 1, LAST - FIRST),)))]}
        try:
            got = _states(lm, embeds, at, torch.ones_like(kept), kept)
        finally:
            attachment.local.run = None
            attachment.detach()
    limit = ROUNDING.get(embeds.dtype, 1e-1)
    off = [_apart(got, want) for want in (never, hidden)]
    if min(o[-1] for o in off) > limit:
        first = max(next(i for i, x in enumerate(o) if x > limit) for o in off)
        least = min(o[-1] for o in off)
        where = f"layer {first}, a {type(lm.layers[first]).__name__}" if first < len(lm.layers) else "the last norm"
        raise ModelError(
            f"cutting tokens from this {family.model_type} is neither like hiding them nor like never sending them: "
            f"states are off by {least:.2g} of their size, and {where}, is the first to differ. It computes "
            "something from places or lengths that nobody sees, and needs a family of its own (docs/models.md); "
            "probe=False attaches all the same"
        )
    done.add(kernel)
    return min(o[-1] for o in off)


def _states(lm: Any, embeds: Tensor, at: Tensor, mask: Tensor, kept: Tensor) -> list[Tensor]:
    """What each layer and the whole model make of the kept tokens."""
    seen: list[Tensor] = []

    def short(out: Any) -> Tensor:
        x = out[0] if isinstance(out, tuple) else out
        # Of several streams a token, all.
        dim = next(d for d in range(1, x.ndim) if x.shape[d] in (len(kept), int(kept.sum())))
        return (x.index_select(dim, kept.nonzero().flatten()) if x.shape[dim] == len(kept) else x).float()

    hooks = [x.register_forward_hook(lambda _layer, _args, out: seen.append(short(out))) for x in lm.layers]
    try:
        # A mask, lest places with gaps look like packed sequences.
        out = lm(inputs_embeds=embeds, position_ids=at, attention_mask=mask[None].long(), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return [*seen, short(out["last_hidden_state"])]


def _apart(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[float]:
    return [float((x - y).norm() / y.norm().clamp(min=1e-9)) for x, y in zip(a, b, strict=True)]
