"""Find and load a Hugging Face model and its processor; a bad folder is named before its weights are read."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foveate import tiny
from foveate.errors import FoveateError, ModelError
from foveate.files import place as place_of
from foveate.question import marked
from foveate.reading import read

TINY = "tiny"
"""The name of the embedded checkpoint, where a folder or a hub id could stand."""
_PROBE = 1 << 20
"""Bytes read at either end of a weight file: enough to tell checkpoints apart, without reading gigabytes."""


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


def look(name: str) -> Facts:
    """What a folder or hub id holds, from its config.json alone.

    Raises:
        ModelError: there is no such model, or Foveate does not support its type.
    """
    source = os.fspath(tiny.path()) if name == TINY else _source(name)
    try:
        from transformers.utils.hub import cached_file

        config_file = cached_file(source, "config.json")
        data = read(Path(config_file or "").read_text())
    except (OSError, ValueError) as e:
        raise ModelError(_missing(name, e)) from None
    kind = data.get("model_type") if isinstance(data, dict) else None
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as TYPES

    if not isinstance(kind, str) or kind not in TYPES:
        raise ModelError(
            f"{name} is of model type {kind!r}, which this transformers does not know as a model of images and text"
        )

    try:
        config = AutoConfig.from_pretrained(source)
        return Facts(source, kind, int(config.get_text_config().num_hidden_layers))
    except Exception as e:  # a config of nonsense fails wherever its class first looks at it
        raise ModelError(f"the config of {name} cannot be read: {first_line(e)}") from e


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
    from transformers import AutoModelForImageTextToText

    wanted: Any = precision or (torch.float32 if place.type == "cpu" else "auto")
    try:
        processor = _processor(facts)
        model: Any = AutoModelForImageTextToText.from_pretrained(facts.source, dtype=wanted)
    except ImportError as e:
        lacks = re.search(r"requires the (\w+) library", str(e))
        way = f"pip install {lacks[1].lower()}" if lacks else first_line(e)
        raise ModelError(f"{name} needs a package that is not installed: {way}") from None
    except (
        Exception
    ) as e:  # a broken folder breaks in many ways: safetensors, tokenizers and transformers each have theirs
        raise ModelError(f"{name} does not load: {type(e).__name__}: {first_line(e)}") from e
    # Tags of tiles and of speakers, which no config tells of: whoever attaches a plan finds them with the others.
    model.config.tag_token_ids = marked((), getattr(processor, "tokenizer", None)).tolist()
    return Engine(model.to(place).eval(), processor, facts)


def _processor(facts: Facts) -> Any:
    """The checkpoint's processor; of Qwen2.5-VL's the half for pictures, where torchvision is missing."""
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(facts.source)
    except ImportError as e:
        if facts.model_type != "qwen2_5_vl" or "torchvision" not in str(e).lower():
            raise
    from foveate.engines.still import load_still

    return load_still(facts.source)


def fingerprint(folder: Path) -> str | None:
    """A digest of a model folder's config and of both ends of its weight files; None for a hub id."""
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json"), *folder.glob("*.jinja")]):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_PROBE))
            stream.seek(max(0, size - _PROBE))
            digest.update(stream.read(_PROBE))
    return digest.hexdigest()[:16]


def check_device(name: str) -> torch.device:
    """The device of that name, known to be there.

    Raises:
        FoveateError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(name)
        if place.type == "meta":  # shapes without numbers
            raise RuntimeError
    except RuntimeError:
        raise FoveateError(f"no device {name!r}; use auto, cpu, cuda, cuda:1 or mps") from None
    try:
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise FoveateError(f"no device {name!r} here ({first_line(e)}); use cpu or auto") from None
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


def _source(name: str) -> str:
    folder = place_of(name)
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
        return f"the config.json in {name} cannot be read: {first_line(error)}"
    return f"{name} is neither a folder here nor a model that the hub gives ({first_line(error)})"


def first_line(error: BaseException) -> str:
    """What an error says first, as one line without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
