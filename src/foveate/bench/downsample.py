"""The baseline that needs no method: a smaller image, with about as many visual tokens as the others keep.

Where the tower takes one fixed square (LLaVA with CLIP or SigLIP), the processed picture is scaled to fewer patches and
the tower's position embeddings are interpolated, as its own `interpolate_pos_encoding` does. Everywhere else the
picture itself is scaled until the family's processor makes about as many tokens of it. Tilers always send a whole tile
or more: where no size comes near, that is said in the table, not skipped.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from foveate.cut import Cut
from foveate.data import Example
from foveate.engines.loading import Engine
from foveate.engines.prompting import Prompt, prepare_batch
from foveate.errors import FoveateError
from foveate.hf.families import family
from foveate.ops.pooling import pooled_shape

NEAR = 0.25
"""How far from the wanted count a smaller image may be, as a share of it."""
_TRIES = 8
FIXED = ("llava",)
_KEYS = ("pixel_values", "image_grid_thw", "image_sizes", "batch_num_images")


def shrink(engine: Engine, examples: Sequence[Example], prompt: Prompt, cut: Cut) -> Prompt:
    """The same prompts about smaller images.

    Args:
        engine: the model and its processor.
        examples: what the prompt was made of.
        prompt: the whole one.
        cut: whose count says how many tokens each image may have.

    Raises:
        FoveateError: this family's smallest image is not near.
    """
    if "pixel_values" not in prompt.inputs:
        return prompt
    if engine.facts.model_type in FIXED:
        return fewer_patches(engine, prompt, cut)
    asked = []
    for e in examples:
        smaller = [_smaller(engine, picture, cut) for picture in e.pictures()]
        asked.append((smaller, e.question))
    with _any_size(engine.processor):
        return prepare_batch(engine, asked)


def fewer_patches(engine: Engine, prompt: Prompt, cut: Cut) -> Prompt:
    """A prompt whose processed pictures have about as many patches as the cut would keep, for a tower of fixed size.

    Args:
        engine: a model of one fixed square; no processor is asked.
        prompt: the whole one.
        cut: whose count says how many tokens each image may have.
    """
    vision = engine.model.config.vision_config
    pixels, patch = prompt.inputs["pixel_values"], vision.patch_size
    side = vision.image_size // patch
    rows, columns = pooled_shape(side, side, cut.count(side * side))
    small = F.interpolate(pixels.float(), size=(rows * patch, columns * patch), mode="bicubic", antialias=True)
    ids_BL: Tensor = prompt.inputs["input_ids"]
    visual_BL = ids_BL == engine.model.config.image_token_id
    # The first tokens of every image stay: the placeholders are alike, and only their number says something.
    number_BL = (visual_BL.cumsum(1) - 1) % (side * side)
    keep_BL = ~visual_BL | (number_BL < rows * columns)
    inputs = dict(prompt.inputs) | {"pixel_values": small.to(pixels.dtype)}
    lengths = keep_BL.sum(1)
    width = int(lengths.max())
    for name in ("input_ids", "attention_mask"):
        lines = [line[keep] for line, keep in zip(inputs[name], keep_BL, strict=True)]
        # The mask says what is padding, whatever its id.
        inputs[name] = torch.stack([F.pad(x, (width - len(x), 0)) for x in lines])
    return Prompt(inputs, prompt.tail)


@contextmanager
def interpolated(engine: Engine) -> Iterator[None]:
    """Let a fixed tower take pictures of other sizes, for the time being."""
    if engine.facts.model_type not in FIXED:
        yield
        return
    tower = family(engine.model).base(engine.model).vision_tower

    def ask(_tower: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, kwargs | {"interpolate_pos_encoding": True}

    handle = tower.register_forward_pre_hook(ask, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def image_tokens(engine: Engine, prompt: Prompt) -> list[int]:
    """Visual tokens of every image of a prompt, in order."""
    f = family(engine.model)
    call = {k: prompt.inputs[k] for k in _KEYS if k in prompt.inputs}
    return [u.tokens for u in f.units(f.base(engine.model), "image", call)] if "pixel_values" in call else []


def _smaller(engine: Engine, picture: Image.Image, cut: Cut) -> Image.Image:
    """The picture at the scale whose token count is nearest to what the cut would keep of the original's."""
    whole = _count(engine, picture)
    target = cut.count(whole)
    if target >= whole:
        return picture
    low, high = 0.0, 1.0
    scale = (target / whole) ** 0.5
    best: tuple[int, Image.Image] | None = None
    for _ in range(_TRIES):
        size = tuple(max(1, round(v * scale)) for v in picture.size)
        small = picture.resize((size[0], size[1]), Image.Resampling.BICUBIC)
        n = _count(engine, small)
        if best is None or abs(n - target) < abs(best[0] - target):
            best = n, small
        if n == target:
            break
        low, high = (scale, high) if n < target else (low, scale)
        scale = (low + high) / 2
    assert best is not None
    if abs(best[0] - target) > max(1.0, NEAR * target):
        raise FoveateError(
            f"no smaller image near {target} tokens: {engine.facts.model_type} makes {best[0]} of the nearest size"
        )
    return best[1]


def _count(engine: Engine, picture: Image.Image) -> int:
    with _any_size(engine.processor):
        return sum(image_tokens(engine, prepare_batch(engine, [([picture], "?")])))


@contextmanager
def _any_size(processor: Any) -> Iterator[None]:
    """Take a processor's floor away, where it scales small pictures up to a fewest number of pixels (Qwen)."""
    images = processor.image_processor
    size = getattr(images, "size", None)
    if getattr(images, "merge_size", None) is None or size is None:
        yield
        return
    old = {name: getattr(images, name) for name in ("size", "min_pixels") if hasattr(images, name)}
    cell = (int(images.patch_size) * int(images.merge_size)) ** 2
    try:
        images.size = type(size)(**{**dict(size), "shortest_edge": cell})
        if old.get("min_pixels") is not None:
            images.min_pixels = cell
        yield
    finally:
        for name, value in old.items():
            setattr(images, name, value)
