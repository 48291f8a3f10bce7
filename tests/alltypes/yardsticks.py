"""What a pruned run is held against: the stock model that masks what was dropped, or that never got it."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import AttentionInterface

from foveate.families import family
from foveate.hf.cache import NAMES
from masked import places

SEEN: dict[int, torch.Tensor] = {}
"""Layer -> [B, prompt length] bool: which prompt keys it may see."""
TOTAL = [0]
"""How many positions there are, those of the pass at hand included."""


def holes(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: Any = None, softcap: Any = None,
    s_aux: Any = None, **_: Any,
) -> Any:  # fmt: skip
    """Eager attention that does not see what SEEN says, whatever else its mask says."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    score = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap:
        score = torch.tanh(score / softcap) * softcap
    if attention_mask is not None:
        score = score + attention_mask[..., : key.shape[2]]
    tower = "Vision" in type(module).__name__ and not getattr(module, "is_causal", False)
    seen = None if tower else SEEN.get(getattr(module, "layer_idx", -1))
    if seen is not None and query.shape[0] == seen.shape[0]:
        k, q = key.shape[2], query.shape[2]
        # A sliding cache holds the last positions only.
        at, mine = torch.arange(TOTAL[0] - k, TOTAL[0]), torch.arange(TOTAL[0] - q, TOTAL[0])
        inside = (at >= 0) & (at < seen.shape[1])
        hidden = torch.zeros(seen.shape[0], k, dtype=torch.bool)
        hidden[:, inside] = ~seen[:, at[inside]]
        # A token always sees itself: rows of dropped tokens must stay finite, and nobody reads them.
        away = hidden[:, None, None, :] & ~(at[None] == mine[:, None])
        score = score.masked_fill(away, torch.finfo(score.dtype).min)
    if s_aux is not None:
        sink = s_aux.reshape(1, -1, 1, 1).expand(score.shape[0], -1, score.shape[2], -1)
        share = torch.cat((score, sink), -1).softmax(-1)[..., :-1]
    else:
        share = score.softmax(-1)
    return (share @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register("holes", holes)
AttentionMaskInterface.register("holes", eager_mask)


def decoder(model: Any) -> Any:
    return family(model).language_model(model)


def alive(report: Any, inputs: dict[str, torch.Tensor], image: int, layer: int | None = None) -> torch.Tensor:
    """[B, L] bool: what is there in a layer, or at the end."""
    real, where = inputs["attention_mask"].bool().clone(), places(inputs, image)
    for picture in report.images:
        left = torch.arange(picture.tokens)
        for cut in picture.cuts:
            if layer is None or not isinstance(cut.at, int) or cut.at <= layer:
                left = torch.tensor(cut.kept, dtype=torch.long)
        spots = where[picture.row, picture.image]
        real[picture.row, spots] = False
        real[picture.row, spots[left]] = True
    return real


@contextmanager
def masked(model: Any, report: Any, inputs: dict[str, torch.Tensor], image: int) -> Iterator[None]:
    """The stock model (under "holes") blind to what `report` says was dropped, layer by layer."""
    lm = decoder(model)

    def note(_lm: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        cache = next((kwargs[n] for n in NAMES if kwargs.get(n) is not None), None)
        given = kwargs["input_ids"] if kwargs.get("inputs_embeds") is None else kwargs["inputs_embeds"]
        TOTAL[0] = (cache.get_seq_length() if cache is not None else 0) + given.shape[1]

    handle = lm.register_forward_pre_hook(note, with_kwargs=True)
    padding = ~inputs["attention_mask"].bool()
    for layer in range(len(lm.layers)):
        SEEN[layer] = alive(report, inputs, image, layer) | padding
    try:
        yield
    finally:
        SEEN.clear()
        handle.remove()


@contextmanager
def overheard(lm: Any) -> Iterator[tuple[list[dict[str, Any]], list[torch.Tensor]]]:
    """What the language model is called with, before anybody changes it, and the states it gives back."""
    calls: list[dict[str, Any]] = []
    states: list[torch.Tensor] = []
    names = [n for n in inspect.signature(type(lm).forward).parameters if n != "self"]
    handles = [
        lm.register_forward_pre_hook(
            lambda _lm, args, kwargs: calls.append(dict(zip(names, args, strict=False)) | kwargs),
            with_kwargs=True, prepend=True,
        ),
        lm.register_forward_hook(lambda _lm, _args, out: states.append(out[0])),
    ]  # fmt: skip
    try:
        yield calls, states
    finally:
        for handle in handles:
            handle.remove()


def never_sent(model: Any, calls: list[dict[str, Any]], told: torch.Tensor, here: torch.Tensor, visual: torch.Tensor
) -> list[torch.Tensor]:  # fmt: skip
    """The stock language model's states on one prompt's kept tokens alone, at their own positions, then step by step.

    Args:
        model: the model, detached.
        calls: what its language model was called with when nothing was cut.
        told: the answer's tokens so far, one a step.
        here: [L] bool, the kept tokens.
        visual: [L] bool, placeholders.
    """
    lm, length = decoder(model), len(here)
    name = next(n for n in NAMES if n in inspect.signature(lm.forward).parameters)
    cache = DynamicCache(config=lm.config)
    first = calls[0]
    at = first.get("position_ids")
    at = torch.arange(length)[None] if at is None else at
    rest = kept_of(first, here, visual)
    with distances(lm, here):
        out = lm(inputs_embeds=first["inputs_embeds"][:, here], position_ids=at[..., here], **rest, **{name: cache})
    states = [out["last_hidden_state"][0]]
    for t, call in enumerate(calls[1:], 1):
        at = call.get("position_ids")
        at = torch.tensor([[length + t - 1]]) if at is None else at
        rest = {n: v for n, v in call.items() if n not in MADE and n != "per_layer_inputs"}
        embeds = model.get_input_embeddings()(told[None, t - 1 : t])
        with distances(lm, torch.cat((here, torch.ones(t, dtype=torch.bool)))):
            out = lm(inputs_embeds=embeds, position_ids=at, **rest, **{name: cache})
        states.append(out["last_hidden_state"][0])
    return states


MADE = {*NAMES, "attention_mask", "inputs_embeds", "position_ids", "input_ids", "logits_to_keep"}
"""Arguments of a language model that are made anew for fewer tokens."""


def kept_of(call: dict[str, Any], here: torch.Tensor, visual: torch.Tensor) -> dict[str, Any]:
    """All other arguments of a call, without the rows of what was not sent."""
    return {n: _kept(v, here, visual) for n, v in call.items() if n not in MADE}


def _kept(value: Any, here: torch.Tensor, visual: torch.Tensor) -> Any:
    """An argument without the rows of what was not sent."""
    if isinstance(value, torch.Tensor) and value.ndim >= 2 and value.shape[1] == len(here):
        return value[:, here]
    planes = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    if planes and all(isinstance(p, torch.Tensor) and p.shape[0] == int(visual.sum()) for p in planes):
        short = [p[here[visual]] for p in planes]
        return dict(zip(value, short, strict=True)) if isinstance(value, dict) else short
    return value


def distances(lm: Any, here: torch.Tensor) -> Any:
    """Inkling counts distance off lengths: told right, for the time of a call."""
    module, at = inspect.getmodule(type(lm)), here.nonzero().flatten()
    if hasattr(module, "get_relative_distance"):

        def told(inputs_embeds: Any, *_: Any, **__: Any) -> Any:
            return (at[:, None] - at[None])[-inputs_embeds.shape[1] :]

        return patch.object(module, "get_relative_distance", told)
    if hasattr(module, "InklingRelativeLogits"):
        kind = module.InklingRelativeLogits
        old = kind.forward
        return patch.object(kind, "forward", lambda self, states, q, k: old(self, states, at[-len(q.flatten()) :], at))
    return nullcontext()
