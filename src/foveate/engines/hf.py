"""The Hugging Face engine: a stock model and its processor, asked with and without a plan, and timed part by part."""

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

from foveate import tiny
from foveate.attach import Attachment, attach
from foveate.errors import FoveateError, ModelError
from foveate.families import FAMILIES, family
from foveate.plan import Plan
from foveate.report import Report
from foveate.step import total

TINY = "tiny"
"""The name of the embedded checkpoint, where a folder or a hub id could stand."""


@dataclass(frozen=True)
class Facts:
    """What config.json says, before any weight is read."""

    source: str
    """Folder or hub id, as transformers takes it."""
    model_type: str
    depth: int
    """Decoder layers."""


@dataclass(frozen=True)
class Engine:
    """A loaded model and its processor."""

    model: Any
    processor: Any
    facts: Facts


@dataclass(frozen=True)
class Times:
    """Seconds of one answer, split where the language model's first call begins and ends.

    `encode` is everything before it (vision tower, projector, embedding); `select` is choosing tokens, taken out of the
    part it happened in; `prefill` is the first call; `decode` is the rest. Preparing the pictures is not in it.
    """

    encode: float
    select: float
    prefill: float
    decode: float

    @property
    def first_token(self) -> float:
        """Seconds until the first token could be sampled."""
        return self.encode + self.select + self.prefill

    @property
    def total(self) -> float:
        """Seconds of the whole answer."""
        return self.first_token + self.decode

    def to_dict(self) -> dict[str, float]:
        """Plain data for programs."""
        names = ("encode", "select", "prefill", "decode", "first_token", "total")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Answer:
    """What the model said, and what it cost."""

    text: str
    new_tokens: int
    """Tokens generated, the end token counted."""
    prompt_tokens: int
    """Tokens of the unpruned prompt, visual ones counted."""
    visual_tokens: int
    """Visual tokens of the unpruned prompt."""
    times: Times
    report: Report | None
    """What the plan did; None without a plan."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for programs."""
        return {
            "answer": self.text,
            "new_tokens": self.new_tokens,
            "prompt_tokens": self.prompt_tokens,
            "visual_tokens": self.visual_tokens,
            "seconds": self.times.to_dict(),
            "report": self.report.to_dict() if self.report else None,
        }


@dataclass(frozen=True)
class Comparison:
    """The same question with and without a plan; times are medians over `repeats` interleaved runs."""

    plain: Answer
    pruned: Answer
    repeats: int

    def ratios(self) -> dict[str, float | None]:
        """Plain over pruned seconds of each part: above 1 is a gain. None where the two cannot be compared.

        Answers of different lengths take different times to decode, whatever was pruned.
        """
        plain, pruned = self.plain.times.to_dict(), self.pruned.times.to_dict()
        same_length = self.plain.new_tokens == self.pruned.new_tokens
        names = ("encode", "prefill", "first_token", *(("decode", "total") if same_length else ()))
        ratios: dict[str, float | None] = dict.fromkeys(("encode", "prefill", "first_token", "decode", "total"))
        return ratios | {n: plain[n] / pruned[n] for n in names if pruned[n] > 0}


def look(name: str) -> Facts:
    """What a folder or hub id holds, from its config.json alone.

    Raises:
        ModelError: there is no such model, or Foveate does not support its type.
    """
    source = os.fspath(tiny.path()) if name == TINY else _source(name)
    try:
        from transformers.utils.hub import cached_file

        config_file = cached_file(source, "config.json")
        data = json.loads(Path(config_file or "").read_text())
    except (OSError, ValueError) as e:
        raise ModelError(_missing(name, e)) from None
    kind = data.get("model_type") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ModelError(
            f"{name} is of model type {kind!r}, not supported; supported are {', '.join(FAMILIES)} (foveate list)"
        )
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source)
        return Facts(source, kind, int(config.get_text_config().num_hidden_layers))
    except Exception as e:  # a config of nonsense fails wherever its class first looks at it
        raise ModelError(f"the config of {name} cannot be read: {_first_line(e)}") from e


