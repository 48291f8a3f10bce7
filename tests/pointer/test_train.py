"""Training: the loss is that of use, only the selector learns, and an interrupted run is the run that was not."""

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from alltypes import prompts, tiny
from foveate import FoveateError, PlanError, attach
from foveate.cut import Cut
from foveate.data import Example
from foveate.engines.loading import Engine, Facts
from foveate.engines.prompting import Prompt
from foveate.methods import METHODS
from foveate.plan import Plan
from foveate.pointer import OneShotConfig, OneShotSelector, PointerConfig, PointerSelector
from foveate.pointer.noise import Support
from foveate.pointer.stepwise import StepwiseConfig, StepwiseSelector
from foveate.pointer.train import Recipe, Seen, answered, examples, make_accelerator, state, train
from foveate.pointer.train.calibrate import calibrated, counts, dialled, mean_kept, walks
from foveate.pointer.train.examples import Examples
from foveate.pointer.train.loop import STATE, numbers
from foveate.pointer.train.trainee import Trainee
from foveate.selection import Selection, TokenView
from zoo import DEPTH, NAMES, SIZES, Row, batch, build, shared

TAIL = 2


class _Words:
    """A tokenizer whose words are numbers."""

    pad_token_id = 0

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in text.split()]}


class _Processor:
    tokenizer = _Words()


def rows(name: str) -> list[Row]:
    sizes = SIZES[name]
    return [Row([2, ("image", sizes[-1]), 9], 1), Row([3, ("image", sizes[0]), 2, ("image", sizes[0]), 7], 2)]


