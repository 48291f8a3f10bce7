"""The learned selectors: hard picking is the limit of soft picking, dials dial, folders and plans bring them back."""

import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate import FoveateError, ModelError, PlanError, SignalError
from foveate.cut import Cut
from foveate.methods import METHODS
from foveate.plan import Plan
from foveate.pointer import OneShotConfig, OneShotSelector, PointerConfig, PointerSelector
from foveate.pointer.candidates import Candidates
from foveate.pointer.noise import GATES, Denoiser, gate, support
from foveate.pointer.soft import Heat
from foveate.pointer.softtop import soft_top
from foveate.selection import Selection, TokenView
from learned import lively

WIDTH = 12
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "groups": {"group": 3},
    "text": {"text": True},
    "no state": {"state": False},
    "centred": {"centred": True},
    "a lead": {"lead": 0.15},
    "no coverage": {"coverage": False},
    "no stop": {"stop": "none"},
    "joint stop": {"stop": "softmax"},
    "bare": {"coverage": False, "state": False, "blocks": 0, "stop": "none"},
}
COLD = Heat(1e-6, 0.0)


def pointer(seed: int = 0, **options: Any) -> PointerSelector:
    torch.manual_seed(seed)
    config = PointerConfig(**{"features": WIDTH, "budget": 0.2, "width": 16, "heads": 2, "likeness": 8} | options)
    return lively(PointerSelector(config), seed)


def one_shot(seed: int = 0, **options: Any) -> OneShotSelector:
    torch.manual_seed(seed)
    return lively(OneShotSelector(OneShotConfig(**{"features": WIDTH, "budget": 0.2, "width": 16} | options)), seed)


def view(seed: int, b: int = 2, n: int = 30) -> TokenView:
    g = torch.Generator().manual_seed(seed)
    return TokenView(hidden_BND=torch.randn(b, n, WIDTH, generator=g), text_BTD=torch.randn(b, 4, WIDTH, generator=g))


def seen(selector: Any, v: TokenView) -> Candidates:
    return Candidates.of(v, WIDTH, selector.config.text)


every = pytest.mark.parametrize("kind", [*KINDS, "one shot"])
pointers = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, seed: int = 0, **options: Any) -> Any:
    return one_shot(seed, **options) if kind == "one shot" else pointer(seed, **KINDS[kind] | options)


@every
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), b=st.integers(1, 3), n=st.integers(1, 40), data=st.data())
def test_selection_laws(kind: str, seed: int, b: int, n: int, data: Any) -> None:
    select, v = make(kind, seed % 7), view(seed, b, n)
    k = data.draw(st.integers(1, n), label="k")
    before = v.hidden_BND.clone()
    out = select(v, k)
    assert torch.equal(v.hidden_BND, before), "inputs unmodified"
    counts = out.counts_B.tolist()
    assert all(1 <= c <= k for c in counts) if select.adaptive else counts == [k] * b
    assert k < n or out.keep_BN.all()
    assert torch.equal(out.keep_BN, select(v.only(select.reads), k).keep_BN), "deterministic, unread fields not needed"
    for i in range(b):
        single = select(TokenView(hidden_BND=v.hidden_BND[i : i + 1], text_BTD=v.text_BTD[i : i + 1]), k)
        assert torch.equal(single.keep_BN[0], out.keep_BN[i]), "batch = singles"
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    turned = select(TokenView(hidden_BND=v.hidden_BND[:, order], text_BTD=v.text_BTD), k)
    assert torch.equal(turned.keep_BN, out.keep_BN[:, order]), "permuting tokens permutes the answer"
    fewer = select(v, data.draw(st.integers(1, k), label="fewer"))
    assert not (fewer.keep_BN & ~out.keep_BN).any(), "greedy selections are nested"


