"""Teaching a selector that reads the question: what the model looks at is what its layers say, and worth learns it."""

from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from foveate import FoveateError, SignalError, attach
from foveate.cut import Cut
from foveate.plan import Plan
from foveate.pointer import OneShotConfig, OneShotSelector, PointerSelector
from foveate.pointer.candidates import Candidates
from foveate.pointer.train import Recipe, Seen, examples, make_accelerator, state, train
from foveate.pointer.train.examples import Examples
from foveate.pointer.train.gaze import gazes, readers
from foveate.pointer.train.lesson import Lesson, divergence
from foveate.pointer.train.loop import STATE
from foveate.selection import TokenView
from learned import lively
from pointer.test_train import TAIL, families, llava, rows, select, task  # noqa: F401
from zoo import DEPTH, Row, batch, shared


def test_the_divergence_by_hand() -> None:
    worth = torch.tensor([[0.0, log(3), -1e9]], requires_grad=True)
    loss = divergence(worth, torch.tensor([[5.0, 5.0, 0.0]]))
    # Softmax gives 1/4 and 3/4, half and half are wanted; the third is padding.
    assert_close(loss, torch.tensor(0.5 * log(0.5 / 0.25) + 0.5 * log(0.5 / 0.75)))
    loss.backward()
    assert_close(worth.grad, torch.tensor([[0.25 - 0.5, 0.75 - 0.5, 0.0]]))


def test_layers_that_look_at_the_picture_teach() -> None:
    assert readers(torch.tensor([0.9, 0.1, 0.2, 0.4, 0.19])) == [2, 3]
    assert readers(torch.tensor([0.9])) == [0]


@families
def test_gazes_are_the_attention_of_the_models_own_layers(task: Examples) -> None:  # noqa: F811
    """Two prompts, one of them with two pictures; eager attention says what it should be."""
    model, prompt = task.engine.model, examples.prepare_examples(task.engine, task.examples)
    found = gazes(task.engine, prompt, range(DEPTH))
    assert [len(of) for of in found] == [1, 2]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        every = model(**prompt.inputs, output_attentions=True).attentions
    last_L = torch.stack([a.float().mean(1)[:, -1] for a in every], 1)
    images = task.look([0, 1]).material.images
    for image, map_LN in zip(images, [m for of in found for m in of], strict=True):
        assert_close(map_LN, last_L[image.row][:, image.place_N], atol=1e-5, rtol=1e-4)
    assert not model._forward_pre_hooks and not any(x._forward_pre_hooks for x in task.lm.layers)


@llava
def test_layers_that_are_not_there_are_refused(task: Examples) -> None:  # noqa: F811
    prompt = examples.prepare_examples(task.engine, task.examples)
    for layers in ((DEPTH,), (-1,), ()):
        with pytest.raises(FoveateError, match=f"the model has 0 to {DEPTH - 1}"):
            gazes(task.engine, prompt, layers)


@llava
def test_a_picture_is_looked_up_once(task: Examples, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    layers = task.teachers()
    assert layers and 0 not in layers
    both = task.gaze([0, 1], layers)
    assert both.shape == task.look([0, 1]).candidates.tokens_BND.shape[:2]
    monkeypatch.setattr(examples, "gazes", None)
    assert_close(task.gaze([1], layers), both[1:])


@llava
def test_the_lesson_reaches_worth_and_question_and_nothing_else(task: Examples) -> None:  # noqa: F811
    selector = select(32, text=True)
    lesson = Lesson(task, task.engine.model, selector, Recipe(teachers=(1, 2)), lambda x: x)
    optimizer = torch.optim.SGD(selector.parameters(), 0.05)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss, figures = lesson([0, 1], 0, 0)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] and 0 < float(figures["caught"]) <= 1
    learned = {n.split(".")[1] for n, p in lesson.selector.named_parameters() if p.grad is not None and p.grad.any()}
    assert learned == {"encoder", "score"}
    assert any(p.grad.any() for p in selector.pointing.encoder.question.parameters())
    assert not any(p.requires_grad for p in task.engine.model.parameters())
    with pytest.raises(FoveateError, match="teach a coverage selector"):
        Lesson(task, task.engine.model, OneShotSelector(OneShotConfig(32, 0.3, True, 16)), Recipe(), lambda x: x)


@llava
def test_answers_move_what_was_taught_less(task: Examples, tmp_path: Path) -> None:  # noqa: F811
    """Adam's first update moves every number by the rate, whatever its gradient."""
    recipe = Recipe(steps=1, batch=2, teach=1, rate=1e-3, warmup=0, decay=0.0, afterwards=0.25)
    selector = select(32, text=True)
    before = {n: p.detach().clone() for n, p in selector.named_parameters()}
    train(task, task.engine.model, selector, recipe, tmp_path, None, make_accelerator(recipe, cpu=True))
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in selector.named_parameters()}
    assert moved["pointing.score.weight"] == pytest.approx(0.25e-3, rel=0.01)
    assert moved["pointing.stop_base"] == pytest.approx(1e-3, rel=0.01)
    with pytest.raises(FoveateError, match="afterwards is -1"):
        Recipe(afterwards=-1)


