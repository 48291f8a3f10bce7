"""Methods that read the question: the same indices and rows as the authors' code, on stored inputs."""

import pytest
import torch

from foveate.methods.anchorprune import Anchored
from foveate.methods.cdpruner import Determinantal
from foveate.methods.clse import Evolving, evolution
from foveate.methods.dart import Unlike
from foveate.methods.eadp import Dispersed
from foveate.methods.mmtok import CoveringBoth
from foveate.methods.priortr import AgainstPrior
from foveate.methods.sparsevlm import Recycling
from foveate.methods.trim import Answering
from foveate.ops.coverage import coverage
from foveate.ops.prior import against_prior
from foveate.selection import Block, TokenView

from .cases import PUBLIC, SIZES, Case, assert_rows, cosine, kept


@pytest.mark.parametrize("name", SIZES)
def test_cdpruner(name):
    """The stored relevance is negated already, and our field is not."""
    case = Case("cdpruner", name)
    view = TokenView(hidden_BND=case["hidden"], relevance_BN=-case["relevance"])
    assert kept(Determinantal(text_tower="a")(view, case.k)) == case["keep"][0].tolist()
    similarity = cosine(case["embed"], case["text"]).mean(1)
    torch.testing.assert_close(similarity.float(), -case["relevance"].float(), rtol=1e-4, atol=1e-6)


def test_cdpruner_scales_each_image_alone_where_the_release_mixes_the_batch():
    case = Case("cdpruner", "q1")
    similarity = cosine(case["embed"][0], case["text"].expand(2, -1, -1)).mean(1)
    out = Determinantal(text_tower="a")(TokenView(hidden_BND=case["hidden"][0], relevance_BN=similarity), case.k)
    assert [kept(out, i) for i in (0, 1)] == case["keep_per_image"][0].tolist() != case["keep_batch"][0].tolist()


@pytest.mark.parametrize("name", [*SIZES, "q1"])
def test_trim(name):
    """Rows to half precision, in which the release emits them; our k is the release's and the row for the rest."""
    case = Case("trim", name)
    product = (case["proj"] * case["text"][:, None]).sum(-1)
    outliers = str(case.arrays["rule"]) == "iqr"
    select = Answering("outliers" if outliers else "fixed", text_tower="a")
    out = select(TokenView(relevance_BN=product), product.shape[1] - 1 if outliers else case.k + 1)
    chosen = case["keep"][0].tolist()
    (rest,) = set(kept(out)) - set(chosen)
    assert_rows(out, case["hidden"], [*chosen, rest], case["merged_fp16"][0].float()[: case.k + 1], 2e-3)


def test_trim_counts_each_image_alone_where_the_release_mixes_the_batch():
    case = Case("trim", "q2")
    product = (case["proj"][0] * case["text"][0][:, None]).sum(-1)
    out = Answering("outliers", rest=False, text_tower="a")(TokenView(relevance_BN=product), 143)
    assert [kept(out, i) for i in (0, 1)] == [case[f"keep_per_image_{i}"][0].tolist() for i in (0, 1)]


@pytest.mark.parametrize("name", SIZES)
def test_mmtok(name):
    case = Case("mmtok", name)
    view = TokenView(hidden_BND=case["vision"], encoder_BNC=case["clip"], text_BTD=case["text"])
    select = CoveringBoth(case.value("alpha"), case.value("tv_temp"), case.value("vv_temp"))
    assert kept(select(view, case.k)) == case["keep"][0].tolist()


@pytest.mark.parametrize("name", SIZES)
def test_sparsevlm(name):
    """Our k is the release's and its clusters; of a single cluster the stored centre is arbitrary."""
    case = Case("sparsevlm", name)
    start, n, clusters = (case.number(x) for x in ("start", "n", "clusters"))
    attention = case["attn_text_vis"].mean(1)[:, case["raters"][0]].mean(1)
    torch.testing.assert_close(attention, case["relation"], rtol=1e-5, atol=1e-7)
    hidden = case["hidden"][:, start : start + n]
    out = Recycling()(TokenView(hidden_BND=hidden, text_attn_BN=case["relation"]), case.k + clusters)
    chosen = case["keep"][0].tolist()
    centres = case["cluster_centers"][0].tolist() if clusters > 1 else sorted(set(kept(out)) - set(chosen))
    assert_rows(out, hidden, [*chosen, *centres], case["merged"][0])


