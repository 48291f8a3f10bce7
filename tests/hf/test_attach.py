"""Ways of calling a model that an attachment must follow, and those that it must refuse."""

import copy
import functools
import pickle
import threading
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import pytest
import torch
from torch.testing import assert_close
from transformers import GenerationMixin, StaticCache
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask
from transformers.modeling_utils import AttentionInterface

from foveate import Attention, Cut, FoveateError, ModelError, Plan, PlanError, Selection, SignalError, attach
from foveate.hf.passing import HOOKS_INSIDE
from foveate.methods import METHODS, method
from learned import options
from masked import alive, places
from zoo import BOS, DEPTH, IMAGE, NAMES, PAD, QWEN, SIZES, Row, batch, build, shared

LAST = Attention("last", "previous")
SMS = METHODS["sms"](keep=0.6, c=2.0, layers=(1, 2), image=0.7, text=0.5)
TWO_STAGES = Plan((*method("divprune", keep=0.6).cuts, *method("fastv", keep=0.3).cuts))


@dataclass(frozen=True)
class Threshold:
    """Adaptive: keeps what is above its image's mean, so counts differ from image to image."""

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND"})
    adaptive: ClassVar[bool] = True

    def __call__(self, view, k):
        score = view.hidden_BND.float().norm(dim=-1)
        keep = (score > score.mean(1, keepdim=True)) & Selection.top(score, k).keep_BN
        return Selection(keep)


@dataclass(frozen=True)
class Words:
    """For cuts over the prompt: the k candidates with the largest states."""

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND", "text_BN", "text_attn_BN"})
    adaptive: ClassVar[bool] = False
    attention: Attention = LAST

    def __call__(self, view, k):
        return Selection.top(view.hidden_BND.float().norm(dim=-1) + view.text_BN * 0.1 + view.text_attn_BN, k)


class Spy:
    """Picks by index alone."""

    reads, adaptive = frozenset({"hidden_BND"}), False

    def __init__(self, pick):
        self.pick = pick

    def __call__(self, view, k):
        b, n = view.shape
        return Selection.of(self.pick(n, k).expand(b, k), n)


def pair(name, **kwargs):
    s = SIZES[name]
    return batch(
        name, [Row([3, ("image", s[-1]), 11], 2), Row([2, ("image", s[0]), 1, ("image", s[-1]), 8], 3)], **kwargs
    )


def one(name, seed=5, words=9):
    return batch(name, [Row([3, ("image", SIZES[name][-1]), words], seed)])


# -- generation


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "plan", [TWO_STAGES, SMS, Plan((Cut("input", Threshold(), 0.9), *method("fastv", keep=0.3).cuts))]
)
def test_beams_are_singles(name, plan):
    model, b = shared(name), pair(name)
    if not hasattr(GenerationMixin, "_expand_multimodal_outputs"):
        # Older transformers repeat the images of a prompt one by one, which mixes them up in the stock model too.
        s = SIZES[name]
        b = batch(name, [Row([3, ("image", s[-1]), 11], 2), Row([2, ("image", s[0]), 8], 3)])
    ask = {"max_new_tokens": 5, "do_sample": False, "num_beams": 3, "num_return_sequences": 2}
    with torch.no_grad(), attach(model, plan) as attached:
        together = model.generate(**b.inputs, **ask)
        images = sum(not isinstance(p, int) for r in b.rows for p in r.parts)
        assert len(attached.report.images) == 3 * images
        for r, row in enumerate(b.rows):
            single = batch(name, [row])
            alone = model.generate(**single.inputs, **ask)
            assert torch.equal(alone[:, single.length :], together[2 * r : 2 * r + 2, b.length :])


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_sampling_repeats_with_its_seed(name):
    model, b = shared(name), pair(name)
    with torch.no_grad(), attach(model, TWO_STAGES):
        torch.manual_seed(3)
        first = model.generate(**b.inputs, max_new_tokens=6, do_sample=True, num_return_sequences=2)
        torch.manual_seed(3)
        assert torch.equal(first, model.generate(**b.inputs, max_new_tokens=6, do_sample=True, num_return_sequences=2))
    assert first.shape == (4, b.length + 6)
    assert torch.equal(first[::2, : b.length], b.inputs["input_ids"])


# Stock Qwen gives generated tokens other M-RoPE positions without a cache than with one.
@pytest.mark.parametrize("name", [n for n in NAMES if n not in QWEN])
def test_without_a_cache_is_with_one(name):
    model, b = shared(name), pair(name)
    with torch.no_grad(), attach(model, Plan(method("divprune", keep=0.5).cuts)):
        cached = model.generate(**b.inputs, max_new_tokens=4, do_sample=False)
        assert torch.equal(cached, model.generate(**b.inputs, max_new_tokens=4, do_sample=False, use_cache=False))


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl"])
@pytest.mark.parametrize("left", [True, False])
def test_padding_side_and_missing_mask(name, left):
    """Forward takes right padding too; without a mask every token is real."""
    model = shared(name)
    b, single = pair(name, left=left), one(name, 2, 11)
    plan = replace(TWO_STAGES, positions="original")
    with torch.no_grad(), attach(model, plan) as attached:
        logits = model(**b.inputs).logits
        alone = model(**single.inputs)
        bare = model(**{k: v for k, v in single.inputs.items() if k != "attention_mask"}, use_cache=False)
        index = attached.report.images[0].cuts[-1].kept
    real = b.inputs["attention_mask"][0].bool()
    place = (single.inputs["input_ids"][0] == IMAGE).nonzero().flatten()
    alive = torch.ones(single.length, dtype=torch.bool)
    alive[place] = False
    alive[place[torch.tensor(index)]] = True
    assert_close(logits[0][real][alive], alone.logits[0][alive], rtol=1e-4, atol=2e-5)
    assert_close(bare.logits[0][alive], alone.logits[0][alive], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_over_what_survives(name):
    model, b = shared(name), pair(name)
    labels = b.inputs["input_ids"].masked_fill(b.inputs["attention_mask"] == 0, -100)
    with torch.no_grad(), attach(model, replace(TWO_STAGES, positions="original")) as attached:
        out = model(**b.inputs, labels=labels)
        report = attached.report
    keep = alive(report, b.inputs["attention_mask"].bool(), places(b.inputs))
    told = labels[:, 1:].masked_fill(~keep[:, :-1], -100)
    want = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].flatten(0, 1).float(), told.flatten(), ignore_index=-100
    )
    assert_close(out.loss, want)
    naive = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
    assert abs(float(out.loss - naive)) > 1e-3


