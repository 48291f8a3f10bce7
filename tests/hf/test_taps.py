"""Signals are what the models' own eager attention says they are."""

import pytest
import torch
from torch.testing import assert_close

from foveate import Attention, Cut, Plan, Selection, SignalError, attach
from foveate.hf.families import FAMILIES
from foveate.methods import METHODS
from zoo import DEPTH, NAMES, NO_CLS, QWEN, SIZES, Row, batch, build

MODELS = {}


def eager(name):
    if name not in MODELS:
        MODELS[name] = build(name, "eager")
    return MODELS[name]


class Spy:
    """Keeps the first tokens, and what it was shown."""

    adaptive = False

    def __init__(self, *reads, attention=None):
        self.reads, self.views = frozenset(reads), []
        if attention:
            self.attention = attention

    def __call__(self, view, k):
        self.views.append(view)
        b, n = view.shape
        return Selection.of(torch.arange(k).expand(b, k), n)


def rows(name):
    return [Row([3, ("image", SIZES[name][-1]), 9], 1), Row([2, ("image", SIZES[name][-1]), 14], 2)]


def prompt_of(b):
    places = [(ids == 110).nonzero().flatten() for ids in b.inputs["input_ids"]]
    return [p[: p.diff().gt(1).nonzero().flatten()[0] + 1] if (p.diff() > 1).any() else p for p in places]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("raters", ["last", "text", "received"])
@pytest.mark.parametrize("layer", ["previous", "own"])
def test_text_attention_is_the_models_own(name, cached, raters, layer):
    model, b = eager(name), batch(name, rows(name))
    at = 2
    spy = Spy("text_attn_BN", "text_rows_BRN", attention=Attention(raters, layer))
    with torch.no_grad():
        maps = model(**b.inputs, output_attentions=True).attentions
        attn = maps[at if layer == "own" else at - 1].mean(1)
        with attach(model, Plan((Cut(at, spy, 0.5),))):
            model(**b.inputs, use_cache=cached)
    shown = torch.cat([v.text_attn_BN for v in spy.views])
    alone = torch.cat([v.text_rows_BRN for v in spy.views])
    real = b.inputs["attention_mask"].bool()
    for row, place in enumerate(prompt_of(b)):
        ids = b.inputs["input_ids"][row]
        if raters == "last":
            want = attn[row, -1, place]
        elif raters == "received":
            column = attn[row][real[row]][:, place].sum(0)
            want = column / (b.length - place)
        else:
            # Qwen's config names the vision markers, the others' do not.
            word = (ids < 100) if name in QWEN else (ids != 110)
            text = torch.arange(b.length)[word & (ids > 2) & (torch.arange(b.length) > place.max())][:-5]
            want = attn[row, text][:, place].mean(0)
            each = torch.zeros_like(alone[row]).index_copy(0, torch.arange(len(text)), attn[row, text][:, place])
            assert_close(alone[row], each, rtol=1e-4, atol=1e-6)
        assert_close(shown[row], want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in QWEN])
