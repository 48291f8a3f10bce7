"""The same indices as the authors' released code, on stored inputs; each method's docstring names what differs."""

import pytest
import torch

from foveate.methods import METHODS
from foveate.ops.farthest import farthest
from foveate.selection import TokenView

from .cases import SIZES, Case, kept


def first_selector(method, **options):
    return METHODS[method](keep=0.5, **options).cuts[0].select


@pytest.mark.parametrize("name", SIZES)
def test_divprune_picks_the_same_tokens_in_the_same_order(name):
    case = Case("divprune", name)
    assert farthest(case["hidden"], case.k).tolist() == case["order"].tolist()
    assert kept(first_selector("divprune")(TokenView(hidden_BND=case["hidden"]), case.k)) == case["keep"][0].tolist()


def test_divprune_still_returns_k_tokens_where_only_twenty_are_distinct():
    case = Case("divprune", "q1")
    order = farthest(case["hidden"], case.k)[0].tolist()
    assert len(set(order)) == case.k == 28
    unique = case.number("unique")
    assert len(set(case["order"][0].tolist())) == unique == 20, "the released code repeats itself"
    # Up to copies, and up to their order, the distinct ones are those of the release.
    rows = case["hidden"][0]
    as_rows = lambda index: {tuple(rows[i].tolist()) for i in index}  # noqa: E731
    assert as_rows(order[:unique]) == as_rows(case["order"][0].tolist())


@pytest.mark.parametrize("name", SIZES)
def test_fastervlm_keeps_the_same_tokens(name):
    case = Case("fastervlm", name)
    view = TokenView(cls_attn_BN=case["cls_attn"].mean(1))
    assert kept(first_selector("fastervlm")(view, case.k)) == case["keep"][0].tolist()


@pytest.mark.parametrize("name", SIZES)
def test_fastv_keeps_the_same_tokens(name):
    case = Case("fastv", name)
    start, n = case.number("start"), case.number("n")
    row = case["attn"].mean(1)[:, -1, start : start + n]
    assert kept(first_selector("fastv")(TokenView(text_attn_BN=row), case.k)) == case["keep"][0].tolist()


@pytest.mark.parametrize("name", [x for x in SIZES if x[0] != "c"])
def test_fastv_as_the_paper_words_it_is_another_choice(name):
    """The stored column sums are one reading of "received"; who may read what is tested with the taps."""
    case = Case("fastv", name)
    start, n = case.number("start"), case.number("n")
    received = case["attn"].mean(1).sum(1)[:, start : start + n]
    found = kept(first_selector("fastv", scoring="paper")(TokenView(text_attn_BN=received), case.k))
    assert found == case["keep_if_column_sum"][0].tolist() != case["keep"][0].tolist()


@pytest.mark.parametrize("name", [*SIZES, "q1"])
def test_pyramiddrop_keeps_the_same_tokens(name):
    case = Case("pdrop", name)
    view = TokenView(text_attn_BN=case["attn"])
    assert kept(first_selector("pyramiddrop")(view, case.k)) == case["keep"][0].tolist()


@pytest.mark.parametrize("name", [*SIZES, "q1"])
def test_pyramiddrops_stored_attention_is_the_own_layer_row_of_the_last_instruction_token(name):
    """What `Attention("last", "own")` has to compute, written out on plain tensors."""
    case = Case("pdrop", name)
    hidden, heads, start, n = case["hidden"][0], case.number("heads"), case.number("start"), case.number("n")
    width = hidden.shape[1] // heads
    normed = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-5) * case["norm_weight"][0]
    angle = torch.arange(len(hidden))[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    cos, sin = angle.cos().repeat(1, 2)[:, None], angle.sin().repeat(1, 2)[:, None]

    def rotated(weight):
        x = (normed @ weight.T).view(len(hidden), heads, width)
        left, right = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-right, left], dim=-1) * sin

    q, k = rotated(case["wq"][0]), rotated(case["wk"][0])
    row = case.number("prompt_len") + n - 1
    score = torch.einsum("hd,lhd->hl", q[row], k[: row + 1]) / width**0.5
    attn = score.softmax(-1).mean(0)[start : start + n]
    torch.testing.assert_close(attn, case["attn"][0].to(attn.dtype), rtol=1e-4, atol=1e-6)