def test_gradients_pass_through_a_cut():
    model, b = build("llava"), one("llava")
    labels = b.inputs["input_ids"].clone()
    labels[:, :-4] = -100
    with attach(model, TWO_STAGES):
        model(**b.inputs, labels=labels).loss.backward()
    grads = [
        p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.model.language_model.layers.parameters()
    ]
    assert all(grads)


def test_gradient_checkpointing_is_refused_inside_the_llm():
    model, b = build("llava"), one("llava")
    model.train()
    model.gradient_checkpointing_enable()
    with attach(model, TWO_STAGES), pytest.raises(ModelError, match="gradient_checkpointing_disable"):
        model(**b.inputs, labels=b.inputs["input_ids"], use_cache=False)
    with attach(model, method("divprune", keep=0.5)):
        if HOOKS_INSIDE:
            with pytest.raises(ModelError, match="update transformers"):
                model(**b.inputs, labels=b.inputs["input_ids"], use_cache=False)
        else:
            model(**b.inputs, labels=b.inputs["input_ids"], use_cache=False).loss.backward()


@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "internvl"])
def test_attention_maps_keep_their_shape(name):
    """Rows and columns of dropped tokens are 0; rows of the others still sum to 1."""
    model, b = build(name, "eager"), pair(name)
    ask = {"max_new_tokens": 3, "do_sample": False, "output_attentions": True, "return_dict_in_generate": True}
    with torch.no_grad():
        want = model.generate(**b.inputs, **ask)
        with attach(model, TWO_STAGES) as attached:
            got = model.generate(**b.inputs, **ask)
            image = attached.report.images[0]
    for x, y in zip(want.attentions, got.attentions, strict=True):
        assert [m.shape for m in x] == [m.shape for m in y]
    place = (b.inputs["input_ids"][0] == IMAGE).nonzero().flatten()
    gone = place[torch.tensor([i for i in range(image.tokens) if i not in image.cuts[-1].kept])]
    for maps in got.attentions:
        assert float(maps[-1][0, :, :, gone].abs().max()) == 0
        assert_close(maps[-1][0, :, -1].sum(-1), torch.ones(4))


# -- chats


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("positions", ["original", "contiguous"])
def test_a_text_turn_on_a_pruned_cache(name, positions):
    """Going on from the cache says what one long prompt says, where only the first turn's image was pruned."""
    model, b = shared(name), pair(name)
    plan = replace(
        Plan((*method("divprune", keep=0.6).cuts, Cut(2, method("uniform", keep=0.3).cuts[0].select, 0.3))),
        positions=positions,
    )
    more = torch.randint(3, 100, (2, 6), generator=torch.Generator().manual_seed(0))
    ids = torch.cat((b.inputs["input_ids"], more), 1)
    mask = torch.cat((b.inputs["attention_mask"], torch.ones_like(more)), 1)
    with torch.no_grad(), attach(model, plan):
        first = model(**b.inputs, use_cache=True)
        cache = first.past_key_values
        assert cache.get_seq_length() == b.length
        extra = {}
        if name in QWEN:
            whole = dict(b.inputs, input_ids=ids, attention_mask=mask)
            whole["mm_token_type_ids"] = torch.cat((b.inputs["mm_token_type_ids"], torch.zeros_like(more)), 1)
            extra = {
                "position_ids": model.model.get_rope_index(**{k: v for k, v in whole.items() if "pixel" not in k})[0][
                    ..., -6:
                ]
            }
        turn = model(input_ids=more, attention_mask=mask, past_key_values=cache, use_cache=True, **extra)
        whole = dict(b.inputs, input_ids=ids, attention_mask=mask)
        if name in QWEN:
            whole["mm_token_type_ids"] = torch.cat((b.inputs["mm_token_type_ids"], torch.zeros_like(more)), 1)
        want = model(**whole, use_cache=True)
    assert_close(turn.logits, want.logits[:, -6:], rtol=1e-4, atol=2e-5)
    assert cache.get_seq_length() == b.length + 6


