"""Every model type that transformers knows, and what of it can be cut: rows for `foveate list`, and docs/models.md."""

from collections.abc import Sequence
from dataclasses import dataclass

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES

from foveate.cli.catalogue import Entry
from foveate.hf.families import DECODERS, FAMILIES
from foveate.hf.families.generic import Generic
from foveate.hf.families.known import FAULTS, UNSUPPORTED

HEAD = """# Model types

What Foveate makes of each of the {count} types of image and text that transformers {version} knows ({cut} are cut).
Written by `foveate list --models`, from the families and from what `make test-zoo` shows on tiny random models of
every type: keeping all and detaching change no bit; dropping is masking, in the prefill and in three steps after it
(or, where layers go through tokens one by one, never sending); a batch is its prompts, greedy and with beams; the text
attention that methods read is the model's own. Real checkpoints, FlashAttention and half precision were tried for the
families that are marked *tested most* alone; videos for those, and for Gemma 4, LLaVA-NeXT-Video and Video-LLaVA.

- **own**: counts, grids, tower signals and encoder cuts are known.
- **generic**: an image is a run of placeholder tokens; cuts at the input and at layers, by `hidden_BND`, `text_BTD` and
  `text_attn_BN` (`foveate list` counts the methods); no tower signals, no grid, no cut at the encoder, no contiguous
  positions. At attach nine tokens are sent through the language model three times, with three of them cut, never sent,
  and hidden: if cutting is neither, the model is refused, and the layer named that is the first to differ.
  (`attach(..., probe=False)` leaves that out. On the tiny models here it takes 10 to 40 ms of CPU, once a model; on a
  real one, three very short passes.)
- **taught**: as generic; a layer was taught where its tokens stand.

Attention of decoder layers is read from projections where the decoder is known, and else by listening to the layer
itself under `sdpa` or `eager`; other kernels are refused there, and so are layers that have no attention. Layers that
share another's keys (Gemma 3n, Gemma 4) cannot be cut at. FlashAttention with sliding windows is refused.

## Writing a family

A type that works as *generic* gets more by a family of 15 to 40 lines: in `src/foveate/geometry/` how many tokens an
image of a call becomes, where they lie, and which of the tower's rows each comes from (copy `idefics3.py`); in
`src/foveate/hf/families/` where the projector is, and which layer of the tower is read (copy `idefics3.py` there).
Both go into the tables of their `__init__.py`. Then `pytest tests/alltypes/test_rich.py -k TYPE` holds it to the
tower's own numbers. A new type of transformers turns `make test-zoo` red; `tests/alltypes/shrunk.json` says what its
tiny config needs, `tests/alltypes/prompts.py` what its pictures look like. A type that the probe refuses needs
`Family.wraps` (copy `llama4.py`), one that cannot be cut a line in `src/foveate/hf/families/known.py`.

"""
TESTED = frozenset({"internvl", "llava", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "qwen3_vl"})
"""Types that the whole of the tests run on."""


@dataclass(frozen=True)
class Model:
    """One model type."""

    family: str
    signals: list[str]
    cuts: list[str]
    methods: int
    """How many of the methods run on it."""
    note: str


def models(methods: Sequence[Entry]) -> dict[str, Model]:
    """What there is to say of every type of this transformers, and of every family."""
    return {name: model(name, methods) for name in sorted({*NAMES, *FAMILIES})}


def model(name: str, methods: Sequence[Entry]) -> Model:
    """What there is to say of one type."""
    if name in UNSUPPORTED:
        return Model("no", [], [], 0, UNSUPPORTED[name])
    own = FAMILIES.get(name)
    family = own or DECODERS.get(name) or Generic(name)
    signals = sorted(k for k, v in family.signals.items() if not v.startswith("no [CLS]: refused"))
    cuts = ["encoder", "input", "layers"] if own else ["input", "layers"]
    given = {*signals, "text_BN"}
    runs = sum(set(e.reads) <= given and ("encoder" not in e.cuts or own is not None) for e in methods)
    faults = [f"stock {what}: {how}" for what, how in FAULTS.get(name, {}).items()]
    kind = "own, tested most" if name in TESTED else "own" if own else "taught" if name in DECODERS else "generic"
    return Model(kind, signals, cuts, runs, "; ".join(filter(None, (own.note if own else "", *faults))))


def page() -> str:
    """docs/models.md."""
    rows = models(())
    cut = sum(m.family != "no" for m in rows.values())
    short = {"cls_attn_BN": "cls_attn", "cls_cos_BN": "cls_cos", "encoder_BNC": "encoder", "keys_BNC": "keys"}
    lines = ["| type | family | tower signals, grid | cuts | notes |", "|---|---|---|---|---|"]
    for name, m in rows.items():
        tower = ", ".join([*(short[s] for s in m.signals if s in short), *(["grid"] if "grid" in m.signals else [])])
        lines.append(f"| {name} | {m.family} | {tower} | {', '.join(m.cuts)} | {m.note} |")
    return (
        HEAD.format(count=len(rows), version=transformers.__version__, cut=cut)
        + "## Types\n\n"
        + "\n".join(lines)
        + "\n"
    )
