"""ToMe inside the tower: the paper's loop written out, exact counts, nothing lost, and a tower that does less."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dinov2 import needs_queries
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    Dinov2Config,
    GemmaConfig,
    LlamaConfig,
    LlavaConfig,
    PaliGemmaConfig,
    SiglipVisionConfig,
)

from foveate import Cut, FoveateError, ModelError, Plan, PlanError, SignalError, attach
from foveate.methods import METHODS
from foveate.methods.sized import sized
from foveate.methods.switches import counted, merged, restored
from foveate.methods.tome_inside import MergedInside
from foveate.ops.bipartite import matched
from foveate.selection import TokenView
from foveate.servable import servable
from zoo import IMAGE, TEXT, lively, shared

SIDE = 6
PATCHES = SIDE**2
TOWER = dict(
    hidden_size=24, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=4 * SIDE, patch_size=4
)
TOWERS = ["clip", "siglip", pytest.param("dinov2", marks=needs_queries), "paligemma"]
tome = METHODS["tome"]


def inside(keep, **options):
    return tome(keep, at="tower", **options)


@cache
def model_of(tower, kernel="sdpa", **other):
    common = dict(image_token_id=IMAGE, tie_word_embeddings=False, image_seq_length=PATCHES)
    if tower == "paligemma":
        vision = SiglipVisionConfig(**TOWER, vision_use_head=False, projection_dim=32)
        text = GemmaConfig(**TEXT | {"head_dim": 8})
        config = PaliGemmaConfig(
            vision_config=vision, text_config=text, hidden_size=32, projection_dim=32, image_token_index=IMAGE, **common
        )
    else:
        kinds = {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig, "dinov2": Dinov2Config}
        more = {"dinov2": {"mlp_ratio": 2}, "siglip": {"vision_use_head": False}}.get(tower, {})
        select = "full" if tower == "siglip" else "default"
        chosen = dict(vision_feature_layer=-1 if tower == "siglip" else -2, vision_feature_select_strategy=select)
        config = LlavaConfig(
            vision_config=kinds[tower](**TOWER | more), text_config=LlamaConfig(**TEXT), **common | chosen | other
        )
    torch.manual_seed(0)
    return lively(AutoModelForImageTextToText.from_config(config, attn_implementation=kernel).eval())


def pixels(b=3, seed=1):
    return torch.randn(b, 3, 4 * SIDE, 4 * SIDE, generator=torch.Generator().manual_seed(seed))


def prompts(b=3):
    text = torch.arange(b)[:, None] + torch.tensor([3, 9, 20, 31])
    ids = torch.cat((torch.ones(b, 1).long(), torch.full((b, PATCHES), IMAGE), text), 1)
    return dict(input_ids=ids, pixel_values=pixels(b), attention_mask=torch.ones_like(ids))


@torch.no_grad()
def encoded(model, plan, x):
    """Features [B, P, D], zeros where no token stays, and what is known of each image."""
    with attach(model, plan) as a:
        out = model.model.get_image_features(x)
        return torch.stack(list(out.pooler_output)), a.pending["image"].images


# -- the paper's loop, one image and one token at a time


def parts(tower, base):
    layers = getattr(base.vision_tower.encoder, "layers", None) or base.vision_tower.encoder.layer
    depth = {"clip": 3, "dinov2": 3, "siglip": 4, "paligemma": 4}[tower]
    return list(layers)[:depth], int(tower in ("clip", "dinov2"))


def attended(layer, x_SD, sizes, proportional):
    attn = getattr(layer, "self_attn", None) or layer.attention
    y = (getattr(layer, "layer_norm1", None) or layer.norm1)(x_SD)
    q, k, v = (p(y).unflatten(-1, (2, -1)).transpose(0, 1) for p in (attn.q_proj, attn.k_proj, attn.v_proj))
    score = q @ k.mT * (q.shape[-1] ** -0.5)
    if proportional:
        score = score + torch.tensor([float(len(s)) for s in sizes]).log()
    out = (score.softmax(-1) @ v).transpose(0, 1).flatten(1)
    out = (getattr(attn, "out_proj", None) or attn.o_proj)(out)
    scale = getattr(layer, "layer_scale1", lambda z: z)
    return x_SD + scale(out), k.mean(0)


def rest_of(layer, x_SD):
    scale = getattr(layer, "layer_scale2", lambda z: z)
    return x_SD + scale(layer.mlp((getattr(layer, "layer_norm2", None) or layer.norm2)(x_SD)))


def loop(tower, base, x_SD, k, proportional=True, as_released=False, depth=None, seen=None):
    """Tokens behind the feature layer, and the patches in each, that in whose place it is first"""
    layers, cls = parts(tower, base)
    layers = list(base.vision_tower.encoder.layers)[:depth] if depth else layers
    members = [[i] for i in range(len(x_SD))]

    def patches():
        return x_SD[cls:], [[i - cls for i in m] for m in members[cls:]]

    if seen is not None:
        seen.append(patches())
    for number, layer in enumerate(layers):
        x_SD, keys = attended(layer, x_SD, members, proportional)
        after = len(layers) - number - 1
        alive = len(x_SD) - cls
        left = min(alive - -(-(alive - k) // (after + 1)), k * 2**after)
        keys = torch.nn.functional.normalize(keys, dim=-1)
        odd = range(1, len(x_SD), 2)
        best = []
        for i in range(0, len(x_SD), 2):
            if i >= cls:
                like, to = max(((float(keys[i] @ keys[j]), j) for j in odd), key=lambda pair: pair[0])
                best.append((like, i, to))
        best.sort(key=lambda entry: -entry[0])
        rows, groups = [row * len(m) for row, m in zip(x_SD, members, strict=True)], [list(m) for m in members]
        gone = [i for _, i, _ in best[: alive - left]]
        for _, i, to in best[: alive - left]:
            rows[to] = rows[to] + rows[i]
            groups[to] += groups[i]
        stay = [i for i in range(len(rows)) if i not in gone]
        if as_released:
            evens = [0] * cls + [i for _, i, _ in best[alive - left :]]
            stay = [*(sorted(evens) if cls else evens), *odd]
        members = [groups[i] for i in stay]
        x_SD = rest_of(layer, torch.stack([rows[i] / len(groups[i]) for i in stay]))
        if seen is not None:
            seen.append(patches())
    return patches()


def first_states(model, x):
    """What the tower's first layer is given."""
    seen = []
    layers = getattr(model.model.vision_tower.encoder, "layers", None) or model.model.vision_tower.encoder.layer
    handle = layers[0].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        model.model.get_image_features(x)
    handle.remove()
    return seen[0]