def test_cls_attention_is_the_towers_own(name):
    model, b = eager(name), batch(name, rows(name))
    cls = name not in NO_CLS
    spy = Spy("cls_attn_BN", "encoder_BNC", "keys_BNC", *(["cls_cos_BN"] if cls else []))
    base, family = model.model, FAMILIES[name]
    seen = {}
    layer = family.tap(base, spy.reads, {}).layer
    attn = layer.self_attn if hasattr(layer, "self_attn") else layer.attention
    handles = [
        attn.register_forward_hook(lambda m, a, o: seen.update(attn=o[1])),
        layer.register_forward_hook(lambda m, a, o: seen.update(out=o[0] if isinstance(o, tuple) else o)),
    ]
    with torch.no_grad(), attach(model, Plan((Cut("input", spy, 0.5),))):
        model(**b.inputs)
    for h in handles:
        h.remove()
    tiles = seen["attn"].mean(1)
    per_patch = tiles[:, 0, 1:] if cls else tiles.mean(1)
    features = seen["out"][:, int(cls) :]
    if name == "internvl":
        per_patch = per_patch.unflatten(1, (4, 2, 4, 2)).mean((2, 4)).flatten(1)
        features = features.unflatten(1, (4, 2, 4, 2)).mean((2, 4)).flatten(1, 2)
    if cls:
        cosines = torch.cosine_similarity(seen["out"][:, :1], seen["out"][:, 1:], dim=-1)
        if name == "internvl":
            cosines = cosines.unflatten(1, (4, 2, 4, 2)).mean((2, 4)).flatten(1)
        shown = torch.cat([v.cls_cos_BN for v in spy.views])
        if name == "llava_next":
            # AnyRes: the thumbnail comes first, tile 0 of each image.
            n, per_image = cosines.shape[1], len(cosines) // len(shown)
            shown, cosines = shown[:, :n], cosines[::per_image]
        assert_close(shown.flatten(), cosines.flatten())
    shown = torch.cat([v.cls_attn_BN for v in spy.views])
    shown_features = torch.cat([v.encoder_BNC for v in spy.views])
    if name in ("llava", "internvl"):
        assert_close(shown.flatten(), per_patch.flatten(), rtol=1e-4, atol=1e-6)
        assert_close(shown_features.flatten(0, 1), features.flatten(0, 1), rtol=1e-4, atol=1e-5)
        return
    # AnyRes: the thumbnail comes first, tile 0 of each image.
    n = features.shape[1]
    per_image = len(per_patch) // len(shown)
    assert_close(shown[:, :n], per_patch[::per_image], rtol=1e-4, atol=1e-6)
    assert_close(shown_features[:, :n], features[::per_image], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NO_CLS)
def test_without_a_cls_nothing_is_like_it(name):
    with pytest.raises(SignalError, match=r"no \[CLS\]"):
        attach(eager(name), METHODS["sms"](0.5, score="cosine"))


@pytest.mark.parametrize("name", QWEN)
def test_attention_received_is_the_towers_own(name):
    model, b = eager(name), batch(name, rows(name))
    spy = Spy("cls_attn_BN", "encoder_BNC")
    family, base = FAMILIES[name], model.model
    block = base.visual.blocks[family.full_block(base)]
    module = __import__(type(base.visual).__module__, fromlist=["x"])
    maps = []
    original = module.eager_attention_forward

    def record(mod, *args, **kwargs):
        out = original(mod, *args, **kwargs)
        if mod is block.attn:
            maps.append(out[1].mean((0, 1)).mean(0))
        return out

    module.eager_attention_forward = record
    try:
        with torch.no_grad(), attach(model, Plan((Cut("input", spy, 0.5),))):
            out = base.get_image_features(b.inputs["pixel_values"], b.inputs["image_grid_thw"])
            maps.clear()
            model(**b.inputs)
    finally:
        module.eager_attention_forward = original
    want = torch.cat(maps).unflatten(0, (-1, 4)).mean(1)
    features = out.last_hidden_state.unflatten(0, (-1, 4)).mean(1)
    if name == "qwen2_5_vl":
        order = family.pack(base, "image", b.inputs, torch.arange(len(want), dtype=torch.float64)[:, None])
        order = torch.cat(order).flatten().long()
        want, features = want[order], features[order]
    assert_close(torch.cat([v.cls_attn_BN for v in spy.views]).flatten(), want, rtol=1e-4, atol=1e-6)
    assert_close(torch.cat([v.encoder_BNC for v in spy.views]).flatten(0, 1), features, rtol=1e-4, atol=1e-5)


