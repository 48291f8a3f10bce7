"""The checkpoint: whole, small, loadable like any other, and refused when it is not what was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from foveate import tiny
from foveate.errors import FoveateError
from foveate.tiny.asking import Asker, instrument
from foveate.tiny.branches import TOKENS, right_answers
from foveate.tiny.look import look


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return tiny.load()


def test_it_is_small_and_the_tower_is_stored_once() -> None:
    size = sum(f.stat().st_size for f in tiny.path().glob("*.safetensors"))
    assert size <= 25 * 1024**2


def test_it_loads_like_any_checkpoint_of_the_hub(loaded: tuple[Any, Any]) -> None:
    plain = AutoModelForImageTextToText.from_pretrained(tiny.path(), dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(tiny.path())
    assert type(plain) is type(loaded[0]) and type(processor) is type(loaded[1])
    assert plain.config.text_config.num_hidden_layers >= 10
    for a, b in zip(plain.parameters(), loaded[0].parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("index", range(3))
def test_generate_from_a_plain_prompt_and_from_the_chat_template(loaded: tuple[Any, Any], index: int) -> None:
    """Both prompts are the same tokens, and `generate` says what the shared-prefix evaluation says."""
    model, processor = loaded
    scene = tiny.world.scene("val", index)
    image = look(model, tiny.load_joint(model), [scene]).image
    right = right_answers(model, image, torch.arange(TOKENS)[None], [scene.questions]).tolist()
    for question, expected in list(zip(scene.questions, right, strict=True))[:4]:
        plain = tiny.PROMPT.format(question=question.text)
        content = [{"type": "image"}, {"type": "text", "text": question.text}]
        chat = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(images=scene.image, text=plain, return_tensors="pt")
        assert torch.equal(
            inputs["input_ids"], processor(images=scene.image, text=chat, return_tensors="pt")["input_ids"]
        )
        said = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert (processor.decode(said, skip_special_tokens=True).strip() == question.answer) == expected


def test_the_text_tower_points_at_what_it_names(loaded: tuple[Any, Any]) -> None:
    model, _ = loaded
    clip = tiny.load_joint(model)
    assert clip.vision_model is model.model.vision_tower
    seen = look(model, clip, [tiny.world.scene("val", i) for i in range(8)])
    named = [i for i, q in enumerate(seen.questions) if q.kind == "position"]
    inside = torch.stack([seen.relevance[i][seen.needed[i]].mean() - seen.relevance[i].mean() for i in named])
    assert float((inside > 0).float().mean()) > 0.8


def test_a_missing_or_changed_file_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny.path(), folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(FoveateError, match=r"model\.safetensors is damaged"):
        tiny.load(folder=folder)
    weights.unlink()
    with pytest.raises(FoveateError, match=r"lacks .*model\.safetensors"):
        tiny.load(folder=folder)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(FoveateError, match=r"lacks .*SHA256SUMS"):
        tiny.load(folder=folder)


def test_the_card_says_which_world() -> None:
    results = json.loads((tiny.path() / "results.json").read_text())
    assert results["world"] == tiny.world.fingerprint()
    assert results["questions"] >= 2500
    assert f"{results['accuracy']['full']['all']['percent']:.1f}" in (tiny.path() / "README.md").read_text()


@pytest.mark.parametrize(("tier", "better"), [("textured", "fastervlm"), ("crowded", "divprune")])
def test_saliency_and_diversity_each_win_somewhere(tier: str, better: str) -> None:
    model, view, frame = instrument(None, torch.bfloat16)
    methods = Asker(model, np.random.default_rng(0), frame).methods()
    right = {"fastervlm": 0, "divprune": 0}
    for start in range(0, 96, 8):
        seen = view([tiny.world.scene("val", i, tier=tier) for i in range(start, start + 8)])
        for name in right:
            right[name] += int(methods[name](seen, 128).sum())
    (worse,) = set(right) - {better}
    assert right[better] > right[worse] + 10, right
