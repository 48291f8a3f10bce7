"""The published selector: every equation on numbers worked by hand, then the laws that every selector keeps."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from foveate import FoveateError, SignalError
from foveate.pointer.candidates import Candidates
from foveate.pointer.noise import Denoiser, gate
from foveate.pointer.soft import Heat
from foveate.pointer.softtop import soft_top
from foveate.pointer.stepwise import StepwiseConfig, StepwiseSelector, unroll
from foveate.pointer.stepwise.unroll import alive, expected, straight, trajectory, weights
from foveate.selection import TokenView
from learned import lively

WIDTH, WORDS = 12, 10
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "blind": {"words": 0},
    "two layers": {"layers": 2},
    "groups": {"group": 3},
    "narrow": {"width": 8},
    "coverage": {"coverage": True, "likeness": 6},
    "causal": {"causal": True, "words": 0},
}
every = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, seed: int = 0, **options: Any) -> StepwiseSelector:
    torch.manual_seed(seed)
    config = {"features": WIDTH, "words": WORDS, "budget": 0.2, "heads": 2} | KINDS[kind] | options
    selector: StepwiseSelector = lively(StepwiseSelector(StepwiseConfig(**config)), seed)
    return selector


def view(seed: int, b: int = 2, n: int = 24) -> TokenView:
    g = torch.Generator().manual_seed(seed)
    return TokenView(hidden_BND=torch.randn(b, n, WIDTH, generator=g), text_BTD=torch.randn(b, 4, WORDS, generator=g))


def seen(select: StepwiseSelector, v: TokenView) -> Candidates:
    return Candidates.of(v, WIDTH, bool(select.config.words))


class TestByHand:
    """Two images are never needed: each equation is one of an image."""

    stop = torch.tensor([[0.5, 0.2, 0.5]])
    chance = torch.tensor([[[0.3, 0.2], [0.0, 0.8], [0.5, 0.0]]])

    def test_alive_weights(self) -> None:
        # A_1 = 1, A_2 = 1 - .5, A_3 = .5 (1 - .2)
        assert_close(alive(self.stop), torch.tensor([[1.0, 0.5, 0.4]]))

    def test_trajectory_score(self) -> None:
        # s_1 = .9 (1)(.3) + .81 (.5)(0) + .729 (.4)(.5); s_2 = .9 (.2) + .81 (.5)(.8)
        weight = weights(self.stop, 0.9)
        assert_close(weight, torch.tensor([[0.9, 0.405, 0.2916]]))
        assert_close(trajectory(self.chance, weight), torch.tensor([[0.27 + 0.1458, 0.18 + 0.324]]))

    def test_the_ablated_scores(self) -> None:
        assert_close(weights(self.stop, 0.9, "sum"), torch.ones(1, 3))
        # The last round before the stop: alive here, stopped at the next; the end of the rounds stops too.
        assert_close(weights(self.stop, 0.9, "last"), torch.tensor([[0.2, 0.25, 0.4]]))

    def test_expected_count(self) -> None:
        # 1 (.5) + .5 (.8) + .4 (.5)
        assert_close(expected(self.stop), torch.tensor([1.1]))

    def test_the_next_query_is_hard_in_value_and_soft_in_gradient(self) -> None:
        memory = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]])
        chance = torch.tensor([[0.5, 0.3, 0.2]], requires_grad=True)
        q = straight(memory, chance, torch.tensor([[1]]))
        assert_close(q, torch.tensor([[[0.0, 2.0]]]))
        # d(q . (1, 10)) / dp_i = M_i . (1, 10)
        (q[0, 0] @ torch.tensor([1.0, 10.0])).backward()
        assert_close(chance.grad, torch.tensor([[1.0, 20.0, 33.0]]))

    @every
    def test_the_stop_is_a_part_of_the_soft_query(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        # q = M^T (onehot(a) - sg(p) + p) with M = [H ; s_stop]: where all rows are one, no p would change q.
        passed = []

        def spy(memory: Tensor, chance: Tensor, pick: Tensor) -> Tensor:
            passed.append((memory.shape[1], chance.sum(1)))
            return straight(memory, chance, pick)

        monkeypatch.setattr(unroll, "straight", spy)
        select, v = make(kind), view(0)
        select.soft(seen(select, v), 8, Heat(1.0, 0.0, chained=True))
        assert passed
        for rows, total in passed:
            assert rows == 25
            assert_close(total, torch.ones(2))

    def test_soft_top_k_meets_its_budget(self) -> None:
        # With k = N / 2 and scores in mirror image, the threshold is the middle one.
        alpha = soft_top(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([1.5]), 0.5)
        wanted = [1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2)), 0.5]
        assert_close(alpha, torch.tensor([wanted]))

    def test_the_gate_keeps_the_variance(self) -> None:
        g = torch.Generator().manual_seed(0)
        x = torch.randn(1, 60_000, 1, generator=g)
        mixed = gate(x, torch.full((1, 60_000), 0.36), torch.zeros(1), torch.ones(1), "matched", g)
        assert float(mixed.var()) == pytest.approx(1.0, abs=0.02)
        # x~ = sqrt(alpha) x + ..., up to the edge that keeps the square root's slope finite.
        assert float((mixed * x).mean()) == pytest.approx(0.6, abs=0.02)

    def test_the_denoiser_sees_each_token_alone(self) -> None:
        clean = lively(Denoiser(6), 0)
        x = torch.randn(2, 5, 6)
        alone = torch.cat([clean(x[:, i : i + 1], torch.zeros(6), torch.ones(6)) for i in range(5)], 1)
        assert_close(clean(x, torch.zeros(6), torch.ones(6)), alone)


def test_the_count_of_soft_top_k_is_a_fact() -> None:
    """k is detached: alpha does not depend on the stop through it, only through the score."""
    select, v = make("blind"), view(0, 1)
    soft = select.soft(seen(select, v), 8, Heat(0.7, 0.0))
    assert_close(soft.alpha_BN.sum(), soft.count_B.detach().sum(), rtol=1e-4, atol=1e-4)
    grad = torch.autograd.grad(soft.alpha_BN.sum(), list(select.parameters()), allow_unused=True)
    assert all(g is None or float(g.abs().max()) < 1e-4 for g in grad)


def test_answers_may_feel_the_count() -> None:
    """With `felt`, a gradient that asks for more weight in all asks the stop for one more token per unit of weight."""
    select, v = make("blind"), view(0, 1)
    learned = list(select.parameters())
    soft = select.soft(seen(select, v), 8, Heat(0.7, 0.0, felt=True))
    asked = torch.autograd.grad(soft.alpha_BN.sum(), learned, allow_unused=True, retain_graph=True)
    wanted = torch.autograd.grad(soft.count_B.sum(), learned, allow_unused=True)
    assert any(w is not None and float(w.abs().max()) > 0 for w in wanted)
    for a, w in zip(asked, wanted, strict=True):
        if w is not None:
            assert_close(a, w, rtol=1e-3, atol=1e-4)


def test_it_stops_at_the_first_round_that_the_stop_wins() -> None:
    select, v = make("default", 1), view(1, 4)
    path = select.walk(v, 20)
    first = [next((t for t in range(20) if row[t] > 0), 20) for row in path.stop_BT]
    assert select(v, 20).counts_B.tolist() == first and len(set(first)) > 1, "the case should tell images apart"


@every
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), b=st.integers(1, 3), n=st.integers(1, 30), data=st.data())
def test_selection_laws(kind: str, seed: int, b: int, n: int, data: Any) -> None:
    select, v = make(kind, seed % 5), view(seed, b, n)
    k = data.draw(st.integers(1, n), label="k")
    out = select(v, k)
    assert all(1 <= c <= k for c in out.counts_B.tolist())
    assert k < n or out.keep_BN.all()
    assert torch.equal(out.keep_BN, select(v.only(select.reads), k).keep_BN), "deterministic, unread fields not needed"
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    turned = select(TokenView(hidden_BND=v.hidden_BND[:, order], text_BTD=v.text_BTD), k)
    if kind != "causal":
        assert torch.equal(turned.keep_BN, out.keep_BN[:, order]), "permuting tokens permutes the answer"
    fewer = select(v, data.draw(st.integers(1, k), label="fewer"))
    assert not (fewer.keep_BN & ~out.keep_BN).any(), "selections are nested"
    i = data.draw(st.integers(0, b - 1), label="image")
    single = select(TokenView(hidden_BND=v.hidden_BND[i : i + 1], text_BTD=v.text_BTD[i : i + 1]), k)
    assert torch.equal(single.keep_BN[0], out.keep_BN[i]), "batch = singles"


@pytest.mark.parametrize("kind", ["default", "blind", "two layers", "coverage"])
@pytest.mark.parametrize("seed", range(3))
def test_hard_picking_is_the_limit_of_soft_picking(kind: str, seed: int) -> None:
    select, v = make(kind, seed), view(seed, 1)
    keep = select(v, 9).keep_BN
    with torch.no_grad():
        soft = select.soft(seen(select, v), 9, Heat(1e-5, 0.0))
    assert_close(soft.count_B, keep.sum(1).float())
    assert torch.equal(soft.alpha_BN > 0.5, keep)


@every
def test_early_ends_change_nothing(kind: str) -> None:
    select, v = make(kind, 3), view(3, 4)
    whole = select.walk(v, 20)
    keep = whole.mask(whole.standing(select.config, 0.7), 24)
    assert torch.equal(select.turned(0.7)(v, 20).keep_BN, keep)


@every
def test_gradients_reach_every_parameter(kind: str) -> None:
    select = make(kind, 2)
    soft = select.soft(seen(select, view(2, 3)), 8, Heat(1.0, 0.0, chained=True))
    weight = torch.randn(soft.alpha_BN.shape, generator=torch.Generator().manual_seed(1))
    ((soft.alpha_BN * weight).sum() + soft.count_B.sum()).backward()
    still = [n for n, p in select.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


@every
def test_padding_is_not_seen(kind: str) -> None:
    select, v = make(kind, 4), view(4, 2, 18)
    wide = torch.cat((v.hidden_BND, torch.full((2, 7, WIDTH), 9.0)), 1)
    text = torch.cat((v.text_BTD, torch.full((2, 3, WORDS), 9.0)), 1)
    said = torch.arange(7).expand(2, -1) < 4
    real = torch.arange(25).expand(2, -1) < 18
    with torch.no_grad():
        short = select.soft(seen(select, v), 6, Heat(0.5, 0.0))
        long = select.soft(Candidates(wide, real, text, said), 6, Heat(0.5, 0.0))
    assert_close(long.alpha_BN[:, :18], short.alpha_BN, rtol=1e-4, atol=1e-5)
    assert_close(long.count_B, short.count_B, rtol=1e-4, atol=1e-5)
    assert not long.alpha_BN[:, 18:].any()


def test_a_causal_encoder_sees_nothing_that_comes_later() -> None:
    select, v = make("causal", 7), view(7)
    cut = TokenView(hidden_BND=v.hidden_BND[:, :10], text_BTD=v.text_BTD)
    whole, part = (select.pointer.encoder(seen(select, x))[:, :10] for x in (v, cut))
    assert_close(part, whole, rtol=1e-4, atol=1e-5)
    both = (make("blind", 7).pointer.encoder(seen(select, x))[:, :10] for x in (v, cut))
    assert not torch.allclose(*both, atol=1e-2)


def test_soft_top_k_of_logarithms_keeps_late_picks_apart() -> None:
    """At one temperature: a token picked with certainty in round 20, and one that no round ever pointed at."""
    score = torch.full((1, 30), 1e-6)
    score[0, :20] = 0.9 ** torch.arange(1, 21)
    k = torch.tensor([20.0])
    plain, logs = soft_top(score, k, 0.2)[0], soft_top(score.log(), k, 0.2)[0]
    assert plain[19] - plain[29] < 0.2 and logs[19] - logs[29] > 0.99


def test_the_question_is_read_as_far_as_it_is_let_in() -> None:
    select, v = make("default", 5), view(5)
    other = TokenView(hidden_BND=v.hidden_BND, text_BTD=view(6).text_BTD)
    assert not torch.equal(select.walk(v, 12).order_BT, select.walk(other, 12).order_BT)
    shut = make("default", 5, text=0.0)
    assert torch.equal(shut.walk(v, 12).order_BT, shut.walk(other, 12).order_BT)


def test_a_folder_brings_it_back(tmp_path: Any) -> None:
    select, v = make("coverage", 6).turned(0.25), view(6)
    select.save_pretrained(tmp_path / "s")
    back = StepwiseSelector.from_pretrained(tmp_path / "s")
    assert back.config == select.config and back == select
    assert torch.equal(back(v, 9).keep_BN, select(v, 9).keep_BN)


def test_tokens_of_another_width_are_refused() -> None:
    with pytest.raises(SignalError, match="width 12, but this model's are 20"):
        make("blind")(TokenView(hidden_BND=torch.zeros(1, 9, 20)), 3)


@pytest.mark.parametrize(
    ("field", "value"), [("budget", 0.0), ("text", 1.5), ("heads", 5), ("layers", 0), ("words", -1), ("group", 0)]
)
def test_configs_that_cannot_be(field: str, value: Any) -> None:
    with pytest.raises(FoveateError, match="width" if field == "heads" else field):
        make("default", **{field: value})