@pytest.mark.parametrize("name", ["llava", "internvl"])
@pytest.mark.parametrize("positions", ["original", "contiguous"])
def test_a_chat_goes_on_under_another_plan(name, positions):
    """A later turn without pictures: what the cache lost, and where its tokens stand, the first plan has settled."""
    model, b = shared(name), pair(name)
    more = torch.randint(3, 100, (2, 6), generator=torch.Generator().manual_seed(0))
    told = {"input_ids": more, "attention_mask": torch.cat((b.inputs["attention_mask"], torch.ones_like(more)), 1)}
    first = replace(METHODS["tops"](0.5, depth=DEPTH), positions=positions)
    other = replace(METHODS["fastv"](0.3), positions="original" if positions == "contiguous" else "contiguous")
    with torch.no_grad(), attach(model, first):
        caches = [model(**b.inputs, use_cache=True).past_key_values for _ in range(2)]
        want = model(**told, past_key_values=caches[0]).logits
    with torch.no_grad(), attach(model, other):
        got = model(**told, past_key_values=caches[1]).logits
    assert_close(got, want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("plan", [TWO_STAGES, SMS, METHODS["tops"](keep=0.5, depth=DEPTH)])
def test_generate_goes_on_from_its_own_cache(name, plan):
    """The second call of generate gets the whole chat and the cache, as users do it, and a fresh run agrees."""
    model, b = shared(name), one(name)
    with torch.no_grad(), attach(model, plan):
        first = model.generate(**b.inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
        more = torch.tensor([[21, 34, 55, 13]])
        ids = torch.cat((first.sequences, more), 1)
        kwargs = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 3, "do_sample": False}
        if name in QWEN:
            kwargs["mm_token_type_ids"] = torch.nn.functional.pad(b.inputs["mm_token_type_ids"], (0, 7))
        held = [layer.keys.shape[2] for layer in first.past_key_values.layers]
        told = model.generate(
            input_ids=ids,
            past_key_values=first.past_key_values,
            return_dict_in_generate=True,
            output_logits=True,
            **kwargs,
        )
        again = [layer.keys.shape[2] for layer in told.past_key_values.layers]
        assert [a - h for a, h in zip(again, held, strict=True)] == [7] * DEPTH
        if plan is TWO_STAGES:
            # Only text was added: the same as stepping through it token by token.
            step = model.generate(**b.inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
            cache, mask = step.past_key_values, torch.ones_like(first.sequences)[:, :-1]
            for token in torch.cat((first.sequences[:, -1:], more), 1).split(1, 1):
                mask = torch.cat((mask, torch.ones_like(token)), 1)
                extra = {}
                if name in QWEN:
                    place = torch.tensor([[mask.shape[1] - 1]]) + model.model.rope_deltas
                    extra["position_ids"] = place.expand(3, 1, 1)
                out = model(input_ids=token, attention_mask=mask, past_key_values=cache, **extra)
            assert_close(out.logits[:, -1], told.logits[0], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_image_in_a_later_turn(name):
    """Pruned when it comes, beside a first one that was pruned before; equal to masking both."""
    from masked import SEEN, yardstick

    model = shared(name)
    first, second = one(name, 7, 6), one(name, 8, 9)
    uniform = method("uniform", keep=0.5).cuts[0].select
    plan = Plan((Cut("input", uniform, 0.5), Cut(2, uniform, 0.2)))
    token = torch.tensor([[33]])
    ids = torch.cat((first.inputs["input_ids"], second.inputs["input_ids"], token), 1)
    n = ids.shape[1]
    whole = {
        k: torch.cat((v, second.inputs[k])) for k, v in first.inputs.items() if "pixel" in k or k.startswith("image")
    }
    whole |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    places = [{}, {}, {}]
    if name == "llava_onevision":
        whole["batch_num_images"] = torch.tensor([1, 1])
    if name in QWEN:
        kinds = [x.inputs["mm_token_type_ids"] for x in (first, second)]
        whole["mm_token_type_ids"] = torch.cat((*kinds, torch.zeros_like(token)), 1)
        # Stock Qwen cannot place a later image by itself: users of `forward` pass its positions.
        where = model.model.get_rope_index(**{k: v for k, v in whole.items() if "pixel" not in k})[0]
        places = [{"position_ids": x} for x in where.split((first.length, second.length, 1), 2)]
    with torch.no_grad(), attach(model, plan) as attached:
        out = model(**first.inputs, use_cache=True, **places[0])
        one_report = attached.report
        seen_by_two = dict(second.inputs, attention_mask=torch.ones(1, n - 1, dtype=torch.long))
        turn = model(**seen_by_two, past_key_values=out.past_key_values, use_cache=True, **places[1])
        two_report = attached.report
        cache = turn.past_key_values
        after = model(input_ids=token, past_key_values=cache, use_cache=True, **places[2])
    assert cache.get_seq_length() == n
    for layer in range(DEPTH):
        seen = torch.ones(1, n, dtype=torch.bool)
        for report, start, b in ((one_report, 0, first), (two_report, first.length, second)):
            place = (b.inputs["input_ids"][0] == IMAGE).nonzero().flatten() + start
            kept = report.images[0].cuts[0 if layer < 2 else 1].kept
            seen[0, place] = False
            seen[0, place[torch.tensor(kept)]] = True
        SEEN[layer] = seen
    try:
        with torch.no_grad():
            want = yardstick(name)(**whole).logits
    finally:
        SEEN.clear()
    assert_close(turn.logits[0, -1], want[0, -2], rtol=1e-4, atol=2e-5)
    assert_close(after.logits[0, -1], want[0, -1], rtol=1e-4, atol=2e-5)


def test_two_models_two_threads():
    """Each thread prunes its own model by its own plan, with the answers of a quiet run."""
    jobs = [("llava", method("divprune", keep=0.3)), ("qwen2_vl", method("fastv", keep=0.5))]
    models = [build(name) for name, _ in jobs]
    inputs = [pair(name) for name, _ in jobs]
    quiet, loud, failed = [], [None, None], []
    for model, b, (_, plan) in zip(models, inputs, jobs, strict=True):
        with torch.no_grad(), attach(model, plan):
            quiet.append(model.generate(**b.inputs, max_new_tokens=6, do_sample=False))

    attached = [attach(m, plan) for m, (_, plan) in zip(models, jobs, strict=True)]

    def work(i):
        try:
            with torch.no_grad():
                for _ in range(4):
                    loud[i] = models[i].generate(**inputs[i].inputs, max_new_tokens=6, do_sample=False)
                    assert torch.equal(loud[i], quiet[i])
        except Exception as e:
            failed.append(e)

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for a in attached:
        a.detach()
    assert not failed
    assert attached[0].report.images[0].tokens == 36


@pytest.mark.parametrize(
    "plan",
    [
        TWO_STAGES,
        method("fastervlm", keep=0.4),
        Plan((Cut("encoder", method("fastervlm", keep=0.4).cuts[0].select, 0.4),)),
    ],
)
def test_one_model_from_two_threads(plan):
    model = build("llava")
    inputs = [one("llava", s, 9 + s) for s in (1, 2)]
    with torch.no_grad(), attach(model, plan):
        quiet = [model.generate(**b.inputs, max_new_tokens=5, do_sample=False) for b in inputs]
        loud, threads = [[], []], []
        for i in (0, 1):

            def work(i=i):
                with torch.no_grad():
                    for _ in range(4):
                        loud[i].append(model.generate(**inputs[i].inputs, max_new_tokens=5, do_sample=False))

            threads.append(threading.Thread(target=work))
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert all(torch.equal(x, quiet[i]) for i in (0, 1) for x in loud[i])
    assert len(loud[0]) == len(loud[1]) == 4


# -- kernels and devices


def varlen(module, query, key, value, attention_mask, scaling, is_causal=None, position_ids=None, **_):
    """Reads what FlashAttention reads: a 2-D mask or None, lower-right causal, positions for packed sequences."""
    assert attention_mask is None or attention_mask.ndim == 2
    if position_ids is not None and attention_mask is None and query.shape[0] == 1:
        assert bool((position_ids.diff() == 1).all()), "gaps would be taken for packed sequences"
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    q, k = query.shape[2], key.shape[2]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    see = torch.ones(q, k, dtype=torch.bool).tril(k - q) if causal else torch.ones(q, k, dtype=torch.bool)
    see = see.expand(query.shape[0], 1, q, k)
    if attention_mask is not None:
        assert attention_mask.shape[1] == k
        see = see & attention_mask[:, None, None].bool()
    score = (query @ key.transpose(2, 3) * scaling).masked_fill(~see, torch.finfo(query.dtype).min)
    return (score.softmax(-1) @ value).transpose(1, 2).contiguous(), None


@pytest.mark.parametrize("name", [n for n in NAMES if n not in QWEN])
@pytest.mark.parametrize("kernel", ["eager", "like_fa"])
def test_kernels_agree(name, kernel):
    """FlashAttention's conventions (2-D masks, packed-sequence detection), kept by a CPU stand-in."""
    AttentionInterface.register("like_fa", varlen)
    AttentionMaskInterface.register("like_fa", flash_attention_mask)
    b = pair(name)
    lonely = one(name)
    other = build(name, kernel)
    for plan in (TWO_STAGES, METHODS["tops"](keep=0.5, depth=DEPTH)):
        out = []
        for model in (shared(name), other):
            with torch.no_grad(), attach(model, plan):
                out.append(
                    [
                        torch.stack(model.generate(**x.inputs, max_new_tokens=4, do_sample=False, output_logits=True,
                                                   return_dict_in_generate=True).logits)
                        for x in (b, lonely)
                    ]
                )  # fmt: skip
        for x, y in zip(*out, strict=True):
            assert_close(x, y, rtol=1e-4, atol=2e-5)


def test_offloaded_model():
    """accelerate moves weights in and out around every module; nothing here may go around it."""
    accelerate = pytest.importorskip("accelerate")
    model, b = build("llava"), pair("llava")
    with torch.no_grad(), attach(model, TWO_STAGES):
        want = model.generate(**b.inputs, max_new_tokens=4, do_sample=False)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with torch.no_grad(), attach(model, TWO_STAGES):
        got = model.generate(**b.inputs, max_new_tokens=4, do_sample=False)
    assert torch.equal(want, got)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision(name):
    model, b = build(name).to(torch.bfloat16), pair(name)
    inputs = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in b.inputs.items()}
    for m in ("divprune", "tops", "pool"):
        plan = method(m, keep=0.5, **({"depth": DEPTH} if m == "tops" else {}))
        with torch.no_grad(), attach(model, plan):
            out = model(**inputs)
        assert out.logits.dtype == torch.bfloat16
        assert bool(out.logits.isfinite().all())


# -- other ways in


@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "llava_onevision"])
def test_embeddings_with_pixels(name):
    model, b = shared(name), one(name)
    embeds = model.get_input_embeddings()(b.inputs["input_ids"]).detach()
    rest = {k: v for k, v in b.inputs.items() if k != "input_ids"}
    if name in QWEN:
        rest["position_ids"] = model.model.get_rope_index(**{k: v for k, v in b.inputs.items() if "pixel" not in k})[0]
    with torch.no_grad(), attach(model, TWO_STAGES) as attached:
        want = model(**b.inputs).logits
        told = attached.report.to_dict(indices=True)["images"]
        got = model(inputs_embeds=embeds, **rest).logits
        assert attached.report.to_dict(indices=True)["images"] == told
    assert_close(got, want)


