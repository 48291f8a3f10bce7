"""The laws of the house, over every method and every family, on tiny models built from config objects."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from foveate import Plan, attach
from foveate.hf.families import FAMILIES
from foveate.methods import METHODS
from learned import options
from masked import alive, alive_text, masked, places
from zoo import DEPTH, NAMES, QWEN, SIZES, Batch, Row, batch, build, shared

STEPS = 4
# One method for each way of cutting and each kind of signal goes through all laws on all families; the others, whose
# selectors see the same fields, through the shorter ones of test_each_method.py.
ALL = ["uniform", "pool", "fastervlm", "divprune", "fastv", "pyramiddrop", "tops", "sms", "sts", "dart", "priortr"]


def plan(method: str, keep: float = 0.4, **over: object) -> Plan:
    """A method's plan, scaled to the tiny depth where it has stages."""
    known = {
        "tops": {"depth": DEPTH},
        "pyramiddrop": {"depth": DEPTH, "layers": (1, 2, 3)},
        "sms": {"image": 0.5, "text": 0.5},
    }
    extra = known.get(method, options(method))
    return replace(METHODS[method](keep=max(keep, 0.5) if method == "pyramiddrop" else keep, **extra), **over)


def mixed(name: str, **kwargs: object) -> Batch:
    """A text-only prompt, one image, and two images of other sizes: ragged in every way.

    The longest prompt is no longer the longest once it is cut: then its row is evened out where it never had padding.
    """
    sizes = SIZES[name]
    long = Row([2, ("image", sizes[0]), 1, ("image", sizes[-1]), 8], 3)
    words = batch(name, [long]).length - 5
    return batch(name, [Row([words], 1), Row([3, ("image", sizes[-1]), 11], 2), long], **kwargs)


def generate(model, b: Batch, **kwargs):
    return model.generate(
        **b.inputs, max_new_tokens=STEPS, do_sample=False, return_dict_in_generate=True, output_logits=True, **kwargs
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ALL)
def test_keep_everything_is_bit_identical(name, method):
    model, b = shared(name), mixed(name)
    with torch.no_grad():
        before, told = model(**b.inputs), generate(model, b)
        with attach(model, Plan(tuple(replace(c, keep=1.0) for c in plan(method).cuts))):
            kept, kept_told = model(**b.inputs), generate(model, b)
        after = model(**b.inputs)
    assert torch.equal(before.logits, kept.logits)
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(told.sequences, kept_told.sequences)
    assert all(map(torch.equal, told.logits, kept_told.logits))


# pool merges tokens, so no mask equals it; test_merging has its law.
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", [m for m in ALL if m != "pool"])
def test_drop_is_mask_through_decoding(name, method):
    model, b = shared(name), mixed(name)
    with torch.no_grad(), attach(model, plan(method, positions="original")) as attached:
        full = model(**b.inputs)
        told = generate(model, b)
        report = attached.report
    cache = full.past_key_values
    assert sum(i.tokens - i.per_layer[-1] for i in report.images) > 0
    real = b.inputs["attention_mask"].bool()
    where = places(b.inputs)
    held, text = alive(report, real, where), alive_text(cache, DEPTH - 1, real, where)
    assert (held & ~text).sum(1).tolist() == list(report.text_dropped)
    held &= text
    with torch.no_grad(), masked(name, report, real, where, DEPTH, cache) as yardstick:
        want = yardstick(**b.inputs)
        want_told = generate(yardstick, b)
    assert full.logits.shape == want.logits.shape
    assert_close(full.logits[held], want.logits[held], rtol=1e-4, atol=2e-5)
    assert torch.equal(told.sequences, want_told.sequences)
    for a, c in zip(told.logits, want_told.logits, strict=True):
        assert_close(a, c, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("positions", ["original", "contiguous"])
def test_batch_is_singles(name, method, positions):
    model, b = shared(name), mixed(name)
    with torch.no_grad(), attach(model, plan(method, positions=positions)) as attached:
        together = generate(model, b)
        counts = {(i.row, i.image): [c.kept for c in i.cuts] for i in attached.report.images}
        for r, row in enumerate(b.rows):
            one = batch(name, [row])
            alone = generate(model, one)
            assert torch.equal(alone.sequences[0, one.length :], together.sequences[r, b.length :])
            for a, c in zip(alone.logits, together.logits, strict=True):
                assert_close(a[0], c[r], rtol=1e-4, atol=2e-5)
            assert (attached.report is None) == (len(row.parts) == 1)
            if attached.report is not None:
                for image in attached.report.images:
                    assert [c.kept for c in image.cuts] == counts[r, image.image]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["uniform", "fastervlm", "divprune", "sts"])
