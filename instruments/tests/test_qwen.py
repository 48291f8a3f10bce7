"""The second instrument: its tower and its shared prompts are transformers' Qwen2.5-VL, only faster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLProcessor

from foveate.engines.hf import load
from foveate.engines.prompting import prepare_batch
from foveate.errors import FoveateError
from foveate.hf.attach import attach
from foveate.methods import METHODS
from foveate.tiny import world
from foveate.tiny.asking import Asker
from foveate.tiny.branches import answer_states, pack, right_answers
from foveate.tiny.inputs import to_pixels
from foveate.tiny.vocabulary import GRID, WORDS
from instruments import qwen
from instruments.llava.labels import IGNORE, NONE_KIND, NONE_LETTER, blocks, label
from instruments.llava.stage import Stage
from instruments.qwen.anatomy import FRAME, MERGE, VOCABULARY, build_qwen
from instruments.qwen.evaluate import FOLDER, instrument
from instruments.qwen.export import export
from instruments.qwen.processing import build_processor
from instruments.qwen.recipe import RECIPE
from instruments.qwen.tower import _rotations, _weigh, start_local, tower_states
from instruments.qwen.train import IMAGES_ORIGIN, WINDOWS_ORIGIN, _look, _micro, new_qwen, parameters, see

SCENES = [world.scene("val", i) for i in (1, 2)]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    fresh = build_qwen().eval()
    start_local(fresh.model.visual)
    return fresh


def test_the_processor_gives_the_pixels_and_ids_it_was_trained_on(model: Any) -> None:
    processor = build_processor()
    assert processor.tokenizer.convert_tokens_to_ids(list(VOCABULARY)) == list(range(len(VOCABULARY)))
    assert VOCABULARY[: len(WORDS)] == WORDS
    text = qwen.PROMPT.format(question="what color is the star?")
    inputs = processor(text=[text], images=[SCENES[0].image], return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, GRID, GRID]]
    ids = inputs["input_ids"][0].tolist()
    head = len(FRAME.head)
    assert tuple(ids[:head]) == FRAME.head and ids[head + FRAME.tokens] == FRAME.tail[0]
    assert set(ids[head : head + FRAME.tokens]) == {model.config.image_token_id}


def test_the_quick_tower_is_transformers_tower(model: Any) -> None:
    inputs = build_processor().image_processor([s.image for s in SCENES], return_tensors="pt")
    with torch.no_grad():
        slow = model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
        quick = see(model, SCENES)
    torch.testing.assert_close(quick.flatten(0, 1), slow.pooler_output, rtol=1e-4, atol=1e-5)


def test_a_window_alone_is_a_window_of_the_whole(model: Any) -> None:
    """The first block sees windows only, so training on one window trains what the whole picture uses."""
    pixels = to_pixels(np.array(SCENES[0].image)[None])
    with torch.no_grad():
        whole = tower_states(model.model.visual, pixels)[1].view(GRID, GRID, -1)
        alone = tower_states(model.model.visual, pixels[..., 64:128, 128:])[1].view(8, 8, -1)
    torch.testing.assert_close(whole[8:16, 16:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "ways"), [(0, ((-1, 0), (1, 0), (0, -1), (0, 1))), (3, ((-1, -1), (-1, 1), (1, -1), (1, 1)))]
)
def test_each_head_begins_by_looking_at_one_neighbour(layer: int, ways: tuple[tuple[int, int], ...]) -> None:
    """In a picture of one colour nothing but positions can tell patches apart."""
    torch.manual_seed(0)
    visual = build_qwen().model.visual
    start_local(visual)
    with torch.no_grad():
        weights, _ = _weigh(visual.blocks[layer].attn, torch.zeros(1, GRID * GRID, 192), _rotations(GRID, GRID, 48))
    for head, (down, right) in enumerate(ways):
        there = weights[0, head, 10 * GRID + 10, (10 + down) * GRID + 10 + right]
        assert float(there) > 0.9


def test_a_shared_prompt_says_what_the_whole_model_says(model: Any) -> None:
    processor, asked = build_processor(), [list(s.questions[:2]) for s in SCENES]
    branches = pack(asked, FRAME)
    with torch.no_grad():
        kept = torch.arange(FRAME.tokens).expand(len(SCENES), -1)
        states, _ = answer_states(model, see(model, SCENES), kept, branches, frame=FRAME)
        said = branches.targets >= 0
        owner = (torch.arange(2)[:, None].expand_as(branches.branch)[said] * 10 + branches.branch[said]).tolist()
        first = [owner.index(10 * i + number) for i in range(2) for number in (1, 2)]
        inputs = processor(
            text=[qwen.PROMPT.format(question=q.text) for each in asked for q in each],
            images=[s.image for s in SCENES for _ in range(2)],
            padding=True,
            return_tensors="pt",
        )
        whole = model(**inputs).logits[:, -1]
    torch.testing.assert_close(model.lm_head(states[first]), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("index", range(4))
def test_labels_of_blocks_are_those_of_their_fullest_patch(index: int) -> None:
    fine = label(world.scene("val", index))
    coarse = blocks(fine, MERGE)
    most = fine.cover.max(0)
    for y in range(GRID // MERGE):
        for x in range(GRID // MERGE):
            part = np.s_[y * MERGE : (y + 1) * MERGE, x * MERGE : (x + 1) * MERGE]
            best = np.unravel_index(most[part].argmax(), (MERGE, MERGE))
            assert coarse.kind[y, x] == fine.kind[part][best] and coarse.owner[y, x] == fine.owner[part][best]
            for place in range(3):
                shown = {int(v) for v in fine.letters[part][..., place].ravel()}
                letters = shown - {IGNORE, NONE_LETTER}
                if letters:
                    assert int(coarse.letters[y, x, place]) in letters
                elif shown == {NONE_LETTER}:
                    assert coarse.letters[y, x, place] == NONE_LETTER
    assert (coarse.kind < NONE_KIND).any()


@pytest.mark.parametrize(("stage", "origin"), [(RECIPE.windows, WINDOWS_ORIGIN), (RECIPE.images, IMAGES_ORIGIN)])
def test_a_stage_of_the_tower_reaches_every_parameter_of_it(stage: Stage, origin: int) -> None:
    model, heads, _ = new_qwen(0)
    visual = model.model.visual
    _look(visual, heads, stage, origin)(0, 0)
    without = {n for n, p in visual.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == {n for n, _ in visual.named_parameters() if n.startswith("merger.mlp")}


def test_a_lesson_reaches_what_it_trains_and_nothing_else() -> None:
    model, _, place = new_qwen(0)
    for name, parameter in model.model.visual.named_parameters():
        parameter.requires_grad_(name.startswith("merger.mlp"))
    lesson = RECIPE.lessons[2]
    figures = _micro(model, place, lesson)(0, 0)
    named = parameters(model, place, lesson)
    assert all(p.grad is not None and bool(p.grad.any()) for p in named.values())
    reached = {n for n, p in model.named_parameters() if p.grad is not None}
    assert reached == {n for n in named if not n.startswith("place.")}
    assert {"loss", "naming", "placing", "point_letters"} <= set(figures)


def test_a_checkpoint_comes_back_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    fresh = build_qwen()
    export(fresh, {"windows": [{"step": 1, "kind_right": 0.5}]}, tmp_path)
    loaded, processor = qwen.load(tmp_path, dtype=torch.bfloat16)
    for a, b in zip(fresh.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a, b)
    chat = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what color is the star?"}]}],
        add_generation_prompt=True,
    )
    assert (
        processor.tokenizer(chat)["input_ids"]
        == (processor.tokenizer(qwen.PROMPT.format(question="what color is the star?"))["input_ids"])
    )
    engine = load(str(tmp_path))
    assert isinstance(engine.processor, Qwen2_5_VLProcessor)  # the stock one, or what stands in without torchvision
    prompt = prepare_batch(engine, [([SCENES[0].image], "what color is the star?")])
    mine = processor(text=[chat], images=[SCENES[0].image], return_tensors="pt")
    assert torch.equal(prompt.inputs["input_ids"], mine["input_ids"])
    with pytest.raises(FoveateError, match="torchvision"):
        processor(text=[chat], videos=[np.zeros((2, 192, 192, 3), np.uint8)])
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(FoveateError, match="damaged"):
        qwen.load(tmp_path)
    for folder, why in ((tmp_path, "damaged"), (tmp_path / "nowhere", "lacks")):
        with pytest.raises(FoveateError, match=why):
            instrument(folder, torch.bfloat16)


def test_dropped_tokens_leave_the_others_where_they_were(model: Any) -> None:
    """The library's cut of a stock model and the instrument's own shared prompt agree on a pruned picture."""
    question, processor = SCENES[0].questions[0], build_processor()
    inputs = processor(text=[qwen.PROMPT.format(question=question.text)], images=[SCENES[0].image], return_tensors="pt")
    with torch.no_grad(), attach(model, METHODS["divprune"](keep=20)) as attached:
        whole = model(**inputs).logits[:, -1]
        assert attached.report is not None
        kept = torch.tensor([attached.report.images[0].cuts[-1].kept])
        image = see(model, SCENES[:1]).gather(1, kept[..., None].expand(-1, -1, 256))
        states, _ = answer_states(model, image, kept, pack([[question]], FRAME), frame=FRAME)
    assert kept.shape == (1, 20)
    torch.testing.assert_close(model.lm_head(states[:1]), whole, rtol=1e-4, atol=1e-4)


def test_the_trained_one_is_whole_and_reads_its_pictures() -> None:
    """Far from any interval: a wrong picture leaves chance, the needed tokens alone leave nearly everything."""
    model, view, frame = instrument(FOLDER, torch.bfloat16)
    asker = Asker(model, np.random.Generator(np.random.PCG64(0)), frame)
    seen = view([world.scene("test", i) for i in range(24)])
    share = {"full": asker.whole(seen, seen.image), "wrong": asker.whole(seen, seen.image.roll(1, 0))}
    share |= {name: asker.methods()[name](seen, 16) for name in ("random", "divprune", "oracle")}
    right = {name: float(hits.float().mean()) for name, hits in share.items()}
    assert right["full"] > 0.85 and right["oracle"] > 0.8
    assert right["wrong"] < 0.35 and right["random"] < right["divprune"]


def test_the_trained_one_generates_what_it_is_measured_by() -> None:
    """Whole answers by `generate` from the processor's inputs are right where the shared prompt says so."""
    model, processor = qwen.load(FOLDER)
    scene = world.scene("test", 3)
    kept = torch.arange(FRAME.tokens)[None]
    right = right_answers(model, see(model, [scene]), kept, [scene.questions], FRAME).tolist()
    texts = [qwen.PROMPT.format(question=q.text) for q in scene.questions]
    inputs = processor(text=texts, images=[scene.image] * len(texts), padding=True, return_tensors="pt")
    new = model.generate(**inputs, max_new_tokens=6, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    said = [t.strip() for t in processor.batch_decode(new, skip_special_tokens=True)]
    assert [a == q.answer for a, q in zip(said, scene.questions, strict=True)] == right
