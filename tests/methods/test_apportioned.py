"""One total for the images of a prompt, divided by what they are worth: any number of images, in any batch."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize
from torch.testing import assert_close

from foveate import Cut, FoveateError, Plan, attach
from foveate.choosing import Asked, choose, counts
from foveate.methods import METHODS
from foveate.methods.apportioned import Apportioned, apportioned
from foveate.methods.switches import merged
from foveate.methods.uniform import Uniform
from foveate.ops.apportion import share
from foveate.selection import TokenView
from foveate.servable import servable
from zoo import Row, batch, shared

ROWS = [
    Row([3, ("image", (16, 16)), 2, ("image", (32, 32)), 2, ("image", (16, 32)), 9], 1),
    Row([3, ("image", (32, 32)), 9], 2),
    Row([14], 4),
    Row([2, ("image", (24, 40)), 5, ("image", (32, 32)), 7], 3),
]
LAYER = Plan((Cut(2, Uniform(), 0.4),))
INPUT = Plan((Cut("input", Uniform(), 12),))


def kept(plan, rows=ROWS):
    model, b = shared("qwen2_vl"), batch("qwen2_vl", rows)
    with torch.no_grad(), attach(model, plan) as attached:
        logits = model(**b.inputs).logits
    return {(i.row, i.image): (i.tokens, i.cuts[-1].count) for i in attached.report.images}, logits


def expected(found, worth, keep, alpha=1.0):
    """The paper's shares of the images of one prompt, made to fit."""
    sizes, mean = [n for n, _ in found], sum(worth) / len(worth)
    total = min(keep, sum(sizes)) if isinstance(keep, int) else max(1, int(keep * sum(sizes) + 0.5))
    ratio = [min(0.95, max(0.05, total / sum(sizes) + alpha * (x - mean))) for x in worth]
    return share(total, sizes, 1, ratio)


@pytest.mark.parametrize("plan", [LAYER, INPUT], ids=["layer", "input"])
def test_no_alpha_is_by_size(plan):
    by = {"by": "words"} if plan is INPUT else {}
    got, logits = kept(apportioned(plan, alpha=0.0, **by))
    want, same = kept(plan.with_counts(per="prompt"))
    assert got == want
    assert_close(logits, same)


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_shares_follow_how_far_the_layers_moved_an_image(alpha):
    model, b = shared("qwen2_vl"), batch("qwen2_vl", ROWS)
    with torch.no_grad():
        states = model(**b.inputs, output_hidden_states=True).hidden_states
    moved = 1 - cosine_similarity(states[0], states[2], dim=-1)
    got, _ = kept(apportioned(LAYER, alpha))
    spots = (b.inputs["input_ids"] == model.config.image_token_id).int()
    for row in (0, 1, 3):
        edges = spots[row].diff(prepend=torch.zeros(1, dtype=torch.int32)).eq(1).cumsum(0) * spots[row]
        worth = [float(moved[row, edges == i + 1].mean()) for i in range(int(edges.max()))]
        found = [got[row, i] for i in range(len(worth))]
        assert [k for _, k in found] == expected(found, worth, 0.4, alpha)
    assert got != kept(LAYER.with_counts(per="prompt"))[0]


def test_shares_follow_the_words():
    """Of two images of one size, that whose tokens lie nearer to the question gets more; both together, the total."""
    words = normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    near, far = words.repeat(4, 1), torch.randn(12, 8, generator=torch.Generator().manual_seed(1))

    def record(x):
        return Asked(12, 12, {"hidden_BND": lambda: x, "text_BTD": lambda: words}, prompt=0)

    cut = Cut("input", Apportioned(Uniform(), by="words"), 8, per="prompt")
    first, second = counts(cut, [record(near), record(far)])
    assert first > second >= 1 and first + second == 8
    assert counts(cut, [record(far), record(near)]) == [second, first]
    stays = choose(cut, [record(near), record(far)])
    assert [len(s.kept) for s in sorted(stays)] == [first, second]


@pytest.mark.parametrize("plan", [apportioned(LAYER), apportioned(INPUT, by="words")], ids=["layer", "input"])
def test_a_batch_is_its_prompts(plan):
    got, together = kept(plan)
    for r, row in enumerate(ROWS):
        if len(row.parts) == 1:
            continue
        alone, logits = kept(plan, [row])
        assert {i: alone[0, i] for _, i in alone} == {i: x for (at, i), x in got.items() if at == r}
        assert_close(together[r, -logits.shape[1] :], logits[0], rtol=1e-4, atol=2e-5)
    assert Plan.from_json(plan.to_json()) == plan


def test_around_methods_and_switches():
    plan = apportioned(merged(METHODS["divprune"](keep=0.4)), by="words")
    got, logits = kept(plan)
    assert bool(logits.isfinite().all())
    for row in (0, 1, 3):
        sizes, counted = zip(*(x for (at, _), x in got.items() if at == row), strict=True)
        assert sum(counted) == int(0.4 * sum(sizes) + 0.5)
    assert "before it has seen it" in servable(plan)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: apportioned(INPUT, by="size"), "by is 'size'"),
        (lambda: apportioned(INPUT, low=0.0), "low 0.0"),
        (lambda: apportioned(INPUT, alpha=-1.0), "alpha is -1.0"),
        (lambda: Cut("input", Apportioned(Uniform()), 9), 'give per="prompt"'),
        (lambda: apportioned(METHODS["sms"](0.5, text=0.5)), "whole prompt"),
        (lambda: apportioned(METHODS["visionzip"](0.5)), 'at "input" or at a layer'),
        (lambda: kept(apportioned(INPUT)), "inside the LLM only"),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(FoveateError, match=says):
        make()


def test_images_of_a_prompt_without_words_are_worth_the_same():
    views = [TokenView(hidden_BND=torch.randn(1, n, 8), text_BTD=torch.zeros(1, 0, 8)) for n in (4, 9)]
    assert len({*Apportioned(Uniform(), by="words").image_weights(views, 0.5)}) == 1