def load(name: str = TINY, device: str = "auto", dtype: str = "auto") -> Engine:
    """Load a model and its processor.

    Args:
        name: a folder, a hub id, or "tiny" for the embedded checkpoint.
        device: "auto" is the first GPU where there is one, else the CPU.
        dtype: "auto" is float32 on a CPU and what the checkpoint says elsewhere; or "float32", "bfloat16", "float16".

    Raises:
        ModelError: no model there, a type that is not supported, or files that do not load.
        FoveateError: the device or the dtype does not exist.
    """
    place, precision = check_device(device), check_dtype(dtype)
    facts = look(name)
    from transformers import AutoModelForImageTextToText, AutoProcessor

    wanted: Any = precision or (torch.float32 if place.type == "cpu" else "auto")
    try:
        processor = AutoProcessor.from_pretrained(facts.source)
        model: Any = AutoModelForImageTextToText.from_pretrained(facts.source, dtype=wanted)
    except ImportError as e:
        raise ModelError(f"{name} needs a package that is not installed: {_first_line(e)}") from None
    except (
        Exception
    ) as e:  # a broken folder breaks in many ways: safetensors, tokenizers and transformers each have theirs
        raise ModelError(f"{name} does not load: {type(e).__name__}: {_first_line(e)}") from e
    return Engine(model.to(place).eval(), processor, facts)


def check_device(name: str) -> torch.device:
    """The device of that name, known to be there.

    Raises:
        FoveateError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(name)
    except RuntimeError:
        raise FoveateError(f"no device {name!r}; use auto, cpu, cuda, cuda:1 or mps") from None
    try:
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise FoveateError(f"no device {name!r} here ({_first_line(e)}); use cpu or auto") from None
    return place


def check_dtype(name: str) -> torch.dtype | None:
    """The dtype of that name; None for "auto".

    Raises:
        FoveateError: no floating-point type of that name.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name != "auto" and name not in known:
        raise FoveateError(f"no dtype {name!r}; use auto, {', '.join(known)}")
    return known.get(name)


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
        raise FoveateError(f"the processor of {kind} refuses this prompt or picture: {_first_line(e)}") from e
    inputs = inputs.to(engine.model.device, engine.model.dtype)
    return Prompt(dict(inputs), _tail(processor.tokenizer, text, before_tail))


def ask(
    engine: Engine,
    images: Sequence[Image.Image],
    prompt: str,
    plan: Plan | None = None,
    max_new_tokens: int = 64,
) -> Answer:
    """One answer, decoded greedily.

    Args:
        engine: from `load`.
        images: RGB pictures in the order in which the prompt meets them; may be empty.
        prompt: the question alone; template and image placeholders are added.
        plan: what to drop; None runs the model as it is.
        max_new_tokens: the longest answer, in tokens.

    Raises:
        FoveateError: the plan does not apply to this model or prompt.
    """
    return _run(engine, prepare(engine, images, prompt), plan, max_new_tokens)


def compare(
    engine: Engine,
    images: Sequence[Image.Image],
    prompt: str,
    plan: Plan,
    max_new_tokens: int = 64,
    repeats: int = 3,
) -> Comparison:
    """Ask with and without the plan, side by side.

    Both are warmed up first, then run in turns, so that a machine that slows down slows down both; the model, its
    attention kernel and its inputs are the same objects throughout. Answers and reports are those of the last turn.

    Raises:
        FoveateError: the plan does not apply, or repeats is below 1.
    """
    if repeats < 1:
        raise FoveateError(f"repeats is {repeats}; at least 1 run is needed")
    ready = prepare(engine, images, prompt)
    # The pruned run goes first: a plan that does not apply should not cost an unpruned answer.
    for way in (plan, None):
        _run(engine, ready, way, max_new_tokens)
    turns = [
        (_run(engine, ready, None, max_new_tokens), _run(engine, ready, plan, max_new_tokens)) for _ in range(repeats)
    ]
    plain, pruned = (_with_median([t[i] for t in turns]) for i in (0, 1))
    return Comparison(plain, pruned, repeats)