def test_window_order_is_undone():
    """Qwen2.5-VL's cells come out in the order of its own features, whatever its windows do."""
    model = eager("qwen2_5_vl")
    family, base = FAMILIES["qwen2_5_vl"], model.model
    b = batch("qwen2_5_vl", [Row([1, ("image", (32, 32)), 6], 1)])
    seen = {}
    handle = base.visual.merger.register_forward_hook(lambda m, a, o: seen.update(rows=o))
    with torch.no_grad():
        out = base.get_image_features(b.inputs["pixel_values"], b.inputs["image_grid_thw"])
    handle.remove()
    packed = family.pack(base, "image", b.inputs, seen["rows"])
    assert torch.equal(torch.cat(packed), torch.cat(list(out.pooler_output)))
    assert not torch.equal(seen["rows"], torch.cat(packed))


@pytest.mark.parametrize("name", NAMES)
def test_hidden_is_what_the_llm_receives(name):
    model, b = eager(name), batch(name, rows(name))
    spy, deep = Spy("hidden_BND", "text_BTD", "grid"), Spy("hidden_BND")
    seen = {}
    lm = model.model.language_model
    with torch.no_grad():
        handle = lm.register_forward_pre_hook(lambda m, a, k: seen.update(e=k["inputs_embeds"]), with_kwargs=True)
        states = model(**b.inputs, output_hidden_states=True).hidden_states
        handle.remove()
        with attach(model, Plan((Cut("input", spy, 1.0), Cut(DEPTH - 1, deep, 0.5)))):
            model(**b.inputs)
        with attach(model, Plan((Cut("input", spy, 0.5),))):
            model(**b.inputs)
    places = prompt_of(b)
    shown = [h for v in spy.views for h in v.hidden_BND]
    for h, want, row in zip(shown, places, range(2), strict=True):
        assert torch.equal(h, seen["e"][row, want])
    shown = [h for v in deep.views for h in v.hidden_BND]
    for h, want, row in zip(shown, places, range(2), strict=True):
        assert_close(h, states[DEPTH - 1][row, want], rtol=1e-5, atol=1e-6)
    # The questions differ in length: 9 and 14 tokens, five of them the template's tail. Configs other than
    # Qwen's do not say that the marker after the image is one.
    marker = name not in QWEN
    assert sorted(v.text_BTD.shape[1] for v in spy.views) == [4 + marker, 9 + marker]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer", ["previous", "own"])
