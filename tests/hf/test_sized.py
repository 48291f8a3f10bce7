"""Log-size attention: a merged token is seen as all that it stands for, in every layer, batch, turn and cache."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from foveate import Cut, ModelError, Plan, PlanError, attach
from foveate.hf.families import FAMILIES
from foveate.hf.plan_checks import check_plan
from foveate.hf.sizing import nearness
from foveate.methods import METHODS
from foveate.methods.sized import Sized, sized
from foveate.methods.switches import merged
from foveate.ops.merging import averaged, mixture, sizes
from foveate.selection import Attention, Selection
from foveate.servable import servable
from laws.test_laws import STEPS, generate, mixed
from masked import SIZES, alive, masked, places
from reference.cases import Case
from zoo import DEPTH, NAMES, QWEN, Row, batch, build, shared
from zoo import SIZES as PICTURES


@dataclass(frozen=True)
class Runs:
    """Evenly spaced tokens, each standing for those up to the next; `faint`: by weights that leave its row as it is."""

    faint: bool = True
    reads = frozenset({"hidden_BND"})
    adaptive = False

    def __call__(self, view, k):
        b, n = view.shape
        place = torch.arange(k) * n // k
        keep_BN = torch.zeros(b, n, dtype=torch.bool).index_fill(1, place, True)
        home_BN = place[keep_BN.long().cumsum(1) - 1]
        if self.faint:
            return Selection(keep_BN, mixture(keep_BN, home_BN, keep_BN.float().clamp(min=1e-20)))
        return Selection(keep_BN, averaged(keep_BN, home_BN))


def inside():
    return Plan((Cut("input", Runs(), 0.5),), positions="original")


def runs(*cuts):
    return sized(Plan(tuple(Cut(at, Runs(), keep) for at, keep in cuts), positions="original"))


PLANS = {
    "encoder": runs(("encoder", 0.5)),
    "input": runs(("input", 0.5)),
    "layer": runs((2, 0.3)),
    "often": runs(("input", 0.7), (1, 0.5), (3, 0.25)),
}


def tell(report, b, where, depth=DEPTH):
    """How many tokens each place of the prompts stands for in each layer: up to the next one that is there."""
    for layer in range(depth):
        size_BL = torch.ones(b.inputs["input_ids"].shape)
        for image in report.images:
            left = torch.arange(image.tokens)
            for cut in image.cuts:
                if not isinstance(cut.at, int) or cut.at <= layer:
                    left = torch.tensor(cut.kept, dtype=torch.long)
            ends = torch.cat((left[1:], torch.tensor([image.tokens])))
            size_BL[image.row, where[image.row, image.image][left]] = (ends - left).float()
        SIZES[layer] = size_BL


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", PLANS)
def test_dropped_with_sizes_is_masked_with_sizes_through_decoding(name, how):
    if how == "encoder" and name == "internvl":
        pytest.skip("merges tile by tile there: the next test")
    model, b = shared(name), mixed(name)
    with torch.no_grad(), attach(model, PLANS[how]) as attached:
        try:
            full, told = model(**b.inputs), generate(model, b)
        except ModelError as refused:
            assert how == "encoder" and "merged before" in str(refused)
            return
        report = attached.report
    real, where = b.inputs["attention_mask"].bool(), places(b.inputs)
    held = alive(report, real, where)
    assert held.sum() < real.sum()
    with torch.no_grad(), masked(name, report, real, where, DEPTH) as yardstick:
        plain = yardstick(**b.inputs).logits
        tell(report, b, where)
        want, want_told = yardstick(**b.inputs).logits, generate(yardstick, b)
    assert_close(full.logits[held], want[held], rtol=1e-4, atol=2e-5)
    assert (want[held] - plain[held]).abs().max() > 1e-3, "sizes are seen"
    assert torch.equal(told.sequences, want_told.sequences)
    for a, c in zip(told.logits, want_told.logits, strict=True):
        assert_close(a, c, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_behind_the_encoder_is_one_at_the_input(name):
    model = shared(name)
    size = 1 if name == "internvl" else (24, 24) if name == "llava" else (16, 16)
    b = batch(name, [Row([3, ("image", size), 11], 2), Row([2, ("image", size), 15], 3)])
    told = []
    for plan in (PLANS["encoder"], PLANS["input"]):
        with torch.no_grad(), attach(model, plan):
            told.append(generate(model, b))
    for a, c in zip(told[0].logits, told[1].logits, strict=True):
        assert_close(a, c, rtol=1e-4, atol=2e-5)


# Qwen's positions come from ids, which embeddings are not; DeepStack adds to some copies what others do not get.
@pytest.mark.parametrize("name", [n for n in NAMES if n not in QWEN])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_equal_tokens_at_one_place_merged_are_all_of_them(name, kernel):
    """Nothing before them, so each of them sees but its like: what they say in each layer is what one of them says."""
    model = shared(name, kernel)
    copies, words, b = 12, 9, 2
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(b, 1, model.config.text_config.hidden_size, generator=generator)
    said = torch.randn(b, words, one.shape[2], generator=generator)
    embeds = torch.cat((one.expand(-1, copies, -1), said), 1)
    visual = torch.zeros(embeds.shape[:2], dtype=torch.bool)
    visual[:, :copies] = True
    place = torch.cat((torch.zeros(copies, dtype=torch.long), torch.arange(1, words + 1)))
    told = {
        "inputs_embeds": embeds,
        "attention_mask": torch.ones_like(visual).long(),
        "position_ids": place.expand(b, -1),
    }
    answers = {}
    for keep in (1, 5):
        inside = Plan((Cut("input", Runs(faint=False), keep),), positions="original")
        for which, plan in (("sized", sized(inside)), ("not", inside)):
            with torch.no_grad(), attach(model, plan) as attached, attached.embedded(visual):
                answers[which, keep] = model(**told).logits[:, copies:]
    with torch.no_grad():
        want = model(**told).logits[:, copies:]
    assert_close(answers["sized", 1], want, rtol=1e-4, atol=2e-5)
    assert (answers["not", 1] - want).abs().max() > 1e-2
    # Five of them are 3, 2, 3, 2 and 2: still as many for the words, though they see each other so.
    assert_close(answers["sized", 5], want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in QWEN])
@pytest.mark.parametrize("how", ["input", "often"])
def test_sizes_go_with_the_cache(name, how):
    """A second turn, one token at a time or at once, from a cache whose rows were put about."""
    model, b = shared(name), mixed(name)
    more = torch.randint(3, 100, (len(b.rows), STEPS), generator=torch.Generator().manual_seed(9))
    mask = torch.cat((b.inputs["attention_mask"], torch.ones_like(more)), 1)
    real, where = b.inputs["attention_mask"].bool(), places(b.inputs)

    def turn(engine, order=None):
        cache = engine(**b.inputs, use_cache=True).past_key_values
        ids, seen = more, mask
        if order is not None:
            cache.batch_select_indices(order)
            ids, seen = more[order], mask[order]
        return engine(input_ids=ids, attention_mask=seen, past_key_values=cache).logits

    order = torch.tensor([2, 0, 1])
    with torch.no_grad(), attach(model, PLANS[how]) as attached:
        got, turned = turn(model), turn(model, order)
        cache = model(**b.inputs, use_cache=True).past_key_values
        steps = []
        for i in range(STEPS):
            seen = mask[:, : b.length + i + 1]
            steps.append(model(input_ids=more[:, i : i + 1], attention_mask=seen, past_key_values=cache).logits)
        report = attached.report
        model(**b.inputs)
        report = attached.report
    with torch.no_grad(), masked(name, report, real, where, DEPTH) as yardstick:
        tell(report, b, where)
        want = turn(yardstick)
    assert_close(got, want, rtol=1e-4, atol=2e-5)
    assert_close(torch.cat(steps, 1), want, rtol=1e-4, atol=2e-5)
    assert_close(turned, want[order], rtol=1e-4, atol=2e-5)
    with torch.no_grad(), pytest.raises(ModelError, match="attach the plan again"):
        model(input_ids=more[:, :1], attention_mask=mask[:, : b.length + STEPS + 1], past_key_values=cache)


def test_a_later_cut_sees_the_attention_there_is():
    """FastV behind merged tokens: what it reads is what the layer attends with."""
    model, b = shared("llava"), batch("llava", [Row([3, ("image", (24, 24)), 11], 2)])
    seen = []

    @dataclass(frozen=True)
    class Look:
        reads = frozenset({"text_attn_BN"})
        adaptive = False
        attention = Attention("last", "previous")

        def __call__(self, view, k):
            seen.append(view.text_attn_BN)
            return Selection.top(view.text_attn_BN, k)

    cuts = Cut("input", Sized(Runs()), 12), Cut(2, Look(), 6)
    eager = shared("llava", "eager")
    with torch.no_grad(), attach(model, Plan(cuts)):
        model(**b.inputs)
    with torch.no_grad(), attach(eager, Plan(cuts[:1])):
        maps = eager(**b.inputs, output_attentions=True).attentions
    kept = torch.arange(12) * 36 // 12
    where = places(b.inputs)[0, 0][kept]
    assert_close(seen[0][0], maps[1][0, :, -1, where].mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_distances_are_added_between_all_pairs_at_the_prefill(name):
    """Against the formula, pair by pair: what a layer's attention adds to its scores."""
    eager, b = shared(name, "eager"), batch(name, [Row([3, ("image", PICTURES[name][0]), 9], 2)])
    lm, seen = eager.model.language_model, {}

    def spy(_module, _args, kwargs):
        seen["mask"], seen["table"] = kwargs["attention_mask"], kwargs["position_embeddings"]

    masks = {}
    handle = lm.layers[1].self_attn.register_forward_pre_hook(spy, with_kwargs=True)
    for far in (False, True):
        with torch.no_grad(), attach(eager, sized(inside(), far)):
            eager(**b.inputs)
        masks[far] = seen["mask"][0, 0]
    handle.remove()
    got = (masks[True] - masks[False]).tril().exp()
    # Rotating a vector of ones by two places' tables and multiplying is the sum of cosines of the difference.
    cos, sin = (t[0, :, : t.shape[-1] // 2] for t in seen["table"])
    alike = cos @ cos.T + sin @ sin.T
    if name not in QWEN:
        assert_close(got, (2 - alike / cos.shape[1]).tril() + torch.ones_like(got).triu(1), rtol=1e-4, atol=1e-4)
    assert_close(got.diagonal(), torch.ones(len(got)))
    assert got.min() > 0.99 and got.max() > 1.2
    with torch.no_grad(), attach(eager, sized(inside(), True)):
        told = generate(eager, b)
    with torch.no_grad(), attach(shared(name), sized(inside(), True)):
        same = generate(shared(name), b)
    assert all(torch.allclose(x, y, rtol=1e-4, atol=2e-5) for x, y in zip(told.logits, same.logits, strict=True))


def test_the_decay_is_the_published_one():
    """At head dimension 128 and base 10,000, the values computed in float64 from the paper's formula; and by axes."""
    case = Case("restore", "q4")
    far, want = case["distance"], case["log_term"]
    rotary = SimpleNamespace(inv_freq=10000.0 ** (-2 * torch.arange(64).double() / 128))
    assert_close(nearness(far, rotary, None)[:, 0], want, rtol=1e-9, atol=1e-9)
    axes = torch.stack((far, far * 0, far))
    config = SimpleNamespace(rope_parameters={"mrope_section": [16, 24, 24]})
    decay = (16 + 24) / 64 * case["decay"] + 24 / 64
    assert_close(nearness(axes, rotary, config)[:, 0], (2 - decay).log(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """The mask is of the states' type, whatever that is, and says the same to its rounding."""
    b = mixed("llava")
    whole = shared("llava")
    half = build("llava").to(dtype)
    cuts = tuple(Cut(c.at, Sized(c.select.select, True), c.keep) for c in PLANS["often"].cuts)
    twice, told = Plan(cuts, positions="original"), []
    for model, inputs in ((whole, b.inputs), (half, b.inputs | {"pixel_values": b.inputs["pixel_values"].to(dtype)})):
        with torch.no_grad(), attach(model, twice):
            told.append(model(**inputs).logits.float()[b.inputs["attention_mask"].bool()])
    assert bool(told[1].isfinite().all())
    assert (told[0] - told[1]).abs().max() < 0.1 * told[0].abs().max()


def test_every_token_counts_once():
    mix_KN = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.2, 1.0, 0.0]])
    want = torch.tensor([1 + 0.5 / 0.7, 0.2 / 0.7 + 1])
    assert_close(sizes(mix_KN, torch.ones(4)), want)
    assert_close(sizes(mix_KN, torch.tensor([3.0, 1, 2, 9])), want + torch.tensor([2.0, 1.0]))
    assert sizes(torch.tensor([[0.0, 0.0]]), torch.ones(2)).tolist() == [1.0], "nobody stands for less than itself"


@pytest.mark.parametrize("method", ["tome", "visionzip", "prumerge", "pool", "trim"])
def test_any_method_that_merges(method):
    model, b = shared("llava"), mixed("llava")
    plan = sized(METHODS[method](keep=0.4))
    assert Plan.from_json(plan.to_json()) == plan
    with torch.no_grad(), attach(model, plan):
        got = model(**b.inputs).logits
    with torch.no_grad(), attach(model, METHODS[method](keep=0.4)):
        plain = model(**b.inputs).logits
    assert bool(got.isfinite().all()) and (got - plain).abs().max() > 1e-4


def test_what_cannot_be_is_refused():
    family, model = FAMILIES["llava"], shared("llava")
    lm = model.model.language_model
    plan = sized(merged(METHODS["divprune"](keep=4)))

    def like(**over):
        told = {"_attn_implementation": "sdpa", "model_type": lm.config.model_type, "layer_types": None} | over
        return SimpleNamespace(config=SimpleNamespace(**told), layers=lm.layers)

    check_plan(plan, family, model.model, like())
    with pytest.raises(PlanError, match="'flash_attention_2' does not"):
        check_plan(plan, family, model.model, like(_attn_implementation="flash_attention_2"))
    with pytest.raises(PlanError, match="a gemma4_text attend"):
        check_plan(plan, family, model.model, like(model_type="gemma4_text"))
    assert "add nothing" in servable(plan) and servable(merged(METHODS["divprune"](keep=4))) is None
    b = batch("llava", [Row([3, ("image", PICTURES["llava"][0]), 11], 2)])
    with torch.no_grad(), attach(model, sized(METHODS["divprune"](keep=4))), pytest.raises(PlanError, match="wrap it"):
        model(**b.inputs)


@torch.no_grad()
@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_a_prompt_in_which_nothing_is_merged_is_beside_others_as_by_itself(name, far):
    """One without a picture; distances are added to the attention of the others."""
    model, rows = shared(name), [Row([3, ("image", PICTURES[name][0]), 11], 2), Row([17], 4)]
    with attach(model, sized(inside(), far)):
        told = model(**batch(name, rows).inputs).logits[:, -1]
        alone = [model(**batch(name, [row]).inputs).logits[0, -1] for row in rows]
    assert_close(told, torch.stack(alone), rtol=1e-4, atol=2e-5)
