"""The embedded model answers its samples, through the engine that users ask."""

from foveate import images, samples
from foveate.engines import hf


def test_answers_its_samples() -> None:
    engine = hf.load()
    asked = samples.load()
    assert len(asked) == 8
    answers = [hf.ask(engine, [images.load(s.image)], s.question, max_new_tokens=6).text for s in asked]
    assert answers == [s.answer for s in asked]


def test_the_engine_and_attach_agree_on_what_closes_a_prompt() -> None:
    engine = hf.load()
    sample = samples.load()[0]
    assert hf.prepare(engine, [images.load(sample.image)], sample.question).tail == engine.model.config.template_tail