@pointers
@pytest.mark.parametrize("seed", range(5))
def test_hard_picking_is_the_limit_of_soft_picking(kind: str, seed: int) -> None:
    select, v = pointer(seed, **KINDS[kind]), view(seed, 4)
    most = 9
    path = select.walk(v, most)
    standing = path.standing(select.config, 0.0)
    with torch.no_grad():
        soft = select.soft(seen(select, v), most, COLD)
    # A pick's alpha is the chance that the sequence was live there: above a half exactly where the pick stands.
    chance = soft.alpha_BN.gather(1, path.order_BT)
    assert torch.equal(chance > 0.5, standing)
    assert torch.equal(path.mask(standing, 30), soft.alpha_BN > 0.5)
    torch.testing.assert_close(soft.alpha_BN.sum(1), soft.count_B)
    torch.testing.assert_close(chance.sum(1), soft.count_B, msg="nothing but the picks has weight")


@pointers
def test_early_ends_change_nothing(kind: str) -> None:
    select, v = make(kind, 3), view(3, 4)
    whole = select.walk(v, 20)
    keep = whole.mask(whole.standing(select.config, 0.7), 30)
    assert torch.equal(select.turned(0.7)(v, 20).keep_BN, keep)


@pytest.mark.parametrize("kind", [k for k in KINDS if KINDS[k].get("stop") != "none"])
def test_a_larger_bias_keeps_fewer_down_to_one(kind: str) -> None:
    select, v = pointer(1, **KINDS[kind] | {"stop": "hazard"}), view(1, 5)
    counts = [select.turned(bias)(v, 29).counts_B for bias in (-30.0, -2.0, 0.0, 2.0, 30.0)]
    assert all((a >= b).all() for a, b in pairwise(counts))
    assert counts[0].tolist() == [29] * 5
    assert counts[-1].tolist() == [select.config.group] * 5
    assert select.config.stop_bias == 0.0, "the dial of a copy is its own"


@every
def test_gradients_reach_every_parameter(kind: str) -> None:
    select = make(kind, 2)
    c = seen(select, view(2, 3))
    soft = select.soft(c, 8, Heat(1.0, 1.0), torch.Generator().manual_seed(0))
    weight = torch.randn(soft.alpha_BN.shape, generator=torch.Generator().manual_seed(1))
    ((soft.alpha_BN * weight).sum() + soft.count_B.sum()).backward()
    still = [n for n, p in select.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


@every
def test_padding_is_not_seen(kind: str) -> None:
    select, v = make(kind, 4), view(4, 2, 20)
    wide = torch.cat((v.hidden_BND, torch.full((2, 7, WIDTH), 9.0)), 1)
    real = torch.arange(27).expand(2, -1) < 20
    text = torch.cat((v.text_BTD, torch.full((2, 3, WIDTH), 9.0)), 1) if select.config.text else None
    said = torch.arange(7).expand(2, -1) < 4 if select.config.text else None
    with torch.no_grad():
        short = select.soft(seen(select, v), 6, Heat(0.5, 0.0))
        long = select.soft(Candidates(wide, real, text, said), 6, Heat(0.5, 0.0))
    torch.testing.assert_close(long.alpha_BN[:, :20], short.alpha_BN, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(long.count_B, short.count_B, rtol=1e-4, atol=1e-5)
    assert not long.alpha_BN[:, 20:].any()


def test_straight_through_is_hard_and_still_learns() -> None:
    for select in (pointer(5), one_shot(5)):
        soft = select.soft(seen(select, view(5)), 8, Heat(1.0, 1.0, straight=True), torch.Generator().manual_seed(0))
        value = soft.alpha_BN.detach()
        torch.testing.assert_close(value, value.round(), rtol=0, atol=1e-5)
        (soft.alpha_BN.square().sum()).backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in select.parameters())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 50), temperature=st.floats(0.01, 2.0), data=st.data())