def test_embeddings_alone_are_refused():
    model, b = shared("llava"), one("llava")
    embeds = model.get_input_embeddings()(b.inputs["input_ids"])
    with attach(model, TWO_STAGES), pytest.raises(ModelError, match="pass input_ids and pixel_values"):
        model(inputs_embeds=embeds)


def test_text_only_prompts_pass():
    model = shared("llava")
    b = batch("llava", [Row([9], 1), Row([4], 2)])
    with torch.no_grad():
        want = model.generate(**b.inputs, max_new_tokens=3, do_sample=False)
        with attach(model, TWO_STAGES) as attached:
            assert torch.equal(want, model.generate(**b.inputs, max_new_tokens=3, do_sample=False))
            assert attached.report is None


def test_features_encoded_elsewhere_are_refused():
    model, b = shared("llava"), one("llava")
    features = model.model.get_image_features(b.inputs["pixel_values"], return_dict=True)
    ids = {k: b.inputs[k] for k in ("input_ids", "attention_mask")}
    with attach(model, TWO_STAGES), pytest.raises(FoveateError, match="encode"):
        model(**ids, mm_encoder_outputs={"image": features})


@pytest.mark.parametrize("name", NAMES)
def test_a_static_cache_is_refused_before_anything_runs(name):
    model, b = shared(name), one(name)
    ran = []
    tower = getattr(model.model, "vision_tower", None) or model.model.visual
    handle = tower.register_forward_hook(lambda *_: ran.append(1))
    try:
        with attach(model, TWO_STAGES):
            with pytest.raises(ModelError, match="cache_implementation"):
                model(**b.inputs, past_key_values=StaticCache(config=model.config.get_text_config(), max_cache_len=200))
            assert not ran
            with pytest.raises(ModelError, match="cache_implementation"), torch.no_grad():
                model.generate(**b.inputs, max_new_tokens=2, cache_implementation="static", disable_compile=True)
    finally:
        handle.remove()


def test_chunked_prefill_is_refused():
    model, b = shared("llava"), one("llava")
    with attach(model, TWO_STAGES), torch.no_grad(), pytest.raises(ModelError, match="prefill_chunk_size unset"):
        model.generate(**b.inputs, max_new_tokens=2, prefill_chunk_size=8, do_sample=False)


def test_prompt_lookup_decoding_agrees():
    """Assisted decoding crops the cache after the prompt; with prompt lookup the answer must stay the greedy one."""
    model, b = shared("llava"), one("llava", 5, 20)
    with torch.no_grad(), attach(model, method("divprune", keep=0.5)):
        want = model.generate(**b.inputs, max_new_tokens=8, do_sample=False)
        got = model.generate(**b.inputs, max_new_tokens=8, do_sample=False, prompt_lookup_num_tokens=3)
    assert torch.equal(want, got)


def test_a_4d_mask_is_refused():
    model, b = shared("llava"), one("llava")
    n = b.length
    with attach(model, TWO_STAGES), pytest.raises(ModelError, match="2-D padding mask"):
        model(**dict(b.inputs, attention_mask=torch.ones(1, 1, n, n, dtype=torch.bool)))


def test_kernels_without_a_mask_are_refused():
    AttentionInterface.register("maskless", varlen)
    with pytest.raises(ModelError, match="AttentionMaskInterface"):
        attach(build("llava", "maskless"), TWO_STAGES)


