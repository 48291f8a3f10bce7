"""One pass of the language model: the cuts at its input and before its layers, and what it gives back."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer

from foveate.cut import Cut
from foveate.errors import ModelError
from foveate.hf.accounting import account
from foveate.hf.beginning import visual_of
from foveate.hf.cache import NAMES, check_cache, first_cut, given, left, length, widen
from foveate.hf.calls import named
from foveate.hf.cutting import Cutting
from foveate.hf.follow import light, settle
from foveate.hf.layers import Layers
from foveate.hf.locating import runs
from foveate.hf.placing import prompt_of
from foveate.hf.raters import rater_attention
from foveate.hf.restore import restore
from foveate.hf.run import Run
from foveate.hf.segment import Segment
from foveate.hf.step import Step
from foveate.hf.taps import key_norms
from foveate.selection import Attention

HOOKS_INSIDE = "__call__" in GradientCheckpointingLayer.__dict__
"""Whether checkpointing wraps a layer's call, hooks included, as it did at first, and not its forward."""


def lm_in(attached: Any, lm: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """The language model's pre-hook: what it is told, where something is cut or was."""
    run = getattr(attached.local, "run", None)
    kwargs = named(lm, args, kwargs) if args else kwargs
    cache = given(kwargs)
    if run is None:
        check_cache(cache)
    kept = first_cut(cache)
    images = run is not None and _has_images(attached, run) and bool(attached.plan.cuts)
    if not images and kept is None and length(cache) == 0:
        attached.report = None
    embeds = kwargs.get("inputs_embeds")
    if run is None and attached.family.by_runs and attached.plan.cuts and not length(cache) and embeds is not None:
        raise ModelError(
            f"{type(attached.model).__name__} calls its language model by itself here, where nobody sees which tokens "
            "are visual; call forward, or detach first"
        )
    if kept is None and not images:
        attached.hooks.listen(None)
        return None
    easy = not images and attached.plain and not attached.windows
    if run is None:
        # The language model was called by itself, on a cache that was cut.
        run = attached.local.run = Run(alone=True)
    if easy and kept is not None and (new := light(kept, kwargs, lm.config, run)) is not None:
        attached.hooks.listen(None)
        return ((), kwargs | new) if new else None
    attached.hooks.listen(run)
    if lm.training and getattr(lm, "gradient_checkpointing", False):
        if attached.layer_cuts:
            raise ModelError(
                "gradient checkpointing runs decoder layers twice, and cuts inside the LLM cannot follow; call "
                "model.gradient_checkpointing_disable(), or cut at the input alone"
            )
        if HOOKS_INSIDE:
            raise ModelError(
                "gradient checkpointing of this transformers runs the layers' hooks twice, and cuts cannot follow; "
                "update transformers (5.24 was tested), or call model.gradient_checkpointing_disable()"
            )
    kwargs = dict(kwargs)
    if images and attached.windows and run.ids is not None and _drops(attached, run.ids):
        use = kwargs.get("use_cache")
        if cache is None and (getattr(lm.config, "use_cache", True) if use is None else use):
            cache = DynamicCache(config=lm.config)
            kwargs[next(n for n in NAMES if n in inspect.signature(lm.forward).parameters)] = cache
        if cache is not None:
            widen(cache)
    # Some base models make masks of several kinds out of the padding mask, before the language model sees it.
    told = kwargs if run.alone else kwargs | {"attention_mask": run.mask}
    if embeds is None:
        # The model makes its embeddings itself: its first layer shows them.
        run.late = functools.partial(_start, attached, run, told, images)
        return None
    step = _start(attached, run, told, images, embeds)
    return (), kwargs | step.moved()


def _start(attached: Any, run: Run, kwargs: dict[str, Any], images: bool, embeds: Tensor) -> Step:
    """Make the cuts at the input, on what the language model is given."""
    told = kwargs | {"inputs_embeds": embeds}
    step = run.step = Step(attached.family, attached.lm, told, attached.contiguous, None if run.alone else run.real)
    run.layers = Layers(step)
    if images:
        cutting = run.cutting = Cutting(step, prompt_of(attached, run, step), run.doubts)
        cutting.towers, cutting.ids_BL = attached.towers, None if run.given else run.ids
        cutting.words = attached.words
        step.distance = any(getattr(cut.select, "distance", False) for cut in attached.plan.cuts)
        hidden = cutting.begin(step.embeds, attached.encoder_cut)
        for cut in attached.input_cuts:
            hidden = cutting.cut(cut, hidden, None)
        step.base = step.segment
    return step


def _dropped(segment: Segment, length: int) -> Tensor:
    """Which places of the input a segment has not, [B, L]."""
    index = segment.index_BM
    assert index is not None
    there = torch.zeros(index.shape[0], length + 1, dtype=torch.bool, device=index.device)
    return ~there.scatter_(1, torch.where(index < 0, length, index), True)[:, :-1]


def _has_images(attached: Any, run: Run) -> bool:
    if run.given:
        return True
    if run.ids is None or not attached.family.by_runs:
        return run.ids is not None and bool(run.encoded)
    return run.pictures and bool(visual_of(attached, run.ids).any())


def _drops(attached: Any, ids: Tensor) -> bool:
    """Whether some cut may drop something of some image."""
    counts = runs(visual_of(attached, ids))
    shared = any(cut.over == "prompt" or cut.per == "prompt" for cut in attached.plan.cuts)
    return shared or any(cut.count(n) < n for cut in attached.plan.cuts for n in counts)


def layer_in(attached: Any, number: int, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A decoder layer's pre-hook: its cut, and what it is told of what is left."""
    run = attached.run
    if run is not None and run.late is not None:
        start, run.late = run.late, None
        start(args[0] if args else kwargs["hidden_states"])
    if run is None or run.step is None or run.layers is None:
        return None
    step, layers, cutting = run.step, run.layers, run.cutting
    names = attached.names[number][: len(args)]
    told = dict(zip(names, args, strict=True)) | kwargs
    hidden = told["hidden_states"]
    if not step.of_layer:
        hidden = step.first(hidden)
    elif not attached.plain:
        hidden = step.short(hidden)
    cut = attached.layer_cuts.get(number)
    if cut is not None and cutting is not None:
        hidden = _cut_layer(attached, layers, cutting, cut, number, told | {"hidden_states": hidden})
    told["hidden_states"] = hidden
    layers.enter(number + told.get("cache_offset", 0), hidden, told, layer)
    if number + 1 in attached.layer_cuts and cutting is not None:
        cutting.previous = dict(told)
    return tuple(told.pop(n) for n in names), told


def deepstack(attached: Any, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Qwen3-VL adds tower features between layers: to the tokens that are still there."""

    @functools.wraps(original)
    def add(hidden: Tensor, visual_pos_masks: Tensor, visual_embeds: Tensor) -> Tensor:
        run = attached.run
        if run is not None and run.step is not None and attached.plain:
            visual_pos_masks, visual_embeds = run.step.deepstack(hidden, visual_pos_masks, visual_embeds)
        return original(hidden, visual_pos_masks, visual_embeds)

    return add


def _cut_layer(attached: Any, layers: Layers, cutting: Cutting, cut: Cut, number: int, told: dict[str, Any]) -> Tensor:
    hidden, previous = told["hidden_states"], cutting.previous

    def attention(asked: Attention, apart: bool = False) -> Tensor:
        i, of = (number, told) if asked.layer == "own" else (number - 1, previous or {})
        layer, cached = attached.lm.layers[i], i + of.get("cache_offset", 0)
        if asked.layer == "own":
            of = layers.peek(cached, hidden, of, layer)
        return rater_attention(cutting.step, cutting.prompt, asked, cached, layer, of, attached.projections, apart)

    def norms() -> Tensor:
        return key_norms(attached.lm.layers[number - 1], (previous or {})["hidden_states"])

    return cutting.cut(cut, hidden, attention, norms)


def layer_out(attached: Any, _layer: Any, _args: Any, output: Any) -> Any:
    """A decoder layer's post-hook: states at full length, for what the model does between its layers."""
    run = attached.run
    if run is None or run.step is None or run.step.segment.index_BM is None:
        return None
    if isinstance(output, tuple):
        return (run.step.long(output[0]), *output[1:])
    return run.step.long(output)


def lm_out(attached: Any, _lm: Any, _args: Any, output: Any) -> Any:
    """The language model's post-hook: the cache is told what it holds, and states get their places back."""
    run = getattr(attached.local, "run", None)
    if run is None:
        return None
    if run.alone:
        attached.local.run = None
    if run.step is None:
        return None
    step, run.step = run.step, None
    attached.hooks.listening.discard(run)
    cut = any(s.index_BM is not None for s in step.of_layer)
    cache = left(output) if not isinstance(output, tuple) else step.cache
    if cut and cache is not None:
        step.remember(cache)
        settle(cache, lambda: step.mask_BT, step.mask is not None and step.padded)
    if run.cutting is not None:
        run.dropped = functools.partial(_dropped, step.segment, step.l) if cut else None
        run.doubts.send()
        attached.report = account(step, run.cutting.prompt, cache, run.seconds)
    maps = not isinstance(output, tuple) and output.get("attentions") is not None
    return restore(step, output, attached.plain) if cut or maps else None
