"""Methods that go by tower signals: the same indices and rows as the authors' code, on stored inputs."""

import pytest
import torch

from foveate.methods.gots import Spanning
from foveate.methods.hired import ByTiles
from foveate.methods.holov import Strips
from foveate.methods.prumerge import PruMerge
from foveate.methods.scope import Covering
from foveate.methods.tome import Matched
from foveate.methods.visionzip import Zipped
from foveate.methods.vispruner import Deduplicated
from foveate.ops.residual import residual
from foveate.selection import Block, TokenView

from .cases import PUBLIC, SIZES, Case, assert_rows, kept


@pytest.mark.parametrize("name", SIZES)
def test_visionzip(name):
    """Our k is the release's without its [CLS] row."""
    case = Case("visionzip", name)
    dominant, contextual = case.number("dominant_patches"), case.number("contextual")
    view = TokenView(cls_attn_BN=case["cls_attn"].mean(1), keys_BNC=case["metric_with_cls"][:, 1:])
    out = Zipped(contextual, as_released=True)(view, dominant + contextual)
    order = [*case["keep"][0].tolist(), *case["targets"][0].tolist()]
    assert kept(out) == sorted(order)
    assert_rows(out, case["hidden_with_cls"][:, 1:], order, case["merged"][0][1:])
    mean = Zipped(contextual)(view, dominant + contextual)
    assert torch.equal(mean.keep_BN, out.keep_BN)
    torch.testing.assert_close(mean.mix_BKN.sum(-1), torch.ones(mean.mix_BKN.shape[:2]))


@pytest.mark.parametrize("name", [*SIZES, "q1", "q2", "q3"])
def test_prumerge(name):
    """Our k is the release's and the row for the rest; q1 to q3 count by the quartile rule, q3 with plus."""
    case = Case("prumerge", name)
    mode = str(case.arrays["mode"])
    n = case["hidden"].shape[1]
    view = TokenView(cls_attn_BN=case["cls_attn"], keys_BNC=case["key_with_cls"][:, 1:])
    select = PruMerge("fixed") if mode == "fixed" else PruMerge(plus=mode == "plus")
    out = select(view, case.k + 1 if mode == "fixed" else n - 1)
    chosen = case["keep_in_row_order"][0].tolist()
    (rest,) = set(kept(out)) - set(chosen)
    assert_rows(out, case["hidden"], [*chosen, rest], case["merged"][0])


def test_prumerge_counts_each_image_alone_where_the_release_mixes_the_batch():
    case = Case("prumerge", "q4")
    keys, query = case["key_with_cls"][0], case["q_cls"][0]
    attn = ((query[:, None] @ keys.mT) / keys.shape[-1] ** 0.5).softmax(-1)[:, 0, 1:]
    out = PruMerge()(TokenView(cls_attn_BN=attn, keys_BNC=keys[:, 1:]), 143)
    for i in (0, 1):
        assert set(case[f"keep_per_image_{i}"][0].tolist()) < set(kept(out, i))
    assert out.counts_B.tolist() == [20, 12] != [case["keep_batch"].shape[-1] + 1] * 2


@pytest.mark.parametrize("name", SIZES)
def test_vispruner(name):
    case = Case("vispruner", name)
    view = TokenView(cls_attn_BN=case["cls_attn"].mean(1), encoder_BNC=case["hidden"])
    select = Deduplicated(case.value("important_ratio"))
    assert kept(select(view, case.k)) == case["keep"][0].tolist()


@pytest.mark.parametrize("name", [*SIZES, "q1"])
def test_holov(name):
    case = Case("holov", name)
    out = Strips(case.number("crops"))(TokenView(cls_attn_BN=case["attn"], hidden_BND=case["hidden"]), case.k)
    wanted = case["keep"][0].tolist()
    if name == "q1":
        assert set(wanted) < set(kept(out)), "the release leaves zero vectors where a strip is too small"
        assert len(kept(out)) == case.k == len(wanted) + case.number("zero_rows")
    else:
        assert kept(out) == wanted