def test_attention_shares_with_earlier_turns(name, layer):
    """In a later turn the raters' attention is a share of all there is, what the cache holds included."""
    model = eager(name)
    first, second = batch(name, [Row([12], 3)]), batch(name, [Row([2, ("image", SIZES[name][-1]), 9], 4)])
    ids = torch.cat((first.inputs["input_ids"], second.inputs["input_ids"]), 1)
    joint = dict(second.inputs, input_ids=ids, attention_mask=torch.ones_like(ids))
    extra = {}
    if name in QWEN:
        joint["mm_token_type_ids"] = torch.nn.functional.pad(second.inputs["mm_token_type_ids"], (first.length, 0))
        places = {k: v for k, v in joint.items() if "pixel" not in k}
        extra = {"position_ids": model.model.get_rope_index(**places)[0][..., first.length :]}
    spy = Spy("text_attn_BN", attention=Attention("last", layer))
    with torch.no_grad():
        maps = model(**joint, output_attentions=True).attentions
        attn = maps[2 if layer == "own" else 1].mean(1)[0, -1]
        with attach(model, Plan((Cut(2, spy, 0.5),))):
            text = {k: v for k, v in first.inputs.items() if k in ("input_ids", "attention_mask")}
            cache = model(**text, use_cache=True).past_key_values
            model(**dict(second.inputs, attention_mask=torch.ones_like(ids)), past_key_values=cache, **extra)
    want = attn[(ids[0] == 110).nonzero().flatten()]
    assert_close(torch.cat([v.text_attn_BN for v in spy.views])[0], want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_layers_say_beside_attention(name):
    """The separator's attention, unrotated attention, key norms, and the tokens as they came in, from plain hooks."""
    model, b = eager(name), batch(name, rows(name))
    at, lm = 2, model.model.language_model
    spy = Spy("prior_attn_BN", "text_attn_BN", "text_rows_BRN", "input_BND", "key_norm_BN", "text_hidden_BTD",
              "text_norm_BT", attention=Attention("last", "own"))  # fmt: skip
    seen = {}
    keys, given = lm.layers[at - 1].self_attn.k_proj, lm.layers[at]
    handles = [
        keys.register_forward_hook(lambda m, a, o: seen.update(keys=o)),
        lm.register_forward_pre_hook(lambda m, a, k: seen.update(embeds=k["inputs_embeds"]), with_kwargs=True),
        given.register_forward_pre_hook(lambda m, a, k: seen.update(hidden=a[0]), with_kwargs=True),
    ]
    with torch.no_grad():
        maps = model(**b.inputs, output_attentions=True).attentions
        for h in handles:
            h.remove()
        with attach(model, Plan((Cut(at, spy, 0.5),))):
            model(**b.inputs)
    norm = getattr(lm.layers[at - 1].self_attn, "k_norm", lambda x: x)
    width = lm.layers[at - 1].self_attn.head_dim
    norms = norm(seen["keys"].unflatten(-1, (-1, width))).abs().sum((2, 3))
    views = [{f: getattr(v, f)[i] for f in spy.reads} for v in spy.views for i in range(v.shape[0])]
    for row, (place, view) in enumerate(zip(prompt_of(b), views, strict=True)):
        end = int(place[-1]) + 1
        assert_close(view["prior_attn_BN"], maps[at].mean(1)[row, end, place], rtol=1e-4, atol=1e-6)
        assert_close(view["text_attn_BN"], maps[at].mean(1)[row, -1, place], rtol=1e-4, atol=1e-6)
        assert_close(view["text_rows_BRN"], view["text_attn_BN"][None], rtol=1e-5, atol=1e-7)
        assert_close(view["input_BND"], seen["embeds"][row, place])
        assert_close(view["key_norm_BN"], norms[row, place], rtol=1e-4, atol=1e-5)
        assert_close(view["text_norm_BT"], norms[row, end:], rtol=1e-4, atol=1e-5)
        assert_close(view["text_hidden_BTD"], seen["hidden"][row, end:], rtol=1e-4, atol=1e-5)


def test_attention_without_rotation_is_blind_to_places():
    """Of a layer whose rotation is switched off, both kinds agree; of the layer as it is, they do not."""
    model, b = build("llava", "eager"), batch("llava", rows("llava"))

    def shown(rotary):
        spy = Spy("text_attn_BN", attention=Attention("last", "own", rotary=rotary))
        with torch.no_grad(), attach(model, Plan((Cut(1, spy, 0.5),))):
            model(**b.inputs)
        return torch.cat([v.text_attn_BN for v in spy.views])

    assert not torch.allclose(shown(True), shown(False), rtol=1e-3)
    rotary = model.model.language_model.rotary_emb
    rotary.register_forward_hook(lambda m, a, o: (torch.ones_like(o[0]), torch.zeros_like(o[1])))
    assert_close(shown(True), shown(False), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["llava", "internvl", "qwen2_vl", "qwen2_5_vl"])
def test_the_first_layers_attention_is_that_of_a_tap_on_it(name):
    model, b = eager(name), batch(name, rows(name))
    spy = Spy("first_attn_BN", "cls_attn_BN")
    with torch.no_grad(), attach(model, Plan((Cut("input", spy, 0.5),))):
        model(**b.inputs)
    first, last = (torch.cat([getattr(v, f) for v in spy.views]) for f in ("first_attn_BN", "cls_attn_BN"))
    base, family = model.model, FAMILIES[name]
    tap = family.tap(base, frozenset({"cls_attn_BN"}), {}, first=True)
    handles = tap.hooks()
    with torch.no_grad():
        model(**b.inputs)
    for h in handles:
        h.remove()
    assert_close(first.flatten().sort().values, tap.signals().cls_attn.flatten().sort().values)
    assert family.full_block(base) == 1 if name == "qwen2_5_vl" else not torch.allclose(first, last)
