"""Every model type that transformers knows, and what of it can be cut: rows for `foveate list`, and docs/models.md."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES

from foveate.cli.catalogue import Entry
from foveate.hf.families import DECODERS, FAMILIES
from foveate.hf.families.generic import Generic
from foveate.hf.families.known import FAULTS, UNSUPPORTED
from foveate.hf.plan_checks import WHY
from foveate.hf.refusals import Refusal, refusals

HEAD = """# Model types

What Foveate makes of the {count} types of image and text that transformers {version} knows ({cut} are cut). Written by
`foveate list --models`. A checkpoint's type is `model_type` in its `config.json`; letters under *refused* are explained
at the end.

`make test-zoo` shows on a tiny random model of each that keeping all and detaching change no bit, that dropping is
masking (never sending, where layers go through tokens one by one), that a batch is its prompts, and that the text
attention methods read is the model's own. Real checkpoints, FlashAttention and half precision were tried for *tested
most* alone; videos for the types that are marked.

Attaching tries a type *without a family of its own* on nine tokens and three passes (10 to 40 ms of CPU on the tiny
models, once a model; `probe=False` leaves it out), and refuses a model where cutting is neither hiding nor never
sending. Methods that read the question read no marks: those that a config names, and what a `tokenizer` given to
`attach` calls special.

"""
TAIL = """
## Writing a family

A type without a family gets more by one of 15 to 40 lines: copy `idefics3.py` in `src/foveate/geometry/` (how many
tokens an image becomes, where, of which rows of the tower) and in `src/foveate/hf/families/` (where the projector is,
which layer is read), and add both to their `__init__.py`. `pytest tests/alltypes/test_rich.py -k TYPE` holds it to the
tower's own numbers. A type new in transformers turns `make test-zoo` red: describe it in `tests/alltypes/shrunk.json`
and `prompts.py`. What the probe refuses needs `Family.wraps` (copy `llama4.py`); what cannot be cut, a line in
`known.py`.
"""
TESTED = frozenset({"internvl", "llava", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "qwen3_vl"})
"""Types that the whole of the tests run on."""
FILMED = TESTED - {"llava", "llava_next"} | {"gemma4", "kimi_k25", "llava_next_video", "video_llava"}
"""Types that videos were tried on."""
SHORT = {
    "cls_attn_BN": "cls_attn",
    "cls_cos_BN": "cls_cos",
    "encoder_BNC": "encoder",
    "keys_BNC": "keys",
    "grid": "grid",
}


@dataclass(frozen=True)
class Model:
    """One model type."""

    family: str
    signals: list[str]
    cuts: list[str]
    video: bool
    """Whether videos were tried."""
    refused: list[Refusal]
    """What of that is refused, and why: of its default config, under sdpa."""
    methods: int
    """How many of the methods run on it."""
    note: str


def models(methods: Sequence[Entry]) -> dict[str, Model]:
    """What there is to say of every type of this transformers, and of every family."""
    return {name: model(name, methods) for name in sorted({*NAMES, *FAMILIES})}


def model(name: str, methods: Sequence[Entry]) -> Model:
    """What there is to say of one type."""
    if name in UNSUPPORTED:
        return Model("no", [], [], False, [], 0, UNSUPPORTED[name])
    own = FAMILIES.get(name)
    family = own or DECODERS.get(name) or Generic(name)
    refused = refusals(family, CONFIG_MAPPING[name]())
    unknown = {x for r in refused if r.cut == "any" for x in r.reads}
    signals = sorted(set(family.signals) - unknown)
    cuts = [at for at in ("encoder", "input", "layers") if not any(r.cut == at and not r.asks for r in refused)]
    given = {*signals, "text_BN"}
    runs = sum(set(e.reads) <= given and not ("encoder" in e.cuts and "encoder" not in cuts) for e in methods)
    faults = [f"stock {what}: {how}" for what, how in FAULTS.get(name, {}).items()]
    kind = "own, tested most" if name in TESTED else "own" if own else "taught" if name in DECODERS else "generic"
    note = "; ".join(filter(None, (own.note if own else "", *faults)))
    return Model(kind, signals, cuts, name in FILMED, refused, runs, note)


def kinds_of_refusal(types: Mapping[str, Model]) -> dict[Refusal, list[str]]:
    """Each thing that is refused once, and the types that do; what most do comes first."""
    found: dict[Refusal, list[str]] = {}
    for name, m in types.items():
        for one in m.refused:
            found.setdefault(one, []).append(name)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0].cut, item[0].asks)))


def said(one: Refusal) -> str:
    """A refusal in words."""
    at = {"any": "any cut", "encoder": "a cut at the encoder", "input": "a cut at the input"}
    asks = "tower signals or grids" if "grid" in one.reads else one.asks
    return f"{at.get(one.cut, f'a cut at {one.cut}')}{f' with {asks}' if asks else ''}: {WHY[one.rule]}"


def page() -> str:
    """docs/models.md: own families one by one, the others by what is refused of them."""
    rows = models(())
    letters = dict(zip(kinds_of_refusal(rows), "abcdefghijklmnopqrstuvwxyz", strict=False))
    refused = {name: " ".join(sorted(letters[one] for one in m.refused)) for name, m in rows.items()}
    cut = sum(m.family != "no" for m in rows.values())
    lines = [
        "## Families of their own",
        "",
        "Counts, grids, tower signals and encoder cuts are known: cuts at the encoder, the input and layers.",
        "",
        "| type | tower signals | refused | notes |",
        "|---|---|---|---|",
    ]
    for name, m in rows.items():
        if m.family.startswith("own"):
            tower = ", ".join(short for field, short in SHORT.items() if field in m.signals)
            marks = ", ".join(filter(None, ["tested most" * (name in TESTED), "videos" * m.video]))
            lines.append(f"| {name} | {tower} | {refused[name]} | {'. '.join(filter(None, [marks, m.note]))} |")
    lines += ["", "## The others", "", "An image is a run of placeholder tokens, cut at the input and at layers.", ""]
    lines += ["| types | refused |", "|---|---|"]
    others = [name for name, m in rows.items() if m.family in ("generic", "taught")]
    lines += [f"| {', '.join(names)} | {what} |" for what, names in alike(others, refused).items()]
    taught = [name for name in others if rows[name].family == "taught"]
    lines += ["", f"A layer was taught where its tokens stand: {', '.join(taught)}. Faults of the stock model:", ""]
    lines += [f"- {name}: {rows[name].note}" for name in others if rows[name].note]
    lines += ["", "## Not cut", ""]
    no = [name for name, m in rows.items() if m.family == "no"]
    lines += [f"- {', '.join(names)}: {why}" for why, names in alike(no, {n: rows[n].note for n in no}).items()]
    lines += [
        "",
        "## Refused",
        "",
        "At attach, of a type's default config under sdpa (`foveate list --json` has it as data):",
        "",
        *(f"- **{letter}** {said(one)}" for one, letter in letters.items()),
    ]
    return HEAD.format(count=len(rows), version=transformers.__version__, cut=cut) + "\n".join(lines) + "\n" + TAIL


def alike(names: Sequence[str], by: Mapping[str, str]) -> dict[str, list[str]]:
    """What is said of them -> of which; the longest list comes first."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(by[name], []).append(name)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))
