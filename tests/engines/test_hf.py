"""The Hugging Face engine: what it asks, what it measures, and what it refuses before it reads a weight."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from foveate import FoveateError, ModelError, PlanError, images, samples, tiny
from foveate.engines import hf
from foveate.engines.stopwatch import Stopwatch
from foveate.hf.report import Held, Report
from foveate.methods import METHODS

SAMPLE = samples.load()[0]


@pytest.fixture(scope="module")
def engine() -> hf.Engine:
    return hf.load()


@pytest.fixture(scope="module")
def picture() -> Any:
    return images.load(SAMPLE.image)


def test_keep_all_answers_as_the_plain_model(engine: hf.Engine, picture: Any) -> None:
    plain = hf.ask(engine, [picture], SAMPLE.question, max_new_tokens=4)
    pruned = hf.ask(engine, [picture], SAMPLE.question, METHODS["divprune"](keep=1.0), max_new_tokens=4)
    assert plain.text == pruned.text == SAMPLE.answer
    assert plain.report is None
    assert pruned.report is not None
    assert pruned.report.budget == pruned.visual_tokens == plain.visual_tokens == 576
    words = engine.processor.tokenizer(tiny.PROMPT.format(question=SAMPLE.question))["input_ids"]
    assert plain.prompt_tokens == pruned.prompt_tokens == len(words) - 1 + 576


def test_the_plan_is_gone_after_an_answer(engine: hf.Engine, picture: Any) -> None:
    # Once before, since transformers leaves hooks of its own at the first run.
    hf.ask(engine, [picture], SAMPLE.question, None, max_new_tokens=1)
    hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in engine.model.modules())
    hf.ask(engine, [picture], SAMPLE.question, METHODS["divprune"](keep=8), max_new_tokens=1)
    too_many = METHODS["divprune"](keep=577).with_counts(exact=True)
    with pytest.raises(PlanError):
        hf.ask(engine, [picture], SAMPLE.question, too_many, max_new_tokens=1)
    assert hooks == sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in engine.model.modules())


@pytest.mark.parametrize("method", [None, "fastervlm", "fastv", "tops"])
def test_the_split_adds_up(engine: hf.Engine, picture: Any, method: str | None) -> None:
    options = {"depth": engine.facts.depth} if method == "tops" else {}
    plan = METHODS[method](keep=0.25, **options) if method else None
    ready = hf.prepare(engine, [picture], SAMPLE.question)
    begin = time.perf_counter()
    answer = hf._run(engine, ready, plan, 4)
    wall = time.perf_counter() - begin
    t = answer.times
    assert min(t.encode, t.prefill, t.decode) > 0
    assert (t.select > 0) == (plan is not None)
    assert t.first_token + t.decode == pytest.approx(t.total)
    assert 0 < t.total <= wall


def test_selection_is_taken_out_of_the_part_it_happened_in(engine: hf.Engine) -> None:
    clock = Stopwatch(engine.model)
    clock._stamps = [0.0, 10.0, 30.0, 70.0]
    times = clock.times(Report((), Held(0, 0), Held(0, 0), None, None, torch.zeros(0), (lambda: 3.0,), (lambda: 5.0,)))
    assert (times.encode, times.select, times.prefill, times.decode) == (7.0, 8.0, 15.0, 40.0)


def test_side_by_side(engine: hf.Engine, picture: Any) -> None:
    result = hf.compare(engine, [picture], SAMPLE.question, METHODS["divprune"](keep=64), 4, repeats=2)
    assert result.plain.report is None
    assert result.pruned.report is not None
    assert result.pruned.report.budget == 64
    assert set(result.ratios()) == {"encode", "prefill", "first_token", "decode", "total"}
    assert json.loads(json.dumps(result.pruned.to_dict()))["report"]["budget"] == 64
    with pytest.raises(FoveateError, match="repeats is 0"):
        hf.compare(engine, [picture], SAMPLE.question, METHODS["divprune"](keep=64), repeats=0)


def test_answers_of_different_lengths_are_not_compared_in_time() -> None:
    times = hf.Times(1.0, 0.0, 2.0, 3.0)
    one, two = (hf.Answer("a", n, 9, 4, times, None) for n in (2, 3))
    assert hf.Comparison(one, two, 1).ratios()["decode"] is None
    assert hf.Comparison(one, one, 1).ratios()["decode"] == 1.0


def test_any_number_of_pictures(engine: hf.Engine, picture: Any) -> None:
    plan = METHODS["divprune"](keep=9)
    two = hf.ask(engine, [picture, picture], SAMPLE.question, plan, 2)
    assert two.report is not None
    assert (two.visual_tokens, [i.per_layer[-1] for i in two.report.images]) == (1152, [9, 9])
    none = hf.ask(engine, [], SAMPLE.question, plan, 2)
    assert none.visual_tokens == 0


def test_the_tail_is_what_follows_the_question(engine: hf.Engine, picture: Any) -> None:
    ready = hf.prepare(engine, [picture], SAMPLE.question)
    last = engine.processor.tokenizer.convert_ids_to_tokens(ready.inputs["input_ids"][0, -ready.tail :])
    assert last == ["assistant", ":"]
    # "there" stands in the question twice: the last one ends it.
    assert hf.prepare(engine, [picture], "there is there").tail == 2


def test_a_processor_without_a_template(engine: hf.Engine, picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with_template = hf.prepare(engine, [picture], SAMPLE.question)
    monkeypatch.setattr(engine.processor, "chat_template", None)
    without = hf.prepare(engine, [picture], SAMPLE.question)
    assert torch.equal(with_template.inputs["input_ids"], without.inputs["input_ids"])
    assert without.tail == 2


def test_a_prompt_that_the_processor_refuses(engine: hf.Engine, picture: Any) -> None:
    with pytest.raises(FoveateError, match="refuses this prompt"):
        hf.ask(engine, [picture], "what is <image> here?", max_new_tokens=1)


def test_decoding_is_greedy_whatever_the_checkpoint_says(
    engine: hf.Engine, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.model.generation_config, "do_sample", True)
    monkeypatch.setattr(engine.model.generation_config, "temperature", 50.0)
    assert hf.ask(engine, [picture], SAMPLE.question, max_new_tokens=4).text == SAMPLE.answer


def test_facts_come_from_the_config_alone() -> None:
    facts = hf.look("tiny")
    assert (facts.model_type, facts.depth) == ("llava", 10)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no config.json"),
        ("{", "cannot be read"),
        ("[]", "does not know"),
        ('{"model_type": "bert"}', "'bert', which this transformers does not know as a model of images and text"),
        ('{"architectures": []}', "does not know"),
        ('{"model_type": "llava", "text_config": {"model_type": "nonsense"}}', "cannot be read"),
    ],
)
def test_folders_that_hold_no_model(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=says):
        hf.load(str(tmp_path))


def test_a_folder_without_weights(tmp_path: Path) -> None:
    for file in tiny.path().iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="does not load"):
        hf.load(str(tmp_path))


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "/a/b", "a/b/c", "~nobody/x"])
def test_what_can_only_have_been_a_folder(name: str) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        hf.look(name)


@pytest.mark.parametrize(("device", "dtype"), [("abacus", "auto"), ("cuda:99", "auto"), ("cpu", "float7")])
def test_devices_and_dtypes_that_are_not_there(device: str, dtype: str) -> None:
    with pytest.raises(FoveateError, match="no d"):
        hf.load("tiny", device, dtype)
