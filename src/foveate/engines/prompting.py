"""From pictures and a question to model inputs, and where the question ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from foveate.engines.loading import Engine, first_line
from foveate.errors import FoveateError


@dataclass(frozen=True)
class Prompt:
    """Model inputs on the model's device, and how many last tokens belong to the chat template."""

    inputs: dict[str, Any]
    tail: int

    @property
    def tokens(self) -> int:
        """Length of the unpruned prompt."""
        return int(self.inputs["input_ids"].shape[1])


def prepare(engine: Engine, images: Sequence[Image.Image], prompt: str) -> Prompt:
    """Inputs for one prompt about any number of images, through the chat template where the processor has one.

    Raises:
        FoveateError: the processor refuses the pictures or the prompt.
    """
    processor = engine.processor
    text, before_tail = _render(processor, len(images), prompt)
    bos = getattr(processor.tokenizer, "bos_token", None)
    # A template that writes the start token itself must not get a second one from the tokenizer.
    special = not (bos and text.startswith(bos))
    try:
        inputs = processor(text=[text], images=list(images) or None, return_tensors="pt", add_special_tokens=special)
    except Exception as e:  # each processor has its own ways of refusing, StopIteration among them
        kind = engine.facts.model_type
        raise FoveateError(f"the processor of {kind} refuses this prompt or picture: {first_line(e)}") from e
    inputs = inputs.to(engine.model.device, engine.model.dtype)
    return Prompt(dict(inputs), _tail(processor.tokenizer, text, before_tail))


def _render(processor: Any, images: int, prompt: str) -> tuple[str, str]:
    """The prompt's text, and the part of it that ends with the user's words."""
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}] * images + [{"type": "text", "text": prompt}]
        talk = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
        without = processor.apply_chat_template(talk, add_generation_prompt=False, tokenize=False)
    else:
        without = "USER: " + f"{getattr(processor, 'image_token', '<image>')}\n" * images + prompt
        text = without + " ASSISTANT:"
    # What closes the user's turn is template too. If a template rewrites the words, the generation prompt is the tail.
    end = text.rfind(prompt)
    return text, text[: end + len(prompt)] if end >= 0 else without


def _tail(tokenizer: Any, text: str, before_tail: str) -> int:
    """Tokens after the user's last word. Compared as tokens: a tokenizer may join the last letter and what follows."""
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    begin = tokenizer(before_tail, add_special_tokens=False)["input_ids"]
    same = next((i for i, (a, b) in enumerate(zip(whole, begin, strict=False)) if a != b), min(len(whole), len(begin)))
    return len(whole) - same
