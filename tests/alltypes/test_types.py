"""The laws, over every type of image and text that transformers knows: `make test-zoo`; ten of them in `make test`."""

import inspect
import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import transformers
from torch.testing import assert_close
from transformers.cache_utils import DynamicCache
from typer.testing import CliRunner

from alltypes import yardsticks
from alltypes.known import SAMPLE
from alltypes.prompts import batch, mixed, single
from alltypes.tiny import TYPES, VARIANTS, build, empty
from foveate import Attention, Cut, FoveateError, Plan, PlanError, Selection, attach
from foveate.cli import app
from foveate.fields import ENCODER_FIELDS, LAYER_FIELDS
from foveate.hf.cache import NAMES as NAMES_OF_CACHES
from foveate.hf.cut_layers import is_recurrent
from foveate.hf.families import family
from foveate.hf.families.known import FAULTS, UNSUPPORTED
from foveate.hf.refusals import refusals
from foveate.methods.fastv import TextAttention
from zoo import NAMES as LAWS

STEPS = 4
EVERY = bool(os.environ.get("FOVEATE_ZOO"))
CUT = [t for t in TYPES if t not in UNSUPPORTED and t not in LAWS]
"""The others have laws of their own, in tests/laws."""
NAMES = [*CUT, *VARIANTS] if EVERY else [t for t in SAMPLE if t in TYPES or t in VARIANTS]
CLOSE = {"rtol": 2e-4, "atol": 2e-4}


@dataclass(frozen=True)
class Along:
    """The tokens whose states lie furthest along a fixed direction: any type, any place."""

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND"})
    adaptive: ClassVar[bool] = False

    def __call__(self, view: Any, k: int) -> Selection:
        hidden = view.need("hidden_BND").float()
        return Selection.top(hidden @ torch.randn(hidden.shape[-1], generator=torch.Generator().manual_seed(7)), k)


READS = TextAttention(Attention("last", "previous"))
STAGES = Plan((Cut("input", Along(), 0.7), Cut(1, Along(), 0.5), Cut(2, READS, 0.25)), "original")
ONCE = Plan((Cut("input", Along(), 0.5),), "original")
NONE_LEFT = Plan((Cut(2, Along(), 0),), "original")


@cache
def model_of(name: str) -> Any:
    return build(name)


@cache
def inputs_of(name: str) -> tuple[Any, Any]:
    rows = mixed(name, model_of(name))
    return rows, batch(name, model_of(name), rows)


@cache
def stock(name: str) -> tuple[Any, Any]:
    """The stock model's logits and its answer."""
    _, inputs = inputs_of(name)
    with torch.no_grad():
        return model_of(name)(**inputs).logits, generate(model_of(name), inputs)


def generate(model: Any, inputs: Any, **kwargs: Any) -> Any:
    return model.generate(**inputs, max_new_tokens=STEPS, do_sample=False, return_dict_in_generate=True,
                          output_logits=True, **kwargs)  # fmt: skip


def same(a: Any, b: Any) -> bool:
    return torch.equal(a.sequences, b.sequences) and all(map(torch.equal, a.logits, b.logits))


def one_by_one(name: str, plan: Plan | None) -> tuple[Any, list[Any]]:
    """A batch's answer, and its prompts' alone; of the stock model where there is no plan."""
    rows, inputs = inputs_of(name)
    model = model_of(name)
    with torch.no_grad(), attach(model, plan) if plan else nullcontext():
        return generate(model, inputs), [generate(model, batch(name, model, [row])) for row in rows]


def recurrent(name: str) -> bool:
    """Whether some layers go through the tokens one by one: nothing can be masked there."""
    layers = DynamicCache(config=yardsticks.decoder(model_of(name)).config).layers
    return any(is_recurrent(x) for x in layers) or any("LinearAttention" in type(x).__name__ for x in layers)


def test_every_type_is_known():
    """A type that transformers adds is tried; one that it takes away is forgotten."""
    listed = {*UNSUPPORTED, *FAULTS, *SAMPLE}
    assert not listed - {*TYPES, *VARIANTS}, "no longer in transformers"
    assert len(CUT) + len(LAWS) >= 75


@pytest.mark.parametrize("name", NAMES)
def test_keeping_everything_and_detaching_change_no_bit(name):
    model, (_, inputs) = model_of(name), inputs_of(name)
    logits, told = stock(name)
    everything = replace(STAGES, cuts=tuple(replace(c, keep=1.0) for c in STAGES.cuts))
    with torch.no_grad():
        with attach(model, everything):
            assert torch.equal(model(**inputs).logits, logits)
            assert same(generate(model, inputs), told)
        assert torch.equal(model(**inputs).logits, logits)


@pytest.mark.parametrize("plan", [STAGES, NONE_LEFT], ids=["stages", "none left"])
@pytest.mark.parametrize("name", NAMES)
def test_dropping_is_masking(name, plan):
    """In the prefill and in three steps after it, wherever a token is left."""
    if recurrent(name):
        pytest.skip("its layers cannot be masked: `test_dropped_is_never_sent`")
    as_masked(name, plan)


