"""From pictures and a question to model inputs, and where the question ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from foveate.engines.loading import Engine, first_line
from foveate.errors import FoveateError


@dataclass(frozen=True)
class Prompt:
    """Model inputs of one prompt or several, on the model's device, and how many last tokens are chat template."""

    inputs: dict[str, Any]
    tail: int

    @property
    def tokens(self) -> int:
        """Length of the unpruned prompt."""
        return int(self.inputs["input_ids"].shape[1])


def prepare(engine: Engine, images: Sequence[Image.Image], prompt: str) -> Prompt:
    """Inputs for one prompt about any number of images; see `prepare_batch`."""
    return prepare_batch(engine, [(images, prompt)])


def prepare_batch(engine: Engine, asked: Sequence[tuple[Sequence[Image.Image], str]]) -> Prompt:
    """Inputs for a batch of prompts, through the chat template where the processor has one, padded on the left.

    Args:
        engine: from `load`.
        asked: pictures and question of each prompt.

    Raises:
        FoveateError: the processor refuses the pictures or a prompt.
    """
    processor = engine.processor
    rendered = [_render(processor, len(pictures), prompt) for pictures, prompt in asked]
    texts = [text for text, _ in rendered]
    # A list for each prompt: some processors (Gemma, SmolVLM, LFM2-VL) take a flat one for the pictures of the first.
    pictures = [list(pictures) for pictures, _ in asked]
    bos = getattr(processor.tokenizer, "bos_token", None)
    # A template that writes the start token itself must not get a second one from the tokenizer.
    options: dict[str, Any] = {"add_special_tokens": not (bos and texts[0].startswith(bos))}
    if len(texts) > 1:
        # The next token is appended on the right.
        options |= {"padding": True, "padding_side": "left"}
    try:
        inputs = processor(text=texts, images=pictures if any(pictures) else None, return_tensors="pt", **options)
    except Exception as e:  # each processor has its own ways of refusing, StopIteration among them
        kind = engine.facts.model_type
        raise FoveateError(f"the processor of {kind} refuses this prompt or picture: {first_line(e)}") from e
    inputs = inputs.to(engine.model.device, engine.model.dtype)
    # PaliGemma's processor gives labels, too, that say nothing.
    inputs.pop("labels", None)
    return Prompt(dict(inputs), max(_tail(processor.tokenizer, text, before) for text, before in rendered))


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


def ends(model: Any) -> set[int]:
    """The tokens that end an answer."""
    end = model.generation_config.eos_token_id
    return set() if end is None else {end} if isinstance(end, int) else set(end)


def closing(engine: Engine) -> list[int]:
    """What follows the last word of an answer: the end token that the chat template writes there; nothing without one.

    Models name several. Qwen's, Gemma's and Llama's lists also hold the end of a document, in which no chat ends.
    """
    known, tokenizer = ends(engine.model), engine.processor.tokenizer
    if len(known) > 1 and getattr(engine.processor, "chat_template", None):
        said = [{"role": role, "content": [{"type": "text", "text": "yes"}]} for role in ("user", "assistant")]
        text = engine.processor.apply_chat_template(said, tokenize=False)
        behind = tokenizer(text.rpartition("yes")[2], add_special_tokens=False)["input_ids"]
        if found := [i for i in behind if i in known]:
            return found[:1]
    own = getattr(tokenizer, "eos_token_id", None)
    return [own] if own in known else sorted(known)[:1]


def usual_tail(processor: Any) -> int:
    """How many tokens close a short question under the processor's chat template."""
    return _tail(processor.tokenizer, *_render(processor, 1, "what is this?"))


def _tail(tokenizer: Any, text: str, before_tail: str) -> int:
    """Tokens after the user's last word. Compared as tokens: a tokenizer may join the last letter and what follows."""
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    begin = tokenizer(before_tail, add_special_tokens=False)["input_ids"]
    same = next((i for i, (a, b) in enumerate(zip(whole, begin, strict=False)) if a != b), min(len(whole), len(begin)))
    return len(whole) - same