def test_the_soft_top_k_sums_to_k_and_becomes_the_top_k(seed: int, n: int, temperature: float, data: Any) -> None:
    k = data.draw(st.integers(1, n - 1))
    score = torch.randn(3, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    alpha = soft_top(score, torch.full((3,), float(k)), temperature)
    torch.testing.assert_close(alpha.sum(1), torch.full((3,), float(k), dtype=torch.float64), rtol=1e-6, atol=1e-6)
    cold = soft_top(score, torch.full((3,), float(k)), 1e-9)
    assert torch.equal(cold.round().bool(), Selection.top(score, k).keep_BN)


def test_the_threshold_of_the_soft_top_k_has_its_gradient() -> None:
    score = torch.randn(2, 7, dtype=torch.float64, requires_grad=True)
    k = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, k: soft_top(s, k, 0.7), (score, k), atol=1e-4)


@pytest.mark.parametrize("kind", GATES)
def test_what_is_kept_is_as_it_was(kind: Any) -> None:
    x = torch.randn(2, 5, 8) * 3 + 20
    mean, std = x.flatten(0, 1).mean(0), x.flatten(0, 1).std(0)
    kept = gate(x, torch.ones(2, 5), mean, std, kind, torch.Generator().manual_seed(0))
    torch.testing.assert_close(kept, x, rtol=0.05, atol=0.6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.8])
def test_matched_noise_preserves_the_mean_and_variance_of_each_channel(alpha: float) -> None:
    g = torch.Generator().manual_seed(0)
    scale, shift = torch.tensor([0.1, 1.0, 30.0]), torch.tensor([5.0, -40.0, 0.0])
    x = torch.randn(1, 40_000, 3, generator=g) * scale + shift
    out = gate(x, torch.full((1, 40_000), alpha), shift, scale, "matched", g)
    torch.testing.assert_close(out[0].mean(0), shift, rtol=0.01, atol=0.3)
    torch.testing.assert_close(out[0].std(0), scale, rtol=0.02, atol=0)


def test_support_is_the_best_and_some_others_in_order() -> None:
    alpha = torch.rand(4, 50, generator=torch.Generator().manual_seed(0))
    real = torch.arange(50).expand(4, -1) < 40
    found = support(alpha, real, 6, 5, 0.0, torch.Generator().manual_seed(1))
    places = found.places_BS
    assert places.shape == (4, 11) and (places.diff(dim=1) > 0).all() and places.max() < 40 and found.there_BS.all()
    best = alpha.masked_fill(~real, -1).topk(6, 1).indices
    assert all(set(b.tolist()) <= set(p.tolist()) for b, p in zip(best, places, strict=True))


def test_support_leaves_out_padding_and_what_is_hardly_kept() -> None:
    alpha = torch.tensor([[0.9, 0.0, 0.3, 0.05, 0.9], [0.0, 0.0, 0.02, 0.0, 0.0]])
    found = support(alpha, torch.arange(5).expand(2, -1) < 4, 5, 3, 0.1)
    assert found.places_BS.tolist() == [list(range(5))] * 2
    assert found.there_BS.tolist() == [[True, False, True, False, False], [False, False, True, False, False]]


