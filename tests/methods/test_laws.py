"""What every selector of every method promises, whatever it selects by."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import PlanError, SignalError
from foveate.methods import METHODS
from foveate.plan import Plan
from foveate.selection import Block, Selection, Selector, TokenView
from learned import options

KEEP = 0.5
NOT_NESTED = {
    "vtw",  # never asked: its cuts keep all or none
    "uniform", "pool", "visionzip", "prumerge", "vispruner", "holov", "hired", "tome", "trim", "sparsevlm", "dart",
    "anchorprune", "crisp", "vidcom2",
}  # fmt: skip
"""What a smaller count keeps, a larger one may drop: shares are rounded, slots merged, anchors laid for the count."""
NEED_FINITE = {"prumerge:encoder", "sfpruner:input", "priortr:2", "sms:input"}
"""These weigh, divide or find a knee by attention, and say so where it is infinite; to all others it ranks first."""
# Settings beside the defaults whose selectors are others.
VARIANTS = {
    "divprune": {"distance": 0.6},
    "cdpruner": {"text_tower": "a", "theta": 0.5},
    "trim": {"text_tower": "a", "count": "outliers"},
    "eadp": {"text_tower": "a"},
    "anchorprune": {"text_tower": "a", "by": "hidden"},
    "sfpruner": {"text_tower": "a"},
    "prumerge": {"count": "fixed", "plus": True},
    "visionzip": {"as_released": True},
    "hired": {"as_released": True},
    "tome": {"as_released": True, "rounds": 2},
    "scope": {"combine": "add"},
    "gots": {"by": "hidden"},
    "resprune": {"seed": "norm"},
    "evs": {"least": 2},
    "sparsevlm": {"count": "rank", "lam": 0.7},
}
SELECTORS = {
    f"{name}:{cut.at}{mark}": cut.select
    for mark, settings in (("", {n: {} for n in METHODS}), ("*", VARIANTS))
    for name, more in settings.items()
    for cut in {type(c.select): c for c in METHODS[name](keep=KEEP, **options(name, 24), **more).cuts}.values()
}
laws = pytest.mark.parametrize("name", SELECTORS)


def make_view(seed: int, b: int, rows: int, columns: int, blocks: bool = False) -> TokenView:
    """Every field filled with continuous numbers, so that no two tokens tie."""
    g = torch.Generator().manual_seed(seed)
    n = rows * columns
    grid = (1, rows, columns)
    if blocks:
        grid = (Block(0, rows, columns), Block(n, columns, rows, newline=True))
        n += columns * (rows + 1) + 2
    rand = lambda *shape: torch.rand(*shape, generator=g) + 0.01  # noqa: E731
    randn = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    return TokenView(
        hidden_BND=randn(b, n, 24),
        grid=grid,
        encoder_BNC=randn(b, n, 16),
        keys_BNC=randn(b, n, 16),
        cls_attn_BN=rand(b, n),
        cls_cos_BN=randn(b, n).tanh(),
        text_BTD=randn(b, 5, 24),
        relevance_BN=rand(b, n),
        text_attn_BN=rand(b, n),
        text_rows_BRN=rand(b, 3, n),
        prior_attn_BN=rand(b, n),
        first_attn_BN=rand(b, n),
        input_BND=randn(b, n, 24),
        key_norm_BN=rand(b, n),
        text_hidden_BTD=randn(b, 7, 24),
        text_norm_BT=rand(b, 7),
        # The last third of the candidates, as text stands behind an image; one token is no text.
        text_BN=(torch.arange(n) > 2 * n // 3).expand(b, n),
    )


def mapped(view: TokenView, change) -> TokenView:
    """The view with `change(name, tensor)` in the place of each tensor."""
    tensors = {f.name: getattr(view, f.name) for f in dataclasses.fields(view)}
    return dataclasses.replace(
        view, **{name: change(name, x) for name, x in tensors.items() if isinstance(x, torch.Tensor)}
    )


def moved(name: str, x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """A field with its image tokens in another order."""
    if name == "text_rows_BRN":
        return x[:, :, order]
    return x if name.startswith("text_") and "T" in name else x[:, order]


def same(a: Selection, b: Selection) -> bool:
    mixes = (a.mix_BKN is None) == (b.mix_BKN is None)
    return mixes and torch.equal(a.keep_BN, b.keep_BN) and (a.mix_BKN is None or torch.equal(a.mix_BKN, b.mix_BKN))


def checked(select: Selector, view: TokenView, k: int) -> Selection:
    """The selection, once its form is right."""
    b, n = view.shape
    out = select(view, k)
    assert out.keep_BN.shape == (b, n) and out.keep_BN.dtype == torch.bool
    counts = out.counts_B.tolist()
    assert all(1 <= c <= k for c in counts) if select.adaptive else counts == [k] * b
    if out.mix_BKN is not None:
        assert out.mix_BKN.shape == (b, max(counts), n) and out.mix_BKN.isfinite().all()
    return out


shapes = {
    "seed": st.integers(0, 10**6),
    "b": st.integers(1, 3),
    "rows": st.integers(1, 6),
    "columns": st.integers(1, 7),
    "blocks": st.booleans(),
    "data": st.data(),
}


@laws
@settings(max_examples=12, deadline=None)
@given(**shapes)
def test_selection_laws(name, seed, b, rows, columns, blocks, data):
    select = SELECTORS[name]
    view = make_view(seed, b, rows, columns, blocks)
    n = view.shape[1]
    k = data.draw(st.integers(1, n), label="k")
    before = mapped(view, lambda _, x: x.clone())
    out = checked(select, view, k)

    for f in dataclasses.fields(view):
        x, y = getattr(view, f.name), getattr(before, f.name)
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, f"{f.name} was modified"
    assert same(out, select(view, k)), "deterministic"
    assert same(out, select(view.only(select.reads), k)), "unread fields are never needed"
    # Of two tokens, nothing says which is the more unlike the other: rounding decides.
    for i in range(b if n > 2 else 0):
        single = select(mapped(view, lambda _, x, i=i: x[i : i + 1]), k)
        assert torch.equal(single.keep_BN[0], out.keep_BN[i]), "batch = singles"
        if out.mix_BKN is not None:
            # An image that keeps fewer than the others leaves its last slots unread.
            slots = int(single.counts_B)
            assert torch.equal(single.mix_BKN[0, :slots], out.mix_BKN[i, :slots])
    if "grid" not in select.reads and n > 2:
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        turned = select(mapped(view, lambda f, x: moved(f, x, order)), k)
        assert torch.equal(turned.keep_BN, out.keep_BN[:, order]), "permuting tokens permutes the answer"
    if name.split(":")[0] not in NOT_NESTED:
        fewer = select(view, data.draw(st.integers(1, k), label="fewer"))
        assert not (fewer.keep_BN & ~out.keep_BN).any(), "greedy selections are nested"


@laws
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_work(name, dtype):
    view = mapped(make_view(1, 2, 5, 6), lambda _, x: x.to(dtype) if x.is_floating_point() else x)
    checked(SELECTORS[name], view, 7)


def degenerate(kind: str) -> TokenView:
    """Tokens that leave nothing to choose by: all equal, all zero, each twice; flat or infinite attention."""
    view = make_view(4, 2, 4, 5)

    def change(name, x):
        if name == "text_BN":
            return x
        if kind == "infinite attention" and "attn" in name:
            return torch.where(torch.arange(20) % 7 == 0, torch.inf, x)
        if name == "text_rows_BRN":
            return torch.full_like(x, 0.05) if kind in ("equal", "zero") else x
        if x.ndim == 3 and x.shape[1] == 20:
            return {"equal": x[:, :1].expand_as(x).clone(), "zero": torch.zeros_like(x)}.get(
                kind, x[:, :10].repeat(1, 2, 1) if kind == "copies" else x
            )
        flat = kind in ("equal", "zero") and x.ndim == 2 and x.shape[1] == 20
        return torch.full_like(x, 0.05) if flat else x

    return mapped(view, change)


@laws
@pytest.mark.parametrize("kind", ["equal", "zero", "copies", "infinite attention"])
def test_with_nothing_to_choose_by_k_different_tokens_come_back_all_the_same(name, kind):
    view, select = degenerate(kind), SELECTORS[name]
    if kind == "infinite attention" and name.removesuffix("*") in NEED_FINITE:
        with pytest.raises(SignalError, match="infinity"):
            select(view, 15)
        return
    out = checked(select, view, 15)
    assert same(out, select(view, 15))


@laws
def test_keeping_all_keeps_all_as_they_are(name):
    view = make_view(2, 2, 4, 5, blocks=True)
    out = SELECTORS[name](view, view.shape[1])
    if not SELECTORS[name].adaptive or out.keep_BN.all():
        assert out.keep_BN.all() and out.mix_BKN is None


@laws
@pytest.mark.parametrize("k", [0, -3, 31])
def test_a_count_out_of_range_is_refused(name, k):
    with pytest.raises(PlanError, match=f"k is {k}"):
        SELECTORS[name](make_view(0, 1, 5, 6), k)


@laws
def test_gradients_do_not_flow_into_the_choice(name):
    view = mapped(make_view(3, 1, 4, 4), lambda _, x: x.requires_grad_() if x.is_floating_point() else x)
    assert not SELECTORS[name](view, 5).keep_BN.requires_grad


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("keep", [0.5, 0.27, 1.0, 12])
def test_every_plan_survives_json(name, keep):
    if name == "vtw" and keep == 12:
        pytest.skip("all tokens or none: a number says nothing")
    plan = METHODS[name](keep=keep, **options(name))
    assert Plan.from_json(plan.to_json()) == plan
    for cut in plan.cuts:
        assert isinstance(cut.select, Selector)
        assert hasattr(cut.select, "attention") == ("text_attn_BN" in cut.select.reads)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("keep", [0.0, 1.5, -0.1, 0, -4, True, "half", float("nan")])
def test_every_method_refuses_a_wrong_keep(name, keep):
    with pytest.raises(PlanError, match="keep"):
        METHODS[name](keep=keep)


@laws
def test_a_prompt_without_words(name):
    view = make_view(3, 2, 4, 5)
    wordless = {f: getattr(view, f)[:, :0] for f in ("text_BTD", "text_hidden_BTD", "text_norm_BT")}
    checked(SELECTORS[name], dataclasses.replace(view, **wordless), 7)