@pytest.fixture
def task(request: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two prompts of a family's zoo model, one of them with two pictures."""
    name, _, joined = request.param.partition(":")
    model = build(name, vision_feature_layer=[0, 1, 3]) if joined else build(name)
    model.generation_config.eos_token_id = 2
    engine = Engine(model, _Processor(), Facts("", name, DEPTH))
    asked = batch(name, rows(name))
    picks = {str(i): batch(name, [row]) for i, row in enumerate(rows(name))}

    def prepare(_engine: Engine, chosen: Any) -> Prompt:
        both = asked if len(chosen) == 2 else picks[chosen[0].id]
        return Prompt(dict(both.inputs), TAIL)

    monkeypatch.setattr(examples, "prepare_examples", prepare)
    picture: Any = object()
    made = Examples(engine, [Example(str(i), (picture,), "?", (answer,)) for i, answer in enumerate(("5 6", "7 8 9"))])
    made.name = name  # type: ignore[attr-defined]
    return made


families = pytest.mark.parametrize("task", NAMES, indirect=True)
llava = pytest.mark.parametrize("task", ["llava"], indirect=True)


class Told:
    """Keeps what it is told to, a list of places for each number of tokens."""

    reads, adaptive = frozenset({"hidden_BND"}), True

    def __call__(self, view: TokenView, k: int) -> Selection:
        n = view.shape[1]
        return Selection((torch.arange(n) % 3 == 0).expand(view.shape[0], -1))


@families
def test_the_loss_is_that_of_the_model_with_a_cut_at_its_input(task: Examples) -> None:
    """What training computes for tokens wholly kept is the loss of the attached model, labels and all."""
    model = task.engine.model
    seen = task.look([0, 1])
    c = seen.candidates
    width = c.tokens_BND.shape[1]
    places = torch.arange(0, width, 3).expand(len(c.tokens_BND), -1)
    counts = torch.tensor([i.tokens for i in seen.material.images])
    support = Support(places, places < counts.unsqueeze(1))
    tokens = c.tokens_BND.gather(1, places.unsqueeze(-1).expand(-1, -1, c.tokens_BND.shape[-1]))
    with torch.no_grad():
        nll, right = task.loss(seen, tokens, torch.ones(places.shape), support)
    prompt = examples.prepare_examples(task.engine, task.examples)
    inputs, next_BL = answered.answered(task.engine, prompt.inputs, ["5 6", "7 8 9"])
    with torch.no_grad(), attach(model, Plan((Cut("input", Told(), 0.7),)), tail=TAIL) as attached:
        logits = model(**inputs).logits
        assert [len(i.cuts[0].kept) for i in attached.report.images] == [
            (i.tokens + 2) // 3 for i in seen.material.images
        ]
    said = next_BL >= 0
    assert next_BL[said].tolist() == [5, 6, 2, 7, 8, 9, 2]
    assert_close(nll, torch.nn.functional.cross_entropy(logits[said], next_BL[said]), rtol=1e-4, atol=1e-5)
    assert_close(right, (logits[said].argmax(-1) == next_BL[said]).float().mean())


@families
def test_a_selector_learns_from_what_it_will_see(task: Examples) -> None:
    """Tokens and question are those of the view in use; the answer is not among them."""
    c = task.look([0, 1]).candidates
    views: list[TokenView] = []

    class Spy(Told):
        reads = frozenset({"hidden_BND", "text_BTD"})

        def __call__(self, view: TokenView, k: int) -> Selection:
            views.append(view)
            return super().__call__(view, k)

    prompt = examples.prepare_examples(task.engine, task.examples)
    with torch.no_grad(), attach(task.engine.model, Plan((Cut("input", Spy(), 0.7),)), tail=TAIL):
        task.engine.model(**prompt.inputs)
    flat = [(v.hidden_BND[b], v.text_BTD[b]) for v in views for b in range(v.shape[0])]
    assert len(flat) == len(c.tokens_BND) == 3
    for i in range(3):
        real = slice(None) if c.real_BN is None else c.real_BN[i]
        said = slice(None) if c.said_BT is None else c.said_BT[i]
        tokens, text = c.tokens_BND[i][real], c.text_BTD[i][said]
        same = [b for a, b in flat if a.shape == tokens.shape and torch.allclose(a, tokens)]
        assert any(b.shape == text.shape and torch.allclose(b, text) for b in same)


@families
@pytest.mark.parametrize("kind", ["pointer", "one shot", "denoised"])
def test_gradients_reach_the_selector_and_nothing_else(task: Examples, kind: str) -> None:
    selector = select(32, text=True) if kind != "one shot" else OneShotSelector(OneShotConfig(32, 0.3, True, 16))
    recipe = Recipe(others=2, denoise=kind == "denoised")
    trainee = Trainee(task, task.engine.model, selector, recipe, lambda x: x)
    # As made, some parts wait behind zeros: a few updates bring them to life.
    optimizer = torch.optim.SGD([p for p in trainee.parameters() if p.requires_grad], 0.05)
    for seed in range(3):
        trainee.begin()
        optimizer.zero_grad()
        loss, figures = trainee([0, 1], seed, seed)
        loss.backward()
        optimizer.step()
    learned = {n for n, p in trainee.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learned == {n for n, _ in trainee.named_parameters() if n.startswith(("selector.", "denoiser."))}
    assert 0 < float(figures["kept"]) <= 1


def before_projector(task: Examples) -> Examples:
    """The same examples, shown as a selector at the encoder sees them."""
    return Examples(task.engine, task.examples, "encoder")


@pytest.mark.parametrize("task", ["llava", "llava:joined"], indirect=True)
def test_before_the_projector_too_the_loss_is_that_of_use(task: Examples) -> None:
    early, model = before_projector(task), task.engine.model
    seen = early.look([0, 1])
    c = seen.candidates
    places = torch.arange(0, c.tokens_BND.shape[1], 3).expand(len(c.tokens_BND), -1)
    tokens = c.tokens_BND.gather(1, places.unsqueeze(-1).expand(-1, -1, c.tokens_BND.shape[-1]))
    with torch.no_grad():
        nll, _ = early.loss(seen, tokens, torch.ones(places.shape), Support(places, torch.ones_like(places).bool()))
    prompt = examples.prepare_examples(task.engine, task.examples)
    inputs, next_BL = answered.answered(task.engine, prompt.inputs, ["5 6", "7 8 9"])
    with torch.no_grad(), attach(model, Plan((Cut("encoder", Told(), 0.7),)), tail=TAIL):
        logits = model(**inputs).logits
    said = next_BL >= 0
    assert_close(nll, torch.nn.functional.cross_entropy(logits[said], next_BL[said]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", ["qwen2_5_vl"], indirect=True)
def test_a_projector_of_several_tokens_each_is_refused(task: Examples) -> None:
    with pytest.raises(FoveateError, match="use --recipe coverage"):
        before_projector(task).look([0, 1])


@llava
@pytest.mark.parametrize(("coverage", "felt"), [(False, False), (True, False), (False, True)])
def test_the_published_recipe_trains_the_published_selector(task: Examples, coverage: bool, felt: bool) -> None:
    early = before_projector(task)
    torch.manual_seed(0)
    features = early.look([0]).candidates.tokens_BND.shape[-1]
    selector = StepwiseSelector(StepwiseConfig(features, 32, 0.3, heads=2, coverage=coverage))
    recipe = Recipe.published(steps=20, spread=(0.01, 0.5), felt=felt)
    trainee = Trainee(early, task.engine.model, selector, recipe, lambda x: x)
    optimizer = torch.optim.SGD([p for p in trainee.parameters() if p.requires_grad], 0.05)
    for step in range(8, 12):
        optimizer.zero_grad()
        loss, figures = trainee([0, 1], step, step)
        loss.backward()
        optimizer.step()
    learned = {n for n, p in trainee.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learned == {n for n, _ in trainee.named_parameters() if n.startswith(("selector.", "denoiser.", "dial"))}
    # Lambda times the share kept, and nothing else, is added to the answers' loss.
    assert_close(loss.detach(), figures["loss"] + recipe.drawn(11) * figures["kept"])


def select(features: int, **options: Any) -> PointerSelector:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"budget": 0.3, "width": 16, "heads": 2, "likeness": 8}
    return PointerSelector(PointerConfig(features=features, **defaults | options))


def run(task: Any, folder: Path, stops: list[int | None], **options: Any) -> tuple[list[Any], PointerSelector]:
    """Train, interrupted at these updates; the curve without its clock."""
    folder.mkdir()
    recipe = Recipe(**{"steps": 8, "batch": 2, "warmup": 2, "save_every": 3, "check_every": 4, "others": 2} | options)
    for stop in stops:
        selector = select(32)
        check = lambda s: {"kept": float(s.config.budget)}  # noqa: E731
        curve = train(task, task.engine.model, selector, recipe, folder, check, make_accelerator(recipe, cpu=True),
                      stop_after=stop)  # fmt: skip
    return [{k: v for k, v in row.items() if k != "seconds"} for row in curve], selector


@llava
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resuming_is_not_stopping(task: Examples, tmp_path: Path, accumulate: int) -> None:
    whole, one = run(task, tmp_path / "a", [None], accumulate=accumulate)
    parts, two = run(task, tmp_path / "b", [2, 5, None], accumulate=accumulate)
    assert parts == whole
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert (tmp_path / "a" / STATE).is_file() and (tmp_path / "a" / "curves.json").is_file()
    assert not [f for f in (tmp_path / "b").iterdir() if f.suffix not in (".safetensors", ".json", ".png")]


@llava
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_an_update_loses_nothing(
    task: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    whole, one = run(task, tmp_path / "a", [None])
    look, asked = task.look, 0

    def interrupted(*words: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 4:
            os.kill(os.getpid(), number)
        return look(*words)

    before = signal.getsignal(number)
    with monkeypatch.context() as m:
        m.setattr(task, "look", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(task, tmp_path / "b", [None])
    assert signal.getsignal(number) is before
    saved = state.read(tmp_path / "b" / STATE)[1]["step"]
    assert 1 <= saved <= 4 and saved % 3, "at an update of its own, not at the next of save_every"
    # How often states are saved may change on the way.
    recipe = Recipe(steps=8, batch=2, warmup=2, save_every=1, check_every=4, others=2)
    two = select(32)
    parts = train(task, task.engine.model, two, recipe, tmp_path / "b", lambda s: {"kept": float(s.config.budget)},
                  make_accelerator(recipe, cpu=True))  # fmt: skip
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in parts] == whole
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@llava
def test_a_second_signal_does_not_wait(task: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def impatient(*_: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it waited")

    monkeypatch.setattr(task, "look", impatient)
    with pytest.raises(KeyboardInterrupt):
        run(task, tmp_path / "a", [None])
    assert not (tmp_path / "a" / STATE).exists()


@llava
def test_a_finished_run_is_not_run_again_and_another_is_refused(task: Examples, tmp_path: Path) -> None:
    before, _ = run(task, tmp_path / "a", [None])
    recipe = Recipe(steps=8, batch=2, warmup=2, save_every=3, check_every=4, others=2)
    ticks: list[int] = []
    again = train(task, task.engine.model, select(32), recipe, tmp_path / "a", tick=ticks.append)
    assert [{k: v for k, v in r.items() if k != "seconds"} for r in again] == before and not ticks
    with pytest.raises(FoveateError, match="other settings"):
        train(task, task.engine.model, select(32), Recipe(steps=9, batch=2), tmp_path / "a")
    (tmp_path / "b").mkdir()
    for of in ({"data": "one", "model": "x"}, {"data": "one", "model": "x"}, None):
        train(task, task.engine.model, select(32), recipe, tmp_path / "b", of=of, stop_after=1)
    with pytest.raises(FoveateError, match="a run with other data; choose another folder"):
        train(task, task.engine.model, select(32), recipe, tmp_path / "b", of={"data": "two", "model": "x"})
    for facts in ({}, {"run": [], "step": 1, "seconds": 1.0, "curve": []}, {"run": {}, "step": "x"}):
        state.write(tmp_path / "a" / STATE, {"a": torch.zeros(1)}, facts)
        with pytest.raises(FoveateError, match="no training state"):
            train(task, task.engine.model, select(32), recipe, tmp_path / "a")
    (tmp_path / "a" / STATE).write_bytes(b"x")
    with pytest.raises(FoveateError, match="no training state"):
        train(task, task.engine.model, select(32), recipe, tmp_path / "a")


@llava
def test_the_loss_falls_on_what_is_trained_on(task: Examples, tmp_path: Path) -> None:
    curve, _ = run(task, tmp_path / "a", [None], steps=40, rate=1e-2, save_every=40, check_every=40)
    # The same two prompts, soft and noisy at the start, nearly hard at the end: compare with a selector held at random.
    losses = [row["loss"] + 2 * (row["kept"] / 0.3 - 1) ** 2 for row in curve if "loss" in row]
    assert losses[-1] < losses[0]


class Hidden:
    """A task that can be solved by pointing alone: each image has a few tokens that matter, and as many as it likes."""

    size = 64

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        self.tokens = torch.randn(64, 24, 8, generator=g)
        self.wanted = torch.zeros(64, 24, dtype=torch.bool)
        for i in range(64):
            self.wanted[i, torch.randperm(24, generator=g)[: 1 + i % 5]] = True
        self.tokens[..., 0] = self.wanted * 6.0 - 3.0

    def look(self, numbers: Any) -> Seen:
        from foveate.pointer.candidates import Candidates

        return Seen(Candidates(self.tokens[list(numbers)]), self.wanted[list(numbers)])

    def loss(self, seen: Seen, tokens: Any, alpha_BS: Any, support: Any) -> Any:
        wanted = seen.material.gather(1, support.places_BS).float() * support.there_BS
        missing = seen.material.sum(1) - (alpha_BS * wanted).sum(1)
        return missing.mean(), 1 - missing.mean()


def test_it_learns_which_and_how_many(tmp_path: Path) -> None:
    task = Hidden()
    torch.manual_seed(0)
    selector = PointerSelector(PointerConfig(features=8, budget=3 / 24, width=16, heads=2, likeness=4))
    flat = task.tokens.flatten(0, 1)
    selector.fit(flat.mean(0), flat.std(0))
    recipe = Recipe(steps=120, batch=16, rate=1e-2, check_every=120, save_every=120, others=4)
    train(task, torch.nn.Linear(1, 1), selector, recipe, tmp_path, accelerator=make_accelerator(recipe, cpu=True))
    view = TokenView(hidden_BND=task.tokens)
    ready = calibrated(selector, walks(selector, [view], 3.0), 3 / 24)
    kept = ready(view, 9).keep_BN
    assert (kept & task.wanted).sum() > 0.9 * task.wanted.sum()
    counts = torch.stack((kept.sum(1), task.wanted.sum(1))).float()
    assert torch.corrcoef(counts)[0, 1] > 0.8


def test_calibration_meets_the_mean() -> None:
    from learned import folder

    selector = PointerSelector.from_pretrained(folder(12))
    views = [TokenView(hidden_BND=torch.randn(20, 50, 12, generator=torch.Generator().manual_seed(i))) for i in (0, 1)]
    seen = walks(selector, views, 4.0)
    for budget in (0.1, 0.2, 0.4):
        ready = calibrated(selector, seen, budget)
        assert mean_kept(ready, seen, ready.config.stop_bias) == pytest.approx(budget, rel=0.05)
        assert counts(ready, seen).float().mean() / 50 == pytest.approx(budget, rel=0.05)
    with pytest.raises(FoveateError, match="on average; the nearest keeps"):
        calibrated(selector, seen, 0.9)


def test_every_epoch_sees_everything_once_in_another_order() -> None:
    recipe = Recipe(batch=4)
    seen = [n for part in range(6) for n in numbers(12, recipe, part)]
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(12))
    assert seen[:12] != seen[12:]
    assert numbers(3, recipe, 0) != numbers(3, Recipe(batch=4, seed=1), 0) or len(numbers(3, recipe, 0)) == 4


def test_heat_and_rate() -> None:
    recipe = Recipe(steps=100, warmup=10)
    heats = [recipe.heat(s) for s in range(100)]
    assert heats[0].temperature == heats[0].perturbation == 1.0
    assert all(h.temperature == pytest.approx(0.2) for h in heats[80:])
    assert heats[99].perturbation == pytest.approx(0.307)
    assert Recipe(perturb=False).heat(0).perturbation == 0
    assert recipe.factor(0) < recipe.factor(9) > recipe.factor(60) > recipe.factor(99) > 0


def test_budgets_are_drawn_evenly_and_alike_on_every_process() -> None:
    recipe = Recipe(spread=(0.05, 0.4), seed=3)
    drawn = [recipe.drawn(s) for s in range(400)]
    assert drawn == [Recipe(spread=(0.05, 0.4), seed=3).drawn(s) for s in range(400)]
    assert all(0.05 <= d <= 0.4 for d in drawn)
    assert sum(d < recipe.middle() for d in drawn) == pytest.approx(200, abs=40)
    assert recipe.middle() == pytest.approx(0.1414, abs=1e-3) and Recipe().drawn(0) is None
    assert Recipe.published().drawn(7) == pytest.approx(0.01)


def test_a_dial_of_many_budgets(tmp_path: Path) -> None:
    from learned import folder

    selector = PointerSelector.from_pretrained(folder(12))
    views = [TokenView(hidden_BND=torch.randn(20, 50, 12, generator=torch.Generator().manual_seed(i))) for i in (0, 1)]
    seen = walks(selector, views, 4.0)
    with pytest.raises(PlanError, match="trained for one budget"):
        selector.at(0.1)
    ready = dialled(selector, seen, (0.1, 0.4, 0.2))
    for budget in (0.1, 0.2, 0.4):
        assert mean_kept(ready, seen, ready.at(budget).config.stop_bias) == pytest.approx(budget, rel=0.05)
    between = mean_kept(ready, seen, ready.at(0.15).config.stop_bias)
    assert 0.1 < between < 0.2
    assert ready.at(0.01).config.stop_bias == ready.at(0.1).config.stop_bias
    ready.save_pretrained(tmp_path)
    plan = METHODS["sts"](0.5, path=str(tmp_path), budget=0.2)
    assert plan.cuts[0].select.config.stop_bias == ready.at(0.2).config.stop_bias
    with pytest.raises(PlanError, match="give one of them"):
        METHODS["sts"](0.5, path=str(tmp_path), budget=0.2, stop_bias=1.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("rate", 0.0), ("gate", "fog"), ("batch", -1), ("spread", (0.2, 0.1)), ("length", "none"),
     ("rate", math.inf), ("spread", (0.1, math.inf)), ("spread", (0.1, 5.0))],
)  # fmt: skip
def test_recipes_that_cannot_be(field: str, value: Any) -> None:
    with pytest.raises(FoveateError, match=field):
        Recipe(**{field: value})


@pytest.mark.parametrize("name", ["gemma3", "paligemma"])
def test_models_that_mask_before_the_language_model_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build(name)
    inputs = prompts.single(name, model)
    inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    monkeypatch.setattr(examples, "prepare_examples", lambda *_: Prompt(dict(inputs), TAIL))
    picture: Any = object()
    engine = Engine(model, _Processor(), Facts("", name, DEPTH))
    with pytest.raises(FoveateError, match=f"cannot be trained for {name}"):
        Examples(engine, [Example("0", (picture,), "?", ("5 6",))]).look([0])


def test_what_has_no_answer_cannot_be_trained_on() -> None:
    engine = Engine(shared("llava"), None, Facts("", "llava", DEPTH))
    for example in (Example("7", (), "?", ("a",)), Example("7", (Path("a.png"),), "?")):
        with pytest.raises(FoveateError, match="example 7 has no"):
            Examples(engine, [example])
