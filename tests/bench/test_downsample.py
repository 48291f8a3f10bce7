"""A smaller picture has about as many tokens as the others keep, in every family; the model is as it was afterwards."""

from typing import Any

import pytest
import torch

from bench_prompts import ask, noise
from bench_prompts import qwen as qwen_engine
from foveate import FoveateError
from foveate.bench import downsample
from foveate.bench.asking import size_of
from foveate.bench.downsample import image_tokens, interpolated, shrink
from foveate.bench.ways import Way
from foveate.data import Example
from foveate.engines.score import answer_prompt, prepare_examples


def cut(keep: str) -> Any:
    return size_of(Way("downsample", keep, "downsample"))


@pytest.mark.parametrize(("keep", "side"), [("0.111", 8), ("64", 8), ("0.25", 12), ("1", 1)])
def test_llava_sees_fewer_patches(engine: Any, keep: str, side: int) -> None:
    examples = ask(noise(192, 192), noise(100, 300, 1))
    prompt = prepare_examples(engine, examples)
    small = shrink(engine, examples, prompt, cut(keep))
    assert small.inputs["pixel_values"].shape == (2, 3, 8 * side, 8 * side)
    token = engine.model.config.image_token_id
    assert (small.inputs["input_ids"] == token).sum(1).tolist() == [side * side] * 2
    # Nothing but image tokens went.
    words = [p.inputs["input_ids"][p.inputs["attention_mask"].bool()] for p in (prompt, small)]
    assert torch.equal(*(w[w != token] for w in words))
    with interpolated(engine):
        assert len(answer_prompt(engine, small, None, 2)) == 2


def test_llava_at_its_own_size_is_the_full_model(engine: Any) -> None:
    examples = ask(noise(192, 192))
    prompt = prepare_examples(engine, examples)
    plain = answer_prompt(engine, prompt, None, 2)[0]
    with interpolated(engine):
        same = answer_prompt(engine, shrink(engine, examples, prompt, cut("1.0")), None, 2)[0]
    torch.testing.assert_close(same.first_V, plain.first_V, atol=1e-4, rtol=1e-4)


def test_the_tower_is_as_it_was(engine: Any) -> None:
    tower = engine.model.model.vision_tower
    hooks = dict(tower._forward_pre_hooks)
    with interpolated(engine):
        assert dict(tower._forward_pre_hooks) != hooks
    assert dict(tower._forward_pre_hooks) == hooks


@pytest.mark.parametrize("keep", ["0.333", "0.111", "9"])
def test_qwen_resizes_each_picture(keep: str) -> None:
    engine = qwen_engine()
    examples = ask(noise(160, 96), noise(80, 120, 1))
    prompt = prepare_examples(engine, examples)
    whole, small = image_tokens(engine, prompt), image_tokens(engine, shrink(engine, examples, prompt, cut(keep)))
    for n, m in zip(whole, small, strict=True):
        target = cut(keep).count(n)
        assert abs(m - target) <= max(1, 0.25 * target)
    assert len(answer_prompt(engine, shrink(engine, examples, prompt, cut(keep)), None, 2)) == 2


def test_qwens_floor_is_lifted_and_put_back() -> None:
    engine = qwen_engine(fewest=100)
    before = engine.processor.image_processor.size
    examples = ask(noise(96, 96))
    prompt = prepare_examples(engine, examples)
    assert image_tokens(engine, prompt)[0] > 90
    assert abs(image_tokens(engine, shrink(engine, examples, prompt, cut("16")))[0] - 16) <= 4
    assert engine.processor.image_processor.size == before


def test_where_no_size_comes_near(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = qwen_engine()
    examples = ask(noise(160, 160))
    prompt = prepare_examples(engine, examples)
    monkeypatch.setattr(downsample, "_count", lambda _e, p: 400 if p.size == (160, 160) else 170)
    with pytest.raises(FoveateError, match="no smaller image near 40 tokens: qwen2_5_vl makes 170"):
        shrink(engine, examples, prompt, cut("0.1"))


def test_prompts_without_pictures_stay_as_they_are(engine: Any) -> None:
    examples = [Example("0", (), "what is there?", ("a",))]
    prompt = prepare_examples(engine, examples)
    assert shrink(engine, examples, prompt, cut("0.5")) is prompt