def _with_median(answers: Sequence[Answer]) -> Answer:
    parts = ("encode", "select", "prefill", "decode")
    return replace(answers[-1], times=Times(*(median(getattr(a.times, p) for a in answers) for p in parts)))


def _run(engine: Engine, prompt: Prompt, plan: Plan | None, max_new_tokens: int) -> Answer:
    model = engine.model
    with ExitStack() as stack:
        attachment = stack.enter_context(attach(model, plan, tail=prompt.tail)) if plan else None
        clock = stack.enter_context(_Clock(model, attachment))
        with torch.inference_mode():
            # Greedy, whatever generation_config says: sampling would compare dice. None silences its warnings.
            output = model.generate(
                **prompt.inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
            )
        clock.stop()
        report = attachment.report if attachment else None
    new = output[0, prompt.tokens :]
    text = engine.processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    times = clock.times(report.select_seconds if report else 0.0)
    return Answer(text, len(new), prompt.tokens, _visual_tokens(model, prompt), times, report)


def _visual_tokens(model: Any, prompt: Prompt) -> int:
    kinds = (family(model).token_id(model.config, kind) for kind in ("image", "video"))
    ids = [i for i in kinds if i is not None]
    return int(torch.isin(prompt.inputs["input_ids"], torch.tensor(ids, device=model.device)).sum())


class _Clock:
    """Stamps the begin and end of the language model's first call."""

    def __init__(self, model: Any, attachment: Attachment | None) -> None:
        self._module = family(model).language_model(model)
        self._attachment = attachment
        self._now = _timer(model.device)
        self._stamps: list[float] = []
        self._encoding: list[Any] = []

    def __enter__(self) -> "_Clock":
        # First of all hooks on the way in, last on the way out: what a plan does in between is its own cost.
        self._hooks = (
            self._module.register_forward_pre_hook(self._begin, prepend=True),
            self._module.register_forward_hook(self._end),
        )
        self._stamps = [self._now()]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def stop(self) -> None:
        self._stamps.append(self._now())

    def times(self, select: float) -> Times:
        """The split; `select` is all selection time, whichever part it happened in."""
        if len(self._stamps) != 4:
            raise ModelError("generate() never called the language model; this model cannot be timed part by part")
        start, begin, end, stop = self._stamps
        early = total(self._encoding)
        return Times(begin - start - early, select, end - begin - (select - early), stop - end)

    def _begin(self, *_: object) -> None:
        if len(self._stamps) == 1:
            self._stamps.append(self._now())
            # What ran so far ran inside the encoder: taps, and cuts before the projector.
            run = self._attachment._run if self._attachment else None
            self._encoding = list(run.seconds) if run else []

    def _end(self, *_: object) -> None:
        if len(self._stamps) == 2:
            self._stamps.append(self._now())


def _timer(device: torch.device) -> Callable[[], float]:
    if device.type != "cuda":
        return time.perf_counter

    def now() -> float:
        torch.cuda.synchronize(device)  # kernels run behind the Python that launched them
        return time.perf_counter()

    return now


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


def _source(name: str) -> str:
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} is no model: it has no config.json; give the folder that save_pretrained wrote")
        return os.fspath(folder)
    # A hub id is "owner/name"; anything else can only have meant a folder, and asking the hub would only cost time.
    parts = name.split("/")
    hub = len(parts) == 2 and all(parts) and not name.startswith((".", "~")) and not Path(parts[0]).exists()
    if not hub:
        raise ModelError(
            f"no model folder {name}; give a folder, a hub id (owner/name), or {TINY!r}, the embedded model"
        )
    return name


def _missing(name: str, error: Exception) -> str:
    if Path(name).is_dir():
        return f"the config.json in {name} cannot be read: {_first_line(error)}"
    return f"{name} is neither a folder here nor a model that the hub gives ({_first_line(error)})"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