class Pointed:
    """Each picture has things of eight kinds, and a question names one: only who reads it knows where to look."""

    size = 64

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        kinds_BN = torch.stack([torch.randperm(24, generator=g) for _ in range(64)]) % 8
        named_B = torch.randint(8, (64,), generator=g)
        names_8D = torch.eye(8)
        self.c = Candidates(names_8D[kinds_BN], None, names_8D[named_B].unsqueeze(1))
        self.wanted_BN = (kinds_BN == named_B.unsqueeze(1)).float()

    def look(self, numbers: Any) -> Seen:
        assert self.c.text_BTD is not None
        return Seen(Candidates(self.c.tokens_BND[list(numbers)], None, self.c.text_BTD[list(numbers)]), None)

    def teachers(self) -> list[int]:
        return [0]

    def gaze(self, numbers: Any, _layers: Any) -> torch.Tensor:
        return self.wanted_BN[list(numbers)]


def taught(folder: Path, stops: list[int | None], **options: Any) -> PointerSelector:
    recipe = Recipe(teach=60, batch=16, rate=1e-2, warmup=2, save_every=7, **options).lesson()
    for stop in stops:
        torch.manual_seed(0)
        selector = select(8, text=True, budget=3 / 24)
        folder.mkdir(exist_ok=True)
        train(Pointed(), torch.nn.Linear(1, 1), selector, recipe, folder, None, make_accelerator(recipe, cpu=True),
              stop_after=stop, trainee_of=Lesson)  # fmt: skip
    return selector


def test_two_questions_about_one_picture_are_two_choices(tmp_path: Path) -> None:
    selector, c = taught(tmp_path, [None]), Pointed().c
    assert c.text_BTD is not None
    picture, kinds = c.tokens_BND[:1].expand(8, -1, -1), torch.eye(8).unsqueeze(1)
    first = selector.walk(TokenView(hidden_BND=picture, text_BTD=kinds), 1).order_BT
    assert picture[0][first[:, 0]].argmax(-1).tolist() == list(range(8)), "the thing that the question names"


def test_a_lesson_that_was_interrupted_is_the_lesson_that_was_not(tmp_path: Path) -> None:
    one, two = taught(tmp_path / "a", [None]), taught(tmp_path / "b", [3, 20, None])
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    with pytest.raises(FoveateError, match="other settings"):
        taught(tmp_path / "b", [None], teachers=(1,))
    assert (tmp_path / "a" / STATE).is_file()


def test_a_run_begun_before_there_were_lessons_goes_on(tmp_path: Path) -> None:
    taught(tmp_path, [3])
    tensors, facts = state.read(tmp_path / STATE)
    del facts["run"]["recipe"]["teachers"], facts["run"]["recipe"]["teach"]
    state.write(tmp_path / STATE, tensors, facts)
    taught(tmp_path, [4])
    assert state.read(tmp_path / STATE)[1]["step"] == 4


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_in_a_batch_each_prompt_is_read_by_itself(name: str) -> None:
    """Prompts of several lengths, one with two pictures: each is cut as alone, and another question cuts otherwise."""
    selector = lively(select(32, text=True), 4)
    plan = Plan((Cut("input", selector, 0.5),))

    def kept(prompts: list[Row]) -> list[list[int]]:
        with torch.no_grad(), attach(shared(name), plan, tail=TAIL) as attached:
            shared(name)(**batch(name, prompts).inputs)
            return [i.cuts[0].kept for i in attached.report.images]

    one, two = rows(name)
    assert kept([one, two]) == kept([one]) + kept([two])
    longer = Row([*one.parts[:-1], 14], one.seed)
    assert kept([longer]) != kept([one])


def test_a_prompt_without_a_question_is_refused() -> None:
    selector = select(8, text=True)
    with pytest.raises(SignalError, match="the prompt holds none"):
        selector(TokenView(hidden_BND=torch.randn(1, 9, 8), text_BTD=torch.randn(1, 0, 8)), 3)


def test_one_that_reads_comes_back_from_its_folder(tmp_path: Path) -> None:
    selector, c = lively(select(8, text=True), 0), Pointed().c
    selector.save_pretrained(tmp_path)
    view = TokenView(hidden_BND=c.tokens_BND, text_BTD=c.text_BTD)
    assert torch.equal(PointerSelector.from_pretrained(tmp_path)(view, 5).keep_BN, selector(view, 5).keep_BN)


def test_worth_counts_even_shares() -> None:
    """So that what a lesson leaves open, a number added to all scores of a picture, cannot move the stop."""
    selector, view = (
        lively(select(8, text=True), 0),
        TokenView(hidden_BND=torch.randn(2, 24, 8), text_BTD=torch.randn(2, 3, 8)),
    )
    before = selector.walk(view, 6)
    assert_close(selector.worth(Candidates(view.hidden_BND, text_BTD=view.text_BTD)).exp().mean(1), torch.ones(2))
    with torch.no_grad():
        selector.pointing.score.bias += 3.0
    assert_close(selector.walk(view, 6).stop_BT, before.stop_BT, atol=1e-5, rtol=1e-5)


def test_padding_says_nothing() -> None:
    """Padded tokens and words change no worth."""
    selector, c = lively(select(8, text=True), 0), Pointed().c
    assert c.text_BTD is not None
    padded = Candidates(
        torch.cat((c.tokens_BND, torch.randn(64, 3, 8)), 1), torch.arange(27).expand(64, -1) < 24,
        torch.cat((c.text_BTD, torch.randn(64, 2, 8)), 1), torch.arange(3).expand(64, -1) < 1,
    )  # fmt: skip
    assert_close(selector.worth(padded)[:, :24], selector.worth(c), atol=1e-5, rtol=1e-4)
    assert (selector.worth(padded)[:, 24:] < -1e8).all()