def test_pruned_is_never_sent(name, method):
    """With contiguous positions, the stock language model on the kept tokens alone says the same."""
    model = shared(name)
    b = batch(name, [Row([3, ("image", SIZES[name][-1]), 9], 5)])
    seen = {}

    def spy(_module, _args, kwargs):
        seen.setdefault("embeds", kwargs["inputs_embeds"])
        seen.setdefault("planes", kwargs.get("deepstack_visual_embeds"))

    with torch.no_grad():
        handle = model.model.language_model.register_forward_pre_hook(spy, with_kwargs=True)
        generate(model, b)
        handle.remove()
        with attach(model, plan(method, positions="contiguous")) as attached:
            told = generate(model, b)
            image = attached.report.images[0]
        alive = torch.ones(b.length, dtype=torch.bool)
        spot = places(b.inputs)[0, 0]
        alive[spot] = False
        kept = torch.tensor(image.cuts[-1].kept, dtype=torch.long)
        alive[spot[kept]] = True
        extra = {}
        if seen["planes"] is not None:
            visual = torch.zeros(1, b.length, dtype=torch.bool)
            visual[0, spot] = True
            extra = {
                "visual_pos_masks": visual[:, alive],
                "deepstack_visual_embeds": [p[kept] for p in seen["planes"]],
            }
        lm, table = model.model.language_model, model.get_input_embeddings()
        out = lm(inputs_embeds=seen["embeds"][:, alive], use_cache=True, **extra)
        for step in range(STEPS):
            logits = model.lm_head(out.last_hidden_state[:, -1])
            assert_close(logits, told.logits[step], rtol=1e-4, atol=2e-5)
            token = told.sequences[:, b.length + step : b.length + step + 1]
            out = lm(inputs_embeds=table(token), past_key_values=out.past_key_values, use_cache=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ALL)
def test_as_long_as_it_was(name, method):
    model, b = shared(name), mixed(name)
    with torch.no_grad():
        want = model(**b.inputs, output_hidden_states=True)
        with attach(model, plan(method)):
            got = model(**b.inputs, output_hidden_states=True)
            last = model(**b.inputs, logits_to_keep=1)
    assert got.logits.shape == want.logits.shape
    assert [h.shape for h in got.hidden_states] == [h.shape for h in want.hidden_states]
    # A product of one row may round differently from one of many: that depends on the machine.
    torch.testing.assert_close(last.logits[:, 0], got.logits[:, -1])
    # Every layer's cache is as short as its kept set, and answers with the prompt's length.
    assert got.past_key_values.get_seq_length() == b.length
    held = [layer.keys.shape[2] for layer in got.past_key_values.layers]
    assert held == sorted(held, reverse=True)
    assert held[-1] < b.length


@pytest.mark.parametrize("name", NAMES)
def test_detach_leaves_nothing(name):
    model = build(name)
    # Once before, since transformers leaves marks of its own at the first run.
    b = mixed(name)
    with torch.no_grad():
        generate(model, b)
    before = {n: dict(m.__dict__) for n, m in model.named_modules()}
    hooks = {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()}
    attached = attach(model, plan("tops"))
    with torch.no_grad():
        generate(model, b)
    attached.detach()
    attached.detach()
    for n, m in model.named_modules():
        assert hooks[n] == (len(m._forward_hooks), len(m._forward_pre_hooks)), n
        assert m.__dict__.keys() == before[n].keys(), n


@pytest.mark.parametrize("name", sorted(n for n in NAMES if FAMILIES[n].video))
def test_video(name):
    """Videos obey drop = mask and batch = singles too."""
    kind = "image" if name == "internvl" else "video"
    size = (16, 32) if name in QWEN else 3
    model = shared(name)
    b = batch(name, [Row([3, (kind, size), 9], 4), Row([2, ("image", SIZES[name][0]), 12], 6)])
    for method in ("divprune", "fastv", "fastervlm", "uniform"):
        with torch.no_grad(), attach(model, plan(method)) as attached:
            told, report = generate(model, b), attached.report
            assert report.images[0].kind == kind
            alone = generate(model, batch(name, b.rows[:1]))
        assert_close(alone.logits[0][0], told.logits[0][0], rtol=1e-4, atol=2e-5)
        where = places(b.inputs)
        if name == "qwen3_vl":
            # Frames of one video stand apart.
            first = [v for (row, _), v in sorted(where.items()) if row == 0]
            where = {k: v for k, v in where.items() if k[0] != 0} | {(0, 0): torch.cat(first)}
        with torch.no_grad(), masked(name, report, b.inputs["attention_mask"].bool(), where, DEPTH) as yardstick:
            want = generate(yardstick, b)
        for a, c in zip(told.logits, want.logits, strict=True):
            assert_close(a, c, rtol=1e-4, atol=2e-5)