@pytest.mark.parametrize("name", SIZES)
def test_dart(name):
    """With pivots in index order; the release visits them in the order of a Python set."""
    case = Case("dart", name)
    start, n = case.number("start"), case.number("n")
    norm = case["keys"].abs().sum((1, 3))
    view = TokenView(
        hidden_BND=case["state"][:, start : start + n],
        key_norm_BN=norm[:, start : start + n],
        text_hidden_BTD=case["state"][:, start + n :],
        text_norm_BT=norm[:, start + n :],
    )
    wanted = sorted(case["keep_if_pivots_ascending"][0].tolist())
    select = Unlike(case.number("pivots_image"), case.number("pivots_text"))
    assert kept(select(view, len(wanted))) == wanted


def anchored(case, k, least, tau=0.2, patience=3):
    by = "encoder" if "expansion" in case else "hidden"
    view = TokenView(
        hidden_BND=case["hidden"],
        encoder_BNC=case["expansion"] if by == "encoder" else None,
        relevance_BN=-case["relevance"],
        cls_attn_BN=case["importance"],
    )
    return kept(Anchored(least, tau, patience, by=by, text_tower="a")(view, k))


@pytest.mark.parametrize("name", [*PUBLIC, "q2", "q3", "q4", "q5"])
def test_anchorprune(name):
    case = Case("anchorprune", name)
    found = anchored(case, case.k, case.number("k_min"), case.value("tau", 0.2), int(case.value("patience", 3)))
    assert found == case["keep"][0].tolist()


@pytest.mark.parametrize("i", range(5))
def test_anchorprune_stops_its_walk_as_released(i):
    case = Case("anchorprune", "q1")
    tau, patience = case.arrays["taus"][i].item(), int(case.arrays["patiences"][i])
    assert anchored(case, case.k, case.number("k_min"), tau, patience) == case[f"keep{i}"][0].tolist()


@pytest.mark.parametrize("name", [*PUBLIC, "q2"])
def test_priortr(name):
    """Rows and heads reduced as the stored case says; row 0 is the separator's."""
    case = Case("priortr", name)
    rows = case["rows"].amax(1) if str(case.arrays.get("heads", "mean")) == "max" else case["rows"].mean(1)
    asked = rows[:, -1] if str(case.arrays.get("query", "question")) == "last" else rows.mean(1)
    view = TokenView(text_attn_BN=asked, prior_attn_BN=rows[:, 0])
    assert kept(AgainstPrior()(view, case.k)) == case["keep"][0].tolist()
    score = against_prior(asked, rows[:, 0], 1e-10)
    torch.testing.assert_close(score, case["score"].float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [*PUBLIC, "q1", "q2"])
def test_eadp(name):
    """q1 holds copies in pairs: which of two that differ in nothing comes first is rounding; the pairs are the same."""
    case = Case("eadp", name)
    view = TokenView(
        hidden_BND=case["hidden"],
        text_BTD=case["text"],
        relevance_BN=cosine(case["hidden"], case["text_global"][:, None])[:, 0],
        grid=(Block(0, *case["grid"][0].tolist()),),
    )
    select = Dispersed(case.value("alpha"), 0.2, case.value("beta"), "a")
    if "importance" in case:
        # A softmax at temperature 0.01 magnifies the rounding of cosines; the reference states 2.2e-5.
        torch.testing.assert_close(select.importance(view), case["importance"], rtol=0, atol=5e-5)
    if name == "q1":
        order = coverage(case["hidden"], case.k, weight_BN=select.importance(view), floor=-1.0)[0]
        assert case["pair"][0][order].tolist() == case["pair_order"][0].tolist()
    else:
        assert kept(select(view, case.k)) == case["keep"][0].tolist()


@pytest.mark.parametrize("name", [*PUBLIC, "q1", "q2"])
def test_clse(name):
    case = Case("clse", name)
    rows, columns = case["grid"][0].tolist()
    attn = case["attn"].mean(1)
    view = TokenView(
        hidden_BND=case["hidden"],
        input_BND=case["hidden_in"],
        text_attn_BN=attn,
        grid=(int(case.value("frames", 1)), rows, columns),
    )
    assert kept(Evolving()(view, case.k)) == case["keep"][0].tolist()
    score = attn * evolution(view.hidden_BND, view.input_BND, view.blocks())
    torch.testing.assert_close(score, case["score"].float(), rtol=0, atol=1e-6)


def test_clse_counts_half_where_nothing_changes():
    case = Case("clse", "q3")
    blocks = (Block(0, *case["grid"][0].tolist()),)
    factor = evolution(case["hidden"], case["hidden"], blocks)
    torch.testing.assert_close(factor, torch.full_like(factor, 0.5))