def test_a_kernel_that_is_set_later_is_refused_with_the_next_prompt():
    model, b = build("llava"), one("llava")
    with torch.no_grad(), attach(model, TWO_STAGES):
        want = model(**b.inputs).logits
        model.set_attn_implementation("flex_attention")
        with pytest.raises(ModelError, match="flex_attention"):
            model(**b.inputs)
        model.set_attn_implementation("sdpa")
        assert torch.equal(model(**b.inputs).logits, want)


def test_sliding_windows_are_refused_where_the_kernel_counts_them():
    """FlashAttention counts a window in what is left; a mask counts it in what was there."""
    model = build("llava")
    config = model.model.language_model.config
    config.layer_types = ["full_attention", "sliding_attention"] * 2
    attach(model, TWO_STAGES).detach()
    config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ModelError, match="sliding_window=None"):
        attach(model, TWO_STAGES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("depth", [2, 3])
def test_every_method_fits_a_shallow_model(name, depth):
    """Defaults are not numbers that somebody chose: they bend to the model; the report says what came of it."""
    from transformers import AutoModelForImageTextToText

    from zoo import config

    c = config(name)
    c.get_text_config().num_hidden_layers = depth
    if getattr(c.get_text_config(), "layer_types", None):
        c.get_text_config().layer_types = ["full_attention"] * depth
    if name == "qwen3_vl":
        c.vision_config.deepstack_visual_indexes = [0]
    model = AutoModelForImageTextToText.from_config(c).eval()
    for m in METHODS:
        plan = METHODS[m](keep=0.6, **options(m))
        if name == "llava_onevision":
            # It resamples this picture behind its projector, before which nothing can be merged then.
            plan = replace(plan, cuts=tuple(replace(c, at="input") if c.at == "encoder" else c for c in plan.cuts))
        with torch.no_grad(), attach(model, plan) as attached:
            model(**one(name).inputs)
            assert attached.report.budget_fraction < 1
    with pytest.raises(PlanError, match="layers 0 to"):
        attach(model, METHODS["fastv"](keep=0.6, layer=depth))


def test_positional_arguments():
    model, b = shared("llava"), one("llava")
    args = b.inputs["input_ids"], b.inputs["pixel_values"], b.inputs["attention_mask"]
    with torch.no_grad():
        with attach(model, TWO_STAGES):
            want = model(**b.inputs).logits
            assert torch.equal(model(*args).logits, want)
            n = b.length
            with pytest.raises(ModelError, match="2-D padding mask"):
                model(args[0], args[1], torch.ones(1, 1, n, n, dtype=torch.bool))
        with attach(model.model, TWO_STAGES):
            assert torch.equal(model.lm_head(model.model(*args).last_hidden_state), want)


def test_the_calls_own_feature_layer():
    model, b = build("llava"), one("llava")
    seen = []

    class Look(Spy):
        reads = frozenset({"encoder_BNC"})

        def __call__(self, view, k):
            seen.append(view.encoder_BNC)
            return super().__call__(view, k)

    with torch.no_grad(), attach(model, Plan((Cut("input", Look(lambda n, k: torch.arange(k)), 0.5),))):
        model(**b.inputs)
        model(**b.inputs, vision_feature_layer=-1)
        tower = model.model.vision_tower(b.inputs["pixel_values"], output_hidden_states=True).hidden_states
    assert_close(seen[0], tower[-2][:, 1:])
    assert_close(seen[1], tower[-1][:, 1:])


def test_copying_an_attached_model_is_refused():
    model = build("llava")
    with attach(model, TWO_STAGES):
        for copied in (copy.deepcopy, pickle.dumps):
            for part in (model, model.model):
                with pytest.raises(ModelError, match="detach first"):
                    copied(part)
    assert pickle.dumps(copy.deepcopy(model))


def test_what_others_put_on_the_instance_comes_back():
    model, b = build("llava"), batch("llava", [Row([3, ("image", (24, 24)), 9])])
    before = dict(model.__dict__), dict(model.model.__dict__)
    theirs = functools.wraps(model.model.get_image_features)(partial(type(model.model).get_image_features, model.model))
    model.model.get_image_features = theirs
    with attach(model, TWO_STAGES):
        model.generate(**b.inputs, max_new_tokens=2)
    assert model.model.__dict__.pop("get_image_features") is theirs
    assert (model.__dict__, model.model.__dict__) == before


def test_what_others_wrapped_since_stays_and_drops_nothing():
    model, b = build("llava"), batch("llava", [Row([3, ("image", (24, 24)), 9])])
    with torch.no_grad():
        want = model(**b.inputs).logits
        attached = attach(model, replace(TWO_STAGES, cuts=(replace(TWO_STAGES.cuts[0], at="encoder"),)))
        ours = model.model.get_image_features
        theirs = model.model.get_image_features = functools.wraps(ours)(lambda *args, **kwargs: ours(*args, **kwargs))
        attached.detach()
        assert model.model.get_image_features is theirs
        assert torch.equal(model(**b.inputs).logits, want)
        attached = attach(model, TWO_STAGES)
        del model.model.get_image_features
        attached.detach()
    assert "_foveate" not in model.model.__dict__


def test_a_detached_plan_is_not_entered_again():
    attached = attach(build("llava"), TWO_STAGES)
    with attached:
        pass
    with pytest.raises(ModelError, match="attach it anew"), attached:
        pass
    with pytest.raises(ModelError, match="attach it anew"), attached.embedded(torch.ones(1, 3, dtype=torch.bool)):
        pass


@pytest.mark.parametrize("plan", ["fastv", METHODS["fastv"], None])
def test_what_is_no_plan(plan):
    with pytest.raises(PlanError, match="attach takes a Plan"):
        attach(shared("llava"), plan)


def test_grids_are_three_numbers_where_they_can_be():
    grids = []

    class Look(Spy):
        reads = frozenset({"hidden_BND", "grid"})

        def __call__(self, view, k):
            grids.append(view.grid)
            assert sum(b.size for b in view.blocks()) <= view.shape[1]
            return super().__call__(view, k)

    for name, size, want in [
        ("llava", (24, 24), (1, 6, 6)),
        ("internvl", 2, (2, 4, 4)),
        ("qwen2_vl", (16, 32), (1, 2, 4)),
    ]:
        with torch.no_grad(), attach(shared(name), Plan((Cut("input", Look(lambda n, k: torch.arange(k)), 0.5),))):
            shared(name)(**batch(name, [Row([1, ("image", size), 9])]).inputs)
        assert grids.pop() == want
    b = batch("llava_next", [Row([1, ("image", (20, 31)), 9])])
    with torch.no_grad(), attach(shared("llava_next"), Plan((Cut("input", Look(lambda n, k: torch.arange(k)), 0.5),))):
        shared("llava_next")(**b.inputs)
    thumbnail, tiled = grids.pop()
    assert (thumbnail.rows, thumbnail.columns) == (4, 4)
    assert tiled.newline and tiled.start == 16


def test_attaching_twice_is_refused():
    model = build("llava")
    with attach(model, TWO_STAGES), pytest.raises(ModelError, match="detach it first"):
        attach(model, TWO_STAGES)
    attach(model, TWO_STAGES).detach()


def test_a_model_without_images_is_refused():
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=30, intermediate_size=16)
    )
    with pytest.raises(ModelError, match="llama has no get_image_features"):
        attach(model, TWO_STAGES)