@pytest.mark.skipif(not EVERY, reason="one type")
@pytest.mark.parametrize("layer", [4, 5])
def test_layers_that_see_the_keys_of_others_are_cut_like_any(layer):
    """Gemma 3n's, which get all tokens; Gemma 4 sends the last alone through them, and is refused there."""
    as_masked("gemma3n", Plan((Cut(layer, Along(), 0.4),), "original"))


def as_masked(name: str, plan: Plan) -> None:
    """What is dropped might as well have been masked, in the prefill and while decoding."""
    model, (_, inputs) = model_of(name), inputs_of(name)
    image = model.config.image_token_id
    with torch.no_grad(), attach(model, plan) as attached:
        logits, told, report = model(**inputs).logits, generate(model, inputs), attached.report
    assert all(i.per_layer[-1] < i.tokens for i in report.images)
    here, blind = yardsticks.alive(report, inputs, image), build(name, "holes")
    with torch.no_grad(), yardsticks.masked(blind, report, inputs, image):
        want, want_told = blind(**inputs).logits, generate(blind, inputs)
    assert_close(logits[here], want[here], **CLOSE)
    for a, b in zip(told.logits, want_told.logits, strict=True):
        assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_dropped_is_never_sent(name):
    """Where layers go through tokens one by one, what is dropped might as well not have been there."""
    if not recurrent(name):
        pytest.skip("its layers can be masked: `test_dropping_is_masking`")
    model = build(name, wide=True)
    lm, inputs = yardsticks.decoder(model), single(name, model)
    image, length = model.config.image_token_id, inputs["input_ids"].shape[1]
    with torch.no_grad():
        with yardsticks.overheard(lm) as (calls, _):
            generate(model, inputs)
        with attach(model, ONCE) as attached, yardsticks.overheard(lm) as (_, states):
            told, report = generate(model, inputs), attached.report
        here = yardsticks.alive(report, inputs, image)[0]
        want = yardsticks.never_sent(model, calls, told.sequences[0, length:], here, inputs["input_ids"][0] == image)
    assert_close(states[0][0][here], want[0], **CLOSE)
    for a, b in zip(states[1:], want[1:], strict=True):
        assert_close(a[0], b, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_renumbered_is_a_shorter_prompt(name):
    """Without gaps in the positions nothing tells what is left from a prompt that never had more."""
    model = build(name, wide=True)
    lm, inputs, plan = yardsticks.decoder(model), single(name, model), replace(ONCE, positions="contiguous")
    if any(r.rule == "positions" for r in refusals(family(model), family(model).base(model).config, lm)):
        with pytest.raises(PlanError, match="contiguous"):
            attach(model, plan)
        return
    with torch.no_grad():
        with attach(model, plan) as attached, yardsticks.overheard(lm) as (calls, states):
            model(**inputs)
        visual = inputs["input_ids"][0] == model.config.image_token_id
        here = yardsticks.alive(attached.report, inputs, model.config.image_token_id)[0]
        want = lm(inputs_embeds=calls[0]["inputs_embeds"][:, here], **yardsticks.kept_of(calls[0], here, visual))[0]
    assert_close(states[0][0][here], want[0], **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_prompts(name):
    told, alone = one_by_one(name, STAGES)
    if "batch" in FAULTS.get(name, {}):
        return
    width = inputs_of(name)[1]["input_ids"].shape[1]
    for r, one in enumerate(alone):
        assert torch.equal(told.sequences[r, width:], one.sequences[0, -STEPS:])
        for a, b in zip(told.logits, one.logits, strict=True):
            assert_close(a[r], b[0], **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_beams_of_a_batch_are_those_of_its_prompts(name):
    if FAULTS.get(name, {}).keys() & {"beams", "batch"}:
        pytest.skip("the stock model does not do this")
    rows, inputs = inputs_of(name)
    model = model_of(name)
    with torch.no_grad(), attach(model, STAGES):
        told = generate(model, inputs, num_beams=2)
        alone = generate(model, batch(name, model, rows[1:2]), num_beams=2)
    assert torch.equal(told.sequences[1, -STEPS:], alone.sequences[0, -STEPS:])


@pytest.mark.parametrize("name", NAMES)
def test_text_attention_is_the_models_own(name):
    """What selectors read at each layer is what the stock model's own maps say; or it is refused."""
    model = build(name, "eager")
    inputs = single(name, model)
    spots = inputs["input_ids"][0] == model.config.image_token_id
    lm = yardsticks.decoder(model)
    with torch.no_grad():
        maps = model(**inputs, output_attentions=True).attentions
        seen: dict[int, Any] = {}
        for at in range(len(lm.layers)):
            look = Look(seen, at)
            try:
                with attach(model, Plan((Cut(at, look, 0.5),))):
                    model(**inputs)
            except FoveateError:
                continue
    maps = [m for m in maps or () if m is not None]
    if len(maps) == len(lm.layers):
        pairs = [(seen[i], maps[i]) for i in seen]
    else:
        assert len(maps) == len(seen), "each layer that attends shows its attention"
        pairs = list(zip(seen.values(), maps, strict=True))
    assert pairs
    for got, want in pairs:
        assert_close(got[0], want[0].mean(0)[-1, spots], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_cache_figures_are_the_caches(name):
    """Whatever holds keys, whatever forgets them: recurrent layers, windows, shared and compressed keys."""
    model, (_, inputs) = model_of(name), inputs_of(name)
    takes = inspect.signature(type(model).forward).parameters
    slot = next((n for n in reversed(NAMES_OF_CACHES) if n in takes), "past_key_values")
    config = yardsticks.decoder(model).config
    whole, cut = DynamicCache(config=config), DynamicCache(config=config)
    with torch.no_grad():
        model(**inputs, **{slot: whole}, use_cache=True)
        with attach(model, STAGES) as attached:
            model(**inputs, **{slot: cut}, use_cache=True)
            report = attached.report
    assert (report.cache_full.entries, report.cache_full.bytes) == held(whole)
    assert (report.cache.entries, report.cache.bytes) == held(cut)


def held(cache: Any) -> tuple[int, int]:
    """Entries and bytes of a cache, counted in its tensors."""
    entries = size = 0
    for layer in cache.layers:
        if getattr(layer, "keys", None) is not None:
            entries += layer.keys.shape[0] * layer.keys.shape[-2]
            parts = (getattr(layer, part, None) for part in ("keys", "values", "indexer_keys"))
            size += sum(x.numel() * x.element_size() for x in parts if x is not None)
    return entries, size


class Look:
    """Keeps the highest, and what it was shown."""

    reads = frozenset({"text_attn_BN"})
    adaptive = False
    attention = Attention("last", "own")

    def __init__(self, seen: dict[int, Any], at: int) -> None:
        self.seen, self.at = seen, at

    def __call__(self, view: Any, k: int) -> Selection:
        self.seen[self.at] = view.need("text_attn_BN").clone()
        return Selection.top(self.seen[self.at], k)


@dataclass(frozen=True)
class Reads:
    """Keeps the first tokens, whatever it is shown."""

    reads: frozenset[str]
    adaptive: ClassVar[bool] = False
    attention: ClassVar[Attention] = Attention("last", "own")

    def __call__(self, view: Any, k: int) -> Selection:
        for field in self.reads:
            view.need(field)
        return Selection.of(torch.arange(k).expand(view.shape[0], -1), view.shape[1])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_listed_as_refused_is_refused_and_all_else_is_given(name):
    model = model_of(name)
    own = family(model)
    lm = own.language_model(model)
    listed = refusals(own, own.base(model).config, lm)
    types = getattr(lm.config, "layer_types", None) or [""] * len(lm.layers)
    inputs = single(name, model)
    for at in ("encoder", "input", *range(1, len(lm.layers))):
        here = {"any", at} if isinstance(at, str) else {"any", "layers", f"{types[at]} layers"}
        here |= {f"layers from {n} on" for n in range(at + 1)} if isinstance(at, int) else set()
        mine = [r for r in listed if r.cut in here and not r.setting]
        given = {"hidden_BND"}
        for field in sorted(ENCODER_FIELDS | LAYER_FIELDS | {"text_attn_BN"}):
            plan = Plan((Cut(at, Reads(frozenset({"hidden_BND", field})), 0.5),))
            try:
                attach(model, plan, probe=False).detach()
                given.add(field)
            except FoveateError as refused:
                assert bool(refused.rule) == any(not r.reads or field in r.reads for r in mine), (at, field)
                assert refused.rule in ("", *(r.rule for r in mine))
        if not any(not r.reads for r in mine):
            with torch.no_grad(), attach(model, Plan((Cut(at, Reads(frozenset(given)), 0.5),))):
                assert model(**inputs).logits.isfinite().all()


@pytest.mark.parametrize("name", [n for n in NAMES if "beams" in FAULTS.get(n, {})])
def test_stock_beams_fail_without_foveate(name):
    with torch.no_grad(), pytest.raises((ValueError, IndexError)):
        generate(model_of(name), inputs_of(name)[1], num_beams=2)


@pytest.mark.parametrize("name", [n for n in NAMES if "batch" in FAULTS.get(n, {})])
def test_stock_batches_differ_from_their_prompts_without_foveate(name):
    told, alone = one_by_one(name, None)
    assert not all(torch.allclose(told.logits[0][r], a.logits[0][0], **CLOSE) for r, a in enumerate(alone))


@pytest.mark.parametrize("name", sorted(UNSUPPORTED) if EVERY else [])
def test_what_is_not_supported_is_refused(name):
    """Loudly, at attach; never silently not cut."""
    try:
        model = empty(name)
    except Exception as e:
        pytest.skip(f"stock: {type(e).__name__}: {e}")
    with pytest.raises(FoveateError):
        attach(model, ONCE, probe=False).detach()


def test_the_page_of_models_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "models.md"
    if f"transformers {transformers.__version__} knows" not in page.read_text():
        pytest.skip("written for another transformers")
    told = CliRunner().invoke(app, ["list", "--models"]).stdout
    assert page.read_text() == told, "write it anew: foveate list --models > docs/models.md"