@pytest.mark.parametrize("name", [*SIZES, "q1"])
def test_hired(name):
    case = Case("hired", name)
    n = case["top_attn"].shape[-1]
    side = round(n**0.5)
    view = TokenView(
        cls_attn_BN=case["bottom_attn"].sum(2).flatten(1),
        first_attn_BN=case["top_attn"].sum(2).flatten(1),
        grid=tuple(Block(i * n, side, side) for i in range(5)),
    )
    alpha, budget = case.value("alpha"), case.number("budget")
    out = ByTiles(alpha, as_released=True)(view, budget)
    assert torch.equal(out.keep_BN.view(1, 5, n), case["mask"].bool())
    whole = ByTiles(alpha)(view, budget)
    assert whole.counts_B.item() == budget > case.number("kept") or budget == case.number("kept")
    thumbnail = case.number("thumbnail_budget")
    assert whole.keep_BN[0, :n].sum() >= thumbnail
    single = ByTiles(alpha)(TokenView(**{f: getattr(view, f)[:, :n] for f in ("cls_attn_BN", "first_attn_BN")},
                                      grid=(1, side, side)), case.number("single_k"))  # fmt: skip
    assert kept(single) == case["single_keep"][0].tolist()


@pytest.mark.parametrize("name", [*SIZES, "q1", "q2", "q3"])
def test_scope(name):
    case = Case("scope", name)
    attn = case["cls_attn"] if case.number("uses_cls_attn") else torch.ones_like(case["cls_attn"])
    select = Covering(case.value("alpha"), "add" if str(case.arrays["combine"]) == "add" else "multiply")
    assert kept(select(TokenView(hidden_BND=case["hidden"], cls_attn_BN=attn), case.k)) == case["keep"][0].tolist()


@pytest.mark.parametrize("name", [*PUBLIC, "q3", "q6"])
def test_gots(name):
    case = Case("gots", name)
    assert kept(Spanning("hidden")(TokenView(hidden_BND=case["hidden"]), case.k)) == case["keep"][0].tolist()


def test_gots_ends_with_the_rank_where_the_release_goes_on_by_noise():
    case = Case("gots", "q1")
    order = residual(case["hidden"], case.k)[0]
    assert order[:16].tolist() == case["order"][0].tolist() and (order[16:] == -1).all()
    out = kept(Spanning("hidden")(TokenView(hidden_BND=case["hidden"]), case.k))
    assert set(case["keep_rank"][0].tolist()) < set(out) and len(out) == case.k


@pytest.mark.parametrize("k", [1, 8, 12, 15])
def test_gots_breaks_exact_ties_by_index(k):
    case = Case("gots", "q2")
    out = Spanning("hidden")(TokenView(hidden_BND=case["hidden"]), k)
    assert kept(out) == case[f"k{k}_keep"][0].tolist()


def test_gots_takes_each_image_of_a_batch_alone():
    case = Case("gots", "q5")
    out = Spanning("hidden")(TokenView(hidden_BND=case["hidden"][0]), case.k)
    assert [kept(out, i) for i in (0, 1)] == case["keep"][0].tolist()


@pytest.mark.parametrize("name", [*SIZES, "q1"])
def test_tome(name):
    case = Case("tome", name)
    out = Matched(case.number("rounds"), as_released=True)(TokenView(keys_BNC=case["metric"]), case.k)
    home = (out.mix_BKN[0] > 0).int().argmax(0)
    pairs = set(zip(case["slot"][0].tolist(), home.tolist(), strict=True))
    assert len(pairs) == case.k, "the same tokens are merged"
    slot_of = dict(pairs)
    rows = (out.mix_BKN @ case["hidden"])[0][[slot_of[j] for j in range(case.k)]]
    assert (rows - case["merged"][0]).abs().max() <= 1e-5 * case["merged"].abs().max()
    sizes = (out.mix_BKN[0] > 0).sum(-1)[[slot_of[j] for j in range(case.k)]]
    assert sizes.tolist() == case["size"][0].tolist()