# -- plans that cannot apply


@pytest.mark.parametrize(
    ("plan", "error", "say"),
    [
        (Plan((Cut(DEPTH, method("uniform", keep=0.5).cuts[0].select, 0.5),)), PlanError, "layers 0 to 3"),
        (Plan((Cut("input", Words(), 0.5),)), SignalError, "text_BN"),
        (Plan((Cut(0, method("fastv", keep=0.5).cuts[0].select, 0.5),)), PlanError, "before layer 0"),
        (Plan((Cut("input", method("fastv", keep=0.5).cuts[0].select, 0.5),)), SignalError, "no decoder layer has run"),
        (METHODS["sms"](0.5, layers=(4,)), PlanError, "layers 0 to 3"),
        (
            Plan((Cut("encoder", method("fastv", keep=0.5).cuts[0].select, 0.5),)),
            SignalError,
            "the encoder does not know",
        ),
    ],
)
def test_plans_that_cannot_apply(plan, error, say):
    with pytest.raises(error, match=say):
        attach(shared("llava"), plan)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("keeps", "say"), [((999, 5), "only .* tokens"), ((2, 0.9), "keep grows")])
def test_counts_are_checked_before_the_encoder(name, keeps, say):
    model, b = shared(name), one(name)
    ran = []
    tower = getattr(model.model, "vision_tower", None) or model.model.visual
    handle = tower.register_forward_hook(lambda *_: ran.append(1))
    uniform = method("uniform", keep=0.5).cuts[0].select
    try:
        first = Cut("input", uniform, keeps[0], exact=keeps[0] == 999)
        with attach(model, Plan((first, Cut(2, uniform, keeps[1])))), torch.no_grad():
            with pytest.raises(PlanError, match=say):
                model(**b.inputs)
            if name != "internvl" or keeps[0] == 999:
                # `generate` encodes InternVL's tiles before anybody can say which of them make one image.
                with pytest.raises(PlanError, match=say):
                    model.generate(**b.inputs, max_new_tokens=2)
        assert not ran
    finally:
        handle.remove()


def test_a_liar_is_caught():
    @dataclass(frozen=True)
    class Liar(Threshold):
        adaptive: ClassVar[bool] = False

    with attach(shared("llava"), Plan((Cut("input", Liar(), 0.9),))), pytest.raises(SignalError, match="must keep"):
        shared("llava")(**one("llava").inputs)


# -- cuts