def test_a_denoiser_begins_as_nothing() -> None:
    x = torch.randn(1, 3, 8)
    assert torch.equal(Denoiser(8)(x, torch.zeros(8), torch.ones(8)), x)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_work(kind: str, dtype: torch.dtype) -> None:
    v = view(1)
    v = TokenView(hidden_BND=v.hidden_BND.to(dtype), text_BTD=v.text_BTD.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = make(kind)(v, 7).keep_BN
    assert torch.equal(make(kind)(v, 7).keep_BN, under), "autocast does not reach the selector"


class TestSaved:
    @every
    def test_a_folder_brings_it_back(self, kind: str, tmp_path: Path) -> None:
        select, v = make(kind, 6), view(6)
        select.fit(torch.randn(WIDTH), torch.rand(WIDTH) + 0.5)
        if select.knob:
            select = select.turned(0.25)
        select.save_pretrained(tmp_path / "s")
        assert {f.name for f in (tmp_path / "s").iterdir()} == {"README.md", "config.json", "model.safetensors"}
        back = type(select).from_pretrained(tmp_path / "s")
        assert back.config == select.config and back.reads == select.reads and back.adaptive == select.adaptive
        assert torch.equal(back(v, 9).keep_BN, select(v, 9).keep_BN)

    def test_a_plan_names_the_folder(self, tmp_path: Path) -> None:
        select = pointer()
        plan = Plan((Cut("input", select, 0.5),))
        with pytest.raises(PlanError, match="never saved"):
            plan.to_json()
        select.save_pretrained(tmp_path)
        dialled = Plan((Cut("input", select.turned(1.5), 0.5),))
        back = Plan.from_json(dialled.to_json())
        assert back == dialled != Plan((Cut("input", select, 0.5),))
        assert back.cuts[0].select.config.stop_bias == 1.5
        assert json.loads(plan.to_json())["cuts"][0]["select"]["saved"] == str(tmp_path)
        assert torch.equal(back.cuts[0].select(view(0), 9).keep_BN, select.turned(1.5)(view(0), 9).keep_BN)

    def test_what_is_no_selector_is_refused(self, tmp_path: Path) -> None:
        for name, says in ((tmp_path / "nowhere", "no selector"), (tmp_path, "no config.json")):
            with pytest.raises(ModelError, match=says):
                PointerSelector.from_pretrained(name)
        one_shot().save_pretrained(tmp_path / "o")
        with pytest.raises(ModelError, match="is no PointerSelector: it is a OneShotSelector"):
            PointerSelector.from_pretrained(tmp_path / "o")
        pointer().save_pretrained(tmp_path / "p")
        (tmp_path / "p" / "model.safetensors").write_bytes(b"")
        with pytest.raises(ModelError, match="does not load"):
            PointerSelector.from_pretrained(tmp_path / "p")

    def test_a_method_by_its_folder(self, tmp_path: Path) -> None:
        pointer().save_pretrained(tmp_path)
        plan = METHODS["sts"](0.3, path=str(tmp_path), stop_bias=2.0)
        assert [(c.at, c.keep, c.select.config.stop_bias) for c in plan.cuts] == [("input", 0.3, 2.0)]

    def test_a_fixed_count_has_no_dial(self) -> None:
        with pytest.raises(PlanError, match="no knob to turn"):
            one_shot().turned(1.0)


def test_tokens_of_another_width_are_refused() -> None:
    for select in (pointer(), one_shot()):
        with pytest.raises(SignalError, match="width 12, but this model's are 20"):
            select(TokenView(hidden_BND=torch.zeros(1, 9, 20)), 3)


@pytest.mark.parametrize("k", [0, -1, 31])
def test_a_count_out_of_range_is_refused(k: int) -> None:
    for select in (pointer(), one_shot()):
        with pytest.raises(PlanError, match=f"k is {k}"):
            select(view(0), k)


@pytest.mark.parametrize(
    ("field", "value"), [("budget", 0.0), ("budget", 2.0), ("stop", "never"), ("width", 15), ("group", 0)]
)
def test_configs_that_cannot_be(field: str, value: Any) -> None:
    with pytest.raises(FoveateError, match=field):
        dataclasses.replace(pointer().config, **{field: value})


def test_tokens_that_say_nothing_cover_each_other() -> None:
    """Ground lies near the mean token. As tokens are, one pick covers all of it; about the mean, it points anywhere."""
    g = torch.Generator().manual_seed(0)
    mean = torch.full((WIDTH,), 5.0)
    ground, things = mean + 0.1 * torch.randn(20, WIDTH, generator=g), mean + 6 * torch.randn(4, WIDTH, generator=g)
    tokens = torch.cat((ground, things))[None]
    found = {}
    for centred in (False, True):
        torch.manual_seed(0)
        config = PointerConfig(WIDTH, 0.2, width=16, heads=2, likeness=WIDTH, stop="none", centred=centred)
        select = PointerSelector(config)
        select.fit(mean, (tokens - mean).square().mean((0, 1)).sqrt())
        found[centred] = int(select(TokenView(hidden_BND=tokens), 5).keep_BN[0, 20:].sum())
    assert found[False] == 4 > found[True]
