"""Prompts as each processor wants them: a batch holds what its prompts hold one by one."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Gemma3Processor, GenerationConfig, PaliGemmaProcessor, PreTrainedTokenizerFast
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from foveate.engines.loading import Engine, Facts
from foveate.engines.prompting import closing, prepare_batch

MARKS = {"boi_token": "<boi>", "eoi_token": "<eoi>", "image_token": "<soft>"}


def tokens() -> Any:
    """A tokenizer of whole words."""
    words = ["<unk>", "<pad>", *MARKS.values(), "USER", ":", "ASSISTANT", "what", "is", "this", "yes", "<eos>", "<end>"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    backend.add_special_tokens([*MARKS.values(), "<eos>", "<end>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>", extra_special_tokens=MARKS
    )


def engine_of(kind: str, processor: Any) -> Engine:
    model = SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32, generation_config=GenerationConfig())
    return Engine(model, processor, Facts("", kind, 4))


def gemma3() -> Engine:
    """Gemma's processor for pictures of 8 x 8 pixels that become 4 tokens."""
    pictures = Gemma3ImageProcessorPil(size={"height": 8, "width": 8}, image_seq_length=4)
    processor: Any = Gemma3Processor(pictures, tokens(), image_seq_length=4)
    # Gemma's template writes the mark that the processor expands.
    processor.image_token = MARKS["boi_token"]
    return engine_of("gemma3", processor)


@pytest.mark.parametrize("counts", [(1,), (2,), (1, 1), (1, 2), (0, 1)])
def test_a_batch_holds_what_its_prompts_hold(counts: tuple[int, ...]) -> None:
    engine = gemma3()
    colours = iter(range(0, 250, 40))
    asked = [([Image.new("RGB", (12, 9), (next(colours), 0, 0)) for _ in range(n)], "what is this") for n in counts]
    together = prepare_batch(engine, asked).inputs
    alone = [prepare_batch(engine, [one]).inputs for one in asked]
    for row, one in enumerate(alone):
        n = one["input_ids"].shape[1]
        assert together["input_ids"][row, -n:].tolist() == one["input_ids"][0].tolist()
        assert together["attention_mask"][row].sum() == n
    pixels = torch.cat([one["pixel_values"] for one in alone if "pixel_values" in one])
    assert torch.equal(together["pixel_values"], pixels)


def test_an_answer_ends_as_the_template_ends_it() -> None:
    engine = gemma3()
    eos, end = engine.processor.tokenizer.convert_tokens_to_ids(["<eos>", "<end>"])
    for named, without, within in [(None, [], []), (end, [end], [end]), ([eos, end], [eos], [end])]:
        engine.model.generation_config.eos_token_id = named
        engine.processor.chat_template = None
        assert closing(engine) == without
        engine.processor.chat_template = "{% for m in messages %}{{ m.content[0].text }} <end> {% endfor %}"
        assert closing(engine) == within


def test_labels_that_say_nothing_stay_behind() -> None:
    """A model would make a loss of them, and fail where it gives fewer logits."""
    pictures: Any = SiglipImageProcessorPil(size={"height": 8, "width": 8})
    pictures.image_seq_length = 4
    engine = engine_of("paligemma", PaliGemmaProcessor(pictures, tokens()))
    made = prepare_batch(engine, [([Image.new("RGB", (9, 9))], "what is this")]).inputs
    assert made.keys() >= {"input_ids", "token_type_ids", "pixel_values"} and "labels" not in made