@pytest.mark.parametrize("name", NAMES)
def test_an_encoder_cut_is_an_input_cut_by_the_same_choice(name):
    """Choosing by tower signals before the projector gives what it gives after it."""
    model, b = shared(name), one(name) if name != "internvl" else batch(name, [Row([3, ("image", 1), 9], 5)])
    select = method("fastervlm", keep=0.5).cuts[0].select
    rows = []
    family_projector = model.model.visual.merger if name in QWEN else model.model.multi_modal_projector
    with torch.no_grad():
        handle = family_projector.register_forward_hook(lambda m, a, o: rows.append(o.shape[:-1].numel()))
        with attach(model, Plan((Cut("input", select, 0.4),))) as attached:
            want = model.generate(
                **b.inputs, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
            told = attached.report.images[0]
        handle.remove()
        with attach(model, Plan((Cut("encoder", select, 0.4),))) as attached:
            handle = family_projector.register_forward_pre_hook(lambda m, a: rows.append(a[0].shape))
            got = model.generate(
                **b.inputs, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
            handle.remove()
            image = attached.report.images[0]
    assert image.cuts[0].kept == told.cuts[0].kept
    assert image.cuts[0].at == "encoder"
    for x, y in zip(got.logits, want.logits, strict=True):
        assert_close(x, y, rtol=1e-4, atol=2e-5)


@dataclass(frozen=True)
class Halves:
    """Merges every token into the first two, by fixed weights."""

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND"})
    adaptive: ClassVar[bool] = True

    def __call__(self, view, k):
        b, n = view.shape
        mix = torch.zeros(b, 2, n)
        mix[:, 0, : n // 2] = 1 / (n // 2)
        mix[:, 1, n // 2 :] = 2 / n
        return Selection(Selection.of(torch.tensor([[0, n - 1]]).expand(b, 2), n).keep_BN, mix)


@pytest.mark.parametrize("name", NAMES)
def test_merging(name):
    """Merged tokens are the weighted sums, at the places kept, and so are DeepStack's planes."""
    model, b = shared(name), one(name)
    place = (b.inputs["input_ids"][0] == IMAGE).nonzero().flatten()
    n = len(place)
    seen = {}
    lm = model.model.language_model

    def spy(m, a, k):
        seen.update(k)

    with torch.no_grad():
        handle = lm.register_forward_pre_hook(spy, with_kwargs=True)
        model(**b.inputs)
        handle.remove()
        embeds = seen["inputs_embeds"]
        weights = Halves()(type("V", (), {"shape": (1, n)})(), n).mix_BKN[0]
        merged = embeds.clone()
        merged[0, place[[0, -1]]] = weights @ embeds[0, place]
        alive = torch.ones(b.length, dtype=torch.bool)
        alive[place[1:-1]] = False
        extra = {}
        if seen.get("deepstack_visual_embeds") is not None:
            visual = torch.zeros(1, b.length, dtype=torch.bool)
            visual[0, place] = True
            extra = {
                "visual_pos_masks": visual[:, alive],
                "deepstack_visual_embeds": [weights @ p for p in seen["deepstack_visual_embeds"]],
            }
        ids = seen["position_ids"] if seen["position_ids"] is not None else torch.arange(b.length)[None]
        out = lm(
            inputs_embeds=merged[:, alive],
            position_ids=ids[..., alive],
            attention_mask=torch.ones(1, int(alive.sum())),
            **extra,
        )
        want = model.lm_head(out.last_hidden_state[:, -1])
        with attach(model, Plan((Cut("input", Halves(), 0.9),), positions="original")):
            got = model(**b.inputs).logits[:, -1]
    assert_close(got, want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["llava", "internvl", "qwen2_5_vl"])
def test_merging_before_the_projector(name):
    model, b = shared(name), one(name) if name != "internvl" else batch(name, [Row([3, ("image", 1), 9], 5)])
    projector = model.model.visual.merger if name in QWEN else model.model.multi_modal_projector
    plain, cut = [], []
    with torch.no_grad():
        handle = projector.register_forward_pre_hook(lambda m, a: plain.append(a[0]))
        model(**b.inputs)
        handle.remove()
        with attach(model, Plan((Cut("encoder", Halves(), 0.9),))) as attached:
            original = projector.forward
            projector.forward = lambda x, *a: cut.append(x) or original(x, *a)
            try:
                model(**b.inputs)
            finally:
                del projector.forward
            n = attached.report.images[0].tokens
            assert attached.report.images[0].cuts[0].kept == (0, n - 1)
    rows = plain[0].reshape(n, -1)
    if name == "qwen2_5_vl":
        from foveate.hf.families import FAMILIES

        rows = FAMILIES[name].pack(model.model, "image", b.inputs, rows)[0]
    weights = Halves()(type("V", (), {"shape": (1, n)})(), n).mix_BKN[0]
    want = weights @ rows
    got = cut[0].reshape(2, -1)
    if not torch.allclose(got, want, atol=1e-5):
        got = got.flip(0)
    assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_cuts_over_the_prompt(name):
    """Text may go, but never template, BOS or the last tokens; batch = singles holds as ever."""
    model, b = shared(name), pair(name)
    plan = Plan((Cut(2, Words(), 0.4, over="prompt"),))
    with torch.no_grad(), attach(model, plan) as attached:
        together = model.generate(
            **b.inputs, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        report = attached.report
        assert sum(report.text_dropped) > 0
        assert min(len(i.cuts[0].kept) for i in report.images) < report.images[0].tokens
        held = {layer.keys.shape[2] for layer in together.past_key_values.layers}
        assert len(held) == 2
        for r, row in enumerate(b.rows):
            single = batch(name, [row])
            alone = model.generate(
                **single.inputs, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
            for x, y in zip(alone.logits, together.logits, strict=True):
                assert_close(x[0], y[r], rtol=1e-4, atol=2e-5)
            cache = alone.past_key_values.layers[2]
            kept = cache.kept.index_BP[0].tolist()
            ids = single.inputs["input_ids"][0]
            assert ids[kept[0]] == BOS
            assert kept[-5:] == list(range(single.length - 5, single.length))
            assert kept[1:4] == [1, 2, 3][: len(kept[1:4])] or row.parts[0] < 3


@pytest.mark.parametrize("name", ["llava", "internvl", "qwen2_vl"])
def test_adaptive_selectors_are_asked_below_their_cap_but_not_with_everything(name):
    """An adaptive cut before another leaves fewer than the second may keep, which may still keep fewer."""
    model, b = shared(name), one(name)
    counts = []
    for keep in (1.0, 0.9):
        plan = Plan((Cut("input", Threshold(), keep), Cut(1, Threshold(), 0.9)))
        with torch.no_grad(), attach(model, plan) as attached:
            model(**b.inputs)
            image = attached.report.images[0]
            counts.append((image.tokens, *(c.count for c in image.cuts)))
    (whole, first, second), (_, third, fourth) = counts
    assert first == whole > second > 0
    assert third < 0.9 * whole
    assert 0 < fourth < third


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_at_every_layer(name):
    from foveate.methods.fastv import TextAttention

    model, b = shared(name), pair(name)
    for layer in ("previous", "own"):
        select = TextAttention(Attention("text", layer))
        cuts = [Cut(i, select, 1.0 - 0.2 * i) for i in range(int(layer == "previous"), DEPTH)]
        with torch.no_grad(), attach(model, Plan(tuple(cuts))) as attached:
            told = model.generate(**b.inputs, max_new_tokens=3, do_sample=False)
            counts = [i.per_layer for i in attached.report.images]
            for r, row in enumerate(b.rows):
                single = batch(name, [row])
                alone = model.generate(**single.inputs, max_new_tokens=3, do_sample=False)
                assert torch.equal(alone[0, single.length :], told[r, b.length :])
        assert all(c == tuple(sorted(c, reverse=True)) and c[-1] < c[0] for c in counts)


# -- what must never go


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "internvl"])
@pytest.mark.parametrize("at", ["encoder", "input", 1])
def test_a_prompt_that_ends_in_its_image(name, at):
    """The next token is predicted from the last one, so it stays, outside the count; batch = singles all the same."""
    first_tokens = Spy(lambda n, k: torch.arange(k))
    model, size = shared(name), SIZES[name][0]
    full = batch(name, [Row([4, ("image", size), 1], 1), Row([9, ("image", size), 1], 2)])
    cut = 2  # the marker after the image and one word
    b = {
        k: v[:, :-cut] if k in ("input_ids", "attention_mask", "mm_token_type_ids") else v
        for k, v in full.inputs.items()
    }
    assert bool((b["input_ids"][:, -1] == IMAGE).all())
    with torch.no_grad(), attach(model, Plan((Cut(at, first_tokens, 0.3),), positions="original")) as attached:
        logits = model(**b).logits[:, -1]
        image = attached.report.images[0]
    assert float(logits.abs().max()) > 0
    assert image.cuts[0].kept[-1] == image.tokens - 1
    assert image.cuts[0].count == image.cuts[0].asked + 1


@pytest.mark.parametrize("words", [1, 3, 5, 6])
def test_short_questions_lose_no_template(words):
    model = shared("llava")
    b = batch("llava", [Row([3, ("image", (24, 24)), words], 1)])
    with torch.no_grad(), attach(model, Plan((Cut(2, Words(), 0.1, over="prompt"),))) as attached:
        out = model(**b.inputs)
        cache = out.past_key_values.layers[2]
        kept = cache.kept.index_BP[0].tolist()
    tail = min(5, words + 1)
    assert kept[:5] == [0, 1, 2, 3, 4]
    assert kept[-tail:] == list(range(b.length - tail, b.length))
    assert float(out.logits[0, -1].abs().max()) > 0
    assert attached.report.text_dropped[0] <= max(0, words + 1 - 5)


@pytest.mark.parametrize("tail", [0, -3, 1.5, True, "all"])
def test_a_tail_that_is_none(tail):
    with pytest.raises(PlanError, match="tail is"):
        attach(shared("llava"), TWO_STAGES, tail=tail)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("positions", ["original", "contiguous"])
def test_a_row_that_loses_nothing_is_as_it_was(name, positions):
    """An image of as few tokens as may stay keeps its places, whoever stands beside it."""
    model, sizes = shared(name), SIZES[name]
    small = Row([3, ("image", sizes[0]), 9], 1)
    keep = batch(name, [small]).inputs["input_ids"].eq(IMAGE).sum().item()
    large = Row([2, ("image", sizes[-1]), 1, ("image", sizes[-1]), 9], 2)
    if name in ("llava", "internvl"):
        keep = min(keep, 10)
        small = Row([12], 1)
    if name == "llava_onevision":
        keep, large = min(keep, 17), Row([2, ("image", sizes[-1]), 9], 2)
    plan = Plan((Cut("input", method("uniform", keep=1).cuts[0].select, keep),), positions=positions)
    b = batch(name, [small, large])
    with torch.no_grad():
        plain = model.generate(**batch(name, [small]).inputs, max_new_tokens=3, do_sample=False, output_logits=True,
                               return_dict_in_generate=True)  # fmt: skip
        with attach(model, plan) as attached:
            together = model.generate(**b.inputs, max_new_tokens=3, do_sample=False, output_logits=True,
                                      return_dict_in_generate=True)  # fmt: skip
            assert any(i.per_layer[0] < i.tokens for i in attached.report.images)
    if name == "llava_onevision":
        return  # its small image is not the smallest number of tokens
    for x, y in zip(plain.logits, together.logits, strict=True):
        assert_close(x[0], y[0], rtol=1e-4, atol=2e-5)


# -- the report


def test_report_counts():
    model = shared("llava")
    b = batch("llava", [Row([3, ("image", (24, 24)), 9], 1)])
    plan = Plan(
        (
            Cut("input", method("uniform", keep=18).cuts[0].select, 18),
            Cut(2, method("uniform", keep=9).cuts[0].select, 9),
        )
    )
    with torch.no_grad(), attach(model, plan) as attached:
        assert attached.report is None
        assert "18 at input" in repr(attached)
        out = model(**b.inputs)
        report = attached.report
    image = report.images[0]
    assert image.per_layer == (18, 18, 9, 9)
    assert report.budget == 13.5
    assert report.budget_fraction == 13.5 / 36
    assert set(image.cuts[1].kept) < set(image.cuts[0].kept) < set(range(36))
    assert report.cache_tokens_full == DEPTH * b.length
    assert report.cache_tokens == sum(layer.keys.shape[2] for layer in out.past_key_values.layers)
    assert report.cache_bytes_saved == (report.cache_tokens_full - report.cache_tokens) * 2 * 2 * 8 * 4
    assert report.select_seconds > 0
    data = report.to_dict(indices=True)
    assert data["images"][0]["cuts"][1] == {
        "at": 2,
        "asked": 9,
        "kept": 9,
        "all": False,
        "indices": list(image.cuts[1].kept),
    }
    assert "36 -> 18 at input -> 9 at 2" in repr(report)


def test_cache_follows_rows():
    """Selecting, repeating and cropping rows of a pruned cache keeps its story straight."""
    model, b = shared("llava"), pair("llava")
    plan = Plan((Cut("input", Threshold(), 0.9),))
    with torch.no_grad(), attach(model, plan):
        cache = model(**b.inputs, use_cache=True).past_key_values
        rows = torch.tensor([1, 0, 1])
        token = torch.tensor([[7], [7], [7]])
        mask = torch.cat((b.inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)), 1)
        base = model(input_ids=token[:2], attention_mask=mask, past_key_values=cache, use_cache=True).logits
        cache.crop(-1)
        cache.batch_select_indices(rows)
        again = model(input_ids=token, attention_mask=mask[rows], past_key_values=cache, use_cache=True).logits
        assert_close(again, base[rows], rtol=1e-4, atol=2e-5)
        cache.crop(-1)
        cache.batch_repeat_interleave(2)
        twice = model(
            input_ids=token.repeat_interleave(2, 0),
            attention_mask=mask[rows].repeat_interleave(2, 0),
            past_key_values=cache,
        ).logits
        assert_close(twice, base[rows].repeat_interleave(2, 0), rtol=1e-4, atol=2e-5)
        with pytest.raises(ModelError, match="reach into a pruned prompt"):
            cache.crop(-20)
        assert isinstance(cache, DynamicCache)
        cache.reset()
        assert cache.layers[0].kept is None


def test_importing_changes_nothing():
    import subprocess
    import sys

    code = (
        "import transformers.modeling_utils as m, transformers.masking_utils as k, transformers.cache_utils as c\n"
        "before = dict(m.AttentionInterface._global_mapping), dict(k.AttentionMaskInterface._global_mapping), "
        "dict(vars(c.DynamicLayer))\n"
        "import foveate\n"
        "assert before == (m.AttentionInterface._global_mapping, k.AttentionMaskInterface._global_mapping, "
        "dict(vars(c.DynamicLayer)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_padding_token_does_not_matter():
    """What stands at padded places changes nothing."""
    model, b = shared("llava"), pair("llava")
    other = b.inputs["input_ids"].clone()
    other[b.inputs["attention_mask"] == 0] = 99
    assert bool((b.inputs["input_ids"] == PAD).any())
    with torch.no_grad(), attach(model, TWO_STAGES):
        x = model(**b.inputs).logits[:, -1]
        y = model(**dict(b.inputs, input_ids=other)).logits[:, -1]
    assert_close(x, y)
