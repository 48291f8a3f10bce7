"""Questions that share an image's prefix: each is answered as if alone; and training's attention is attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foveate.tiny import world
from foveate.tiny.anatomy import build_llava
from foveate.tiny.branches import TOKENS, answer_states, mask, pack
from foveate.tiny.picks import farthest, oracle, pooled, top, uniform
from foveate.tiny.statistics import auc, paired, wilson
from instruments.llava.attention import plain_attention
from instruments.llava.pointing import first_rows


def test_a_branch_sees_the_prefix_and_itself_only() -> None:
    branch = torch.tensor([[1, 1, 2, 2, 0]])
    seen = mask(3, branch, torch.float32)[0, 0] == 0
    assert seen[:3].tolist() == [[j <= i for j in range(8)] for i in range(3)]
    assert seen[6].tolist() == [True] * 3 + [False, False, True, True, False]


def test_an_answer_does_not_depend_on_what_else_is_asked() -> None:
    torch.manual_seed(0)
    model = build_llava(language={"num_hidden_layers": 2})
    questions = world.scene("val", 3).questions[:4]
    image, kept = torch.randn(1, 40, 256), torch.arange(0, 400, 10)[None]
    with torch.no_grad():
        together, _ = answer_states(model, image, kept, pack([questions]))
        alone = [answer_states(model, image, kept, pack([[q]]))[0] for q in questions]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_knowing_the_prefix_changes_no_value_and_no_gradient() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 2, 450, 8, requires_grad=True) for _ in range(3))
    hide = mask(410, torch.tensor([[1] * 20 + [2] * 20, [1] * 30 + [0] * 10]), torch.float32)
    results = []
    for prefix in (0, 410):
        out = plain_attention(None, query, key, value, hide, shared_prefix=prefix)[0]
        results.append((out, *torch.autograd.grad(out.square().sum(), (query, key, value))))
    for plain, quick in zip(*results, strict=True):
        torch.testing.assert_close(plain, quick, rtol=1e-4, atol=1e-5)


def test_the_first_row_of_each_answer_is_where_its_first_token_is_said() -> None:
    questions = world.scene("val", 1).questions
    branches = pack([questions])
    said = branches.targets[first_rows(branches)]
    assert len(said) == len(questions)
    assert torch.equal(said, torch.cat([pack([[q]]).targets[0][pack([[q]]).targets[0] >= 0][:1] for q in questions]))


@pytest.mark.parametrize("k", [128, 64, 32])
def test_every_choice_keeps_k_different_tokens_in_order(k: int) -> None:
    torch.manual_seed(0)
    image = torch.randn(2, TOKENS, 8)
    question = next(q for q in world.scene("val", 1).questions if q.boxes)
    rng = np.random.default_rng(0)
    mixed, places = pooled(image, k)
    assert mixed.shape == (2, k, 8)
    for kept in (farthest(image, k), top(image[..., 0], k), uniform(k)[None], oracle(question, k, rng)[None], places):
        assert kept.shape[1] == k and bool((kept.diff(dim=1) > 0).all()) and 0 <= kept.min() <= kept.max() < TOKENS


def test_statistics_known_by_hand() -> None:
    low, high = wilson(90, 100)
    assert (round(low, 4), round(high, 4)) == (0.8256, 0.9448)
    assert auc(torch.tensor([0.1, 0.9, 0.8, 0.2]), torch.tensor([False, True, True, False])) == 1.0
    a, b = torch.tensor([True] * 6 + [False]), torch.tensor([False] * 6 + [True])
    assert paired(a, b) == pytest.approx(2 * (1 + 7) / 2**7)
