"""The ways that the catalogue's table compares: every method at three keeps, its variants, and the baselines.

`keep` means what a method says it means: for cuts before the LLM the share that stays, inside it a mean over the layers
or the share behind the cut; the table's budget says what it came to. Options that are not defaults were chosen on
validation scenes: the exponents of `sms` by `tops_sms.py`, `sts` by `sts_many.py`.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from foveate import Plan, tiny
from foveate.methods import METHODS
from foveate.methods.sized import sized
from foveate.methods.switches import merged, restored
from foveate.tiny.processing import build_tokenizer

KEEPS = {"11.1%": 1 / 9, "22.2%": 2 / 9, "5.6%": 1 / 18}
"""The one that tells most apart comes first, for a run that is stopped."""
ALL, SMALLER = "all tokens", "downsample"
LEFT_OUT = {"vidcom2": "for videos", "evs": "for videos"}
KNEES = {"22.2%": 36.0487, "11.1%": 0.591392, "5.6%": 0.105112}
"""SMS's exponent for a mean budget, calibrated on 150 validation scenes (results/tops_sms.json)."""
DISTANCES = {"22.2%": 0.0235807, "11.1%": 0.0548829, "5.6%": 0.125}
"""Where `divprune` stops for a mean budget, by `foveate.search.calibrate` on 150 validation scenes."""
RANKED = {"22.2%": 0.74, "11.1%": 0.97, "5.6%": 1.0}
"""The share that `sparsevlm` drops by rank for a mean budget; 5.6 % is out of reach, the first layer being whole."""
IN_CLIP = ("cdpruner", "trim", "anchorprune", "eadp", "sfpruner")
Make = Callable[[str], Plan]


def plain() -> dict[str, Make]:
    """Every method for pictures."""
    known = {name: _default(name) for name in METHODS if name not in LEFT_OUT}
    # Its counts differ between pictures around a mean, which wants room above it.
    known["sts"] = lambda b: METHODS["sts"](min(1.0, 2.5 * KEEPS[b]), budget=KEEPS[b])
    return known


def variants(model: Any) -> dict[str, Make]:
    """Settings that a reader may want beside the defaults."""
    clip = _clip(model)
    known: dict[str, Make] = {
        "tops, renumbered": lambda b: METHODS["tops"](KEEPS[b], positions="contiguous"),
        "tops, stage I": lambda b: METHODS["tops"](KEEPS[b], stages=1),
        "sms, stage I, calibrated": lambda b: METHODS["sms"](0.9, c=KNEES[b], stages=1),
        "prumerge+, fixed count": lambda b: METHODS["prumerge"](KEEPS[b], plus=True, count="fixed"),
        "divprune, merged": lambda b: merged(METHODS["divprune"](KEEPS[b])),
        "divprune, restored": lambda b: restored(METHODS["divprune"](KEEPS[b])),
        "divprune, merged and sized": lambda b: sized(merged(METHODS["divprune"](KEEPS[b]))),
        "divprune, restored and sized": lambda b: sized(restored(METHODS["divprune"](KEEPS[b]))),
        "divprune, RESTORE": lambda b: sized(restored(METHODS["divprune"](KEEPS[b])), distance=True),
        "fastervlm, merged and sized": lambda b: sized(merged(METHODS["fastervlm"](KEEPS[b]))),
        "gots, merged and sized": lambda b: sized(merged(METHODS["gots"](KEEPS[b]))),
        "resprune, merged and sized": lambda b: sized(merged(METHODS["resprune"](KEEPS[b]))),
        "divprune, to one distance": lambda b: METHODS["divprune"](min(1.0, 2.5 * KEEPS[b]), distance=DISTANCES[b]),
        "tome, in the tower": lambda b: METHODS["tome"](KEEPS[b], at="tower"),
        "tome, in the tower, sized": lambda b: sized(METHODS["tome"](KEEPS[b], at="tower")),
        "sparsevlm, by rank": lambda b: METHODS["sparsevlm"](0.99, count="rank", lam=RANKED[b]),
        "fastervlm, merged": lambda b: merged(METHODS["fastervlm"](KEEPS[b])),
    }
    return known | {f"{n}, CLIP's text": _default(n, text_tower=clip) for n in IN_CLIP}


def _default(name: str, **options: Any) -> Make:
    return lambda b: METHODS[name](KEEPS[b], **options)


def _clip(model: Any) -> str:
    """A folder with the joint checkpoint whose vision tower the model reads, as a user would name it."""
    folder = mkdtemp(prefix="joint-")
    tiny.load_joint(model).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return str(Path(folder))