def projected(tower, model, rows):
    if tower == "paligemma":
        rows = model.model.vision_tower.post_layernorm(rows)
    return model.model.multi_modal_projector(rows)


@torch.no_grad()
@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize(
    ("keep", "options"),
    [(12, {}), (20, {"proportional": False}), (9, {"as_released": True}), (0.5, {})],
    ids=["a third", "unweighted attention", "released order", "half"],
)
def test_it_is_the_papers_loop(tower, keep, options):
    model, x = model_of(tower), pixels()
    k = keep if isinstance(keep, int) else PATCHES // 2
    found, images = encoded(model, inside(keep, **options), x)
    for image, states, features in zip(images, first_states(model, x), found, strict=True):
        rows, groups = loop(tower, model.model, states, k, **options)
        order = sorted(range(k), key=lambda i: groups[i][0])
        assert image.kept.tolist() == [groups[i][0] for i in order]
        assert_close(features[image.kept], projected(tower, model, rows)[order], rtol=1e-4, atol=1e-4)
        others = features.clone().index_fill_(0, image.kept, 0)
        assert not others.any()


@torch.no_grad()
@pytest.mark.parametrize("layers", [[0, 2, 3], [4, 1], [-2, 2]])
def test_joined_layers_are_means_over_the_groups_at_the_deepest(layers):
    """An earlier layer's state of a merged token: the mean of its members' by their sizes there."""
    model, x, k = model_of.__wrapped__("clip", vision_feature_layer=layers), pixels(), 11
    deepest = max(i % 5 for i in layers)
    found, images = encoded(model, inside(k), x)
    for image, states, features in zip(images, first_states(model, x), found, strict=True):
        seen = []
        rows, groups = loop("clip", model.model, states, k, depth=deepest, seen=seen)
        order = sorted(range(k), key=lambda i: groups[i][0])
        assert image.kept.tolist() == [groups[i][0] for i in order]
        parts = []
        for index in (i % 5 for i in layers):
            earlier, members = seen[index]
            of = [[j for j, m in enumerate(members) if set(m) <= set(groups[i])] for i in order]
            sizes = torch.tensor([float(len(m)) for m in members])
            parts.append(torch.stack([(sizes[g, None] * earlier[g]).sum(0) / sizes[g].sum() for g in of]))
        assert_close(parts[[i % 5 for i in layers].index(deepest)], rows[order], rtol=1e-4, atol=1e-4)
        want = model.model.multi_modal_projector(torch.cat(parts, -1))
        assert_close(features[image.kept], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tower", TOWERS)
def test_keeping_all_changes_nothing(tower):
    model, given = model_of(tower), prompts()
    with torch.no_grad():
        want = model(**given).logits
        for keep in (1.0, PATCHES, PATCHES + 5):
            with attach(model, inside(keep)):
                assert torch.equal(model(**given).logits, want)
        assert torch.equal(model(**given).logits, want), "and detaching leaves no hook behind"


@torch.no_grad()
@pytest.mark.parametrize("tower", ["clip", "siglip"])
def test_sizes_sum_to_all_and_every_patch_is_somewhere(tower):
    for k in (5, 17, 35):
        _, images = encoded(model_of(tower), sized(inside(k)), pixels())
        for image in images:
            assert image.mix.shape == (k, PATCHES) and len(set(image.kept.tolist())) == k
            assert ((image.mix > 0).sum(0) == 1).all()
            assert_close(image.mix.sum(1), torch.ones(k))
            sizes = image.sizes_N
            assert float(sizes[image.kept].sum()) == pytest.approx(PATCHES)
            assert (sizes[image.kept] - (image.mix > 0).sum(1)).abs().max() < 1e-3


@torch.no_grad()
@pytest.mark.parametrize("tower", ["clip", "siglip", "paligemma"])
def test_copies_are_merged_without_a_loss(tower):
    """Each patch twice, at equal places: half of the tokens then say all that all of them said."""
    model = model_of(tower)
    handle = model.model.vision_tower.encoder.layers[0].register_forward_pre_hook(
        lambda m, args: (twins(args[0], int(tower == "clip")), *args[1:])
    )
    try:
        want = torch.stack(list(model.model.get_image_features(pixels()).pooler_output))
        found, images = encoded(model, inside(PATCHES // 2), pixels())
        worse, _ = encoded(model, inside(PATCHES // 2, proportional=False), pixels())
    finally:
        handle.remove()
    for image, a, b, c in zip(images, found, want, worse, strict=True):
        assert sorted(i // 2 for i in image.kept.tolist()) == list(range(PATCHES // 2)), "one of each pair"
        assert_close(a[image.kept], b[image.kept], rtol=1e-4, atol=1e-4)
        if tower == "clip":
            assert (c[image.kept] - b[image.kept]).abs().max() > 1e-3, "by attention to [CLS], which has no twin"


def twins(x_BSD, cls):
    x_BPD = x_BSD[:, cls:]
    return torch.cat((x_BSD[:, :cls], x_BPD[:, ::2].repeat_interleave(2, 1)), 1)


@torch.no_grad()
@pytest.mark.parametrize("tower", TOWERS)
def test_a_batch_is_its_images_in_any_order(tower):
    model, x = model_of(tower), pixels(4)
    together, images = encoded(model, inside(10), x)
    for i in range(4):
        alone, (image,) = encoded(model, inside(10), x[i : i + 1])
        assert torch.equal(image.kept, images[i].kept)
        assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)
    turned, other = encoded(model, inside(10), x[[2, 0, 3, 1]])
    assert [e.kept.tolist() for e in other] == [images[i].kept.tolist() for i in (2, 0, 3, 1)]
    assert_close(turned, together[[2, 0, 3, 1]], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_language_model_gets_them_at_the_places_of_those_they_are_in():
    model, given, k = model_of("clip"), prompts(), 11
    features, images = encoded(model, inside(k), given["pixel_values"])
    embeds = model.get_input_embeddings()(given["input_ids"])
    embeds[:, 1 : 1 + PATCHES] = features
    places = torch.stack(
        [torch.cat((torch.tensor([0]), e.kept + 1, torch.arange(PATCHES + 1, PATCHES + 5))) for e in images]
    )
    want = model(inputs_embeds=embeds.gather(1, places[:, :, None].expand(-1, -1, 32)), position_ids=places).logits
    with attach(model, inside(k)) as a:
        found = model(**given).logits
        assert [len(i.cuts[-1].kept) for i in a.report.images] == [k] * 3
    assert_close(found[:, -4:], want[:, -4:], rtol=1e-4, atol=1e-4)
    with attach(model, Plan((*inside(k).cuts, Cut(2, METHODS["uniform"](0.5).cuts[0].select, 4)))) as a:
        assert model.generate(**given, max_new_tokens=3, do_sample=False).shape[1] == PATCHES + 8
        assert [len(i.cuts[-1].kept) for i in a.report.images] == [4] * 3


@torch.no_grad()
def test_sizes_go_on_into_the_language_model():
    model, given = model_of("clip"), prompts()
    with attach(model, inside(11)):
        plain = model(**given).logits[:, -1]
    with attach(model, sized(inside(11))):
        weighed = model(**given).logits[:, -1]
    assert (plain - weighed).abs().max() > 1e-3


@torch.no_grad()
def test_the_tower_does_less_the_fewer_stay():
    model, x = model_of("clip"), pixels()

    def work(plan):
        with attach(model, plan), FlopCounterMode(display=False) as counted:
            model.model.get_image_features(x)
        return counted.get_total_flops()

    every, behind = work(inside(1.0)), work(tome(12))
    half, third, few = (work(inside(k)) for k in (18, 12, 5))
    assert few < third < half < every and third < behind


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast(dtype):
    model = model_of("siglip")
    want, images = encoded(model, inside(12), pixels())
    with torch.autocast("cpu", dtype):
        found, half = encoded(model, inside(12), pixels())
    assert all(len(e.kept) == 12 for e in half) and found.isfinite().all()
    low = model_of("clip", "eager").to(dtype)
    try:
        features, images = encoded(low, inside(12), pixels().to(dtype))
    finally:
        low.float()
    assert features.dtype == dtype and features.isfinite().all() and [len(e.kept) for e in images] == [12] * 3
    assert want.isfinite().all()


def test_gradients_pass_through_it():
    model, given = model_of("clip"), prompts()
    with attach(model, inside(12)):
        model(**given, labels=given["input_ids"]).loss.backward()
    first = model.model.vision_tower.encoder.layers[0].mlp.fc1.weight
    assert first.grad is not None and first.grad.abs().sum() > 0
    model.zero_grad(set_to_none=True)


@torch.no_grad()
def test_another_thread_sees_the_tower_as_it_is():
    import threading

    model, x = model_of("clip"), pixels()
    want = torch.stack(list(type(model.model).get_image_features(model.model, x).pooler_output))
    found = []

    def meanwhile(*_):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    @torch.no_grad()
    def look():
        found.append(torch.stack(list(type(model.model).get_image_features(model.model, x).pooler_output)))

    layers = model.model.vision_tower.encoder.layers
    once = []
    handle = layers[1].register_forward_pre_hook(lambda *a: once.append(1) or (meanwhile() if len(once) == 1 else None))
    try:
        encoded(model, inside(12), x)
    finally:
        handle.remove()
    assert torch.equal(found[0], want)


# -- how many where


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 700), layers=st.integers(1, 24), data=st.data())
def test_counts_are_met_exactly_as_evenly_as_halving_allows(n, layers, data):
    k = data.draw(st.integers(max(1, -(-n >> layers)), n))
    left = MergedInside().left(n, k, layers)
    steps = [a - b for a, b in zip([n, *left], left, strict=False)]
    assert left[-1] == k and len(left) == layers
    assert all(0 <= r <= m // 2 for r, m in zip(steps, [n, *left], strict=False))
    if max(steps) - min(steps) > 1:
        # Only because halving could not have done it otherwise.
        assert any(after == k << (layers - 1 - i) for i, after in enumerate(left[:-1]))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), s=st.integers(2, 40), apart=st.integers(0, 2), data=st.data())
def test_pairs_take_every_place_once_and_leave_the_front_alone(seed, s, apart, data):
    s = max(s, apart + 2)
    keys = torch.randn(2, s, 5, generator=torch.Generator().manual_seed(seed))
    r = data.draw(st.integers(1, (s - apart) // 2))
    for as_released in (False, True):
        gone, into, order = MergedInside(as_released=as_released).pairs(keys, apart, r)
        for a, b, rest in zip(gone.tolist(), into.tolist(), order.tolist(), strict=True):
            assert sorted([*a, *rest]) == list(range(s)) and set(b) <= set(rest)
            assert not {*a, *b} & set(range(apart))


def test_the_likest_pairs_come_first():
    keys = torch.eye(6)[[0, 0, 1, 2, 3, 3]][None] + 0.01 * torch.randn(
        1, 6, 6, generator=torch.Generator().manual_seed(0)
    )
    even, odd = matched(keys)
    assert {(int(e), int(o)) for e, o in zip(even[0, :2], odd[0, :2], strict=True)} == {(0, 1), (4, 5)}


# -- what is refused


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "internvl"])
def test_other_towers_are_refused_before_anything_runs(name):
    with pytest.raises(PlanError, match=r"windows, tiles or cells.*merge behind"):
        attach(shared(name), inside(0.5))


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        (lambda: inside(0.5, rounds=4), PlanError, "each layer is a round"),
        (lambda: tome(0.5, proportional=False), PlanError, 'at="tower"'),
        (lambda: Plan((Cut("input", MergedInside(), 0.5),)), PlanError, 'cut at "encoder"'),
        (
            lambda: Plan((*inside(0.5).cuts, *METHODS["fastervlm"](0.3).cuts)),
            SignalError,
            "nobody can read cls_attn_BN",
        ),
    ],
)
def test_plans_that_cannot_be_are_refused(plan, error, message):
    with pytest.raises(error, match=message):
        attach(model_of("clip"), plan())


def test_models_that_cannot_are_refused():
    model, given = model_of("clip"), prompts()
    before = model.config.vision_config._attn_implementation
    model.config.vision_config._attn_implementation = "flash_attention_2"
    try:
        with pytest.raises(PlanError, match="proportional=False"):
            attach(model, inside(0.5))
        attach(model, inside(0.5, proportional=False)).detach()
    finally:
        model.config.vision_config._attn_implementation = before
    checkpointed = model_of.__wrapped__("clip").train()
    checkpointed.model.vision_tower.gradient_checkpointing_enable()
    with attach(checkpointed, inside(12)), pytest.raises(ModelError, match="runs the tower's layers twice"):
        checkpointed(**given)
    with attach(model, inside(4)), pytest.raises(PlanError, match="keep at least 5"):
        model(**given)
    for wrap in (merged, restored, counted):
        with pytest.raises(PlanError, match=r"only sized\(...\) goes around it"):
            wrap(inside(12))
    with pytest.raises(PlanError, match="called, wrapped or served nowhere else"):
        MergedInside()(TokenView(keys_BNC=torch.ones(1, 9, 3)), 4)


def test_a_server_and_a_text_file():
    plan = inside(0.25, as_released=True)
    assert "between the layers of the tower" in servable(plan)
    assert Plan.from_json(plan.to_json()) == plan
    assert Plan.from_json(sized(plan).to_json()).cuts[0].between == plan.cuts[0].select
    with pytest.raises(FoveateError, match="cut at"):
        replace(plan.cuts[0], at="input")
