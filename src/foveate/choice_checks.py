"""What a selector may be shown, and what it may answer: signals that are numbers, masks that keep what they may.

On a GPU neither is waited for: what is wrong is heard once the numbers have come (`ops/doubts.py`).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from foveate.cut import Cut
from foveate.errors import SignalError
from foveate.ops.doubts import all_finite, deferred, insist
from foveate.selection import Selection


def check_finite(cut: Cut, fields: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse signals that hold NaN or infinity, whatever a selector would make of them.

    Raises:
        SignalError: naming the field, the image and, where this is judged at once, the first place.
    """
    real = {n: x for n, x in fields.items() if isinstance(x, Tensor) and x.is_floating_point()}
    if not any(deferred(x) for x in real.values()):
        if real and not all_finite(*real.values()):
            raise _first(cut, real, names)
        return
    for field, x in real.items():
        # In float64 no sum hides them; and what is judged later holds on to no features.
        insist(x.flatten(1).sum(1, dtype=torch.float64), partial(_later, cut, field, names))


def _first(cut: Cut, fields: Mapping[str, Tensor], names: Sequence[str]) -> SignalError:
    for field, x in fields.items():
        bad_BN = ~x.isfinite().flatten(2).all(-1) if x.ndim > 2 else ~x.isfinite()
        for name, bad_N in zip(names, bad_BN, strict=True):
            if places := bad_N.nonzero().flatten().tolist():
                return _infinite(cut, field, f"{name}, first at token {places[0]} of {len(bad_N)}")
    raise AssertionError("somebody has mended it meanwhile")


def _later(cut: Cut, field: str, names: Sequence[str], sums: Sequence[float]) -> SignalError | None:
    bad = [name for name, total in zip(names, sums, strict=True) if not isfinite(total)]
    return _infinite(cut, field, bad[0]) if bad else None


def _infinite(cut: Cut, field: str, where: str) -> SignalError:
    return SignalError(
        f"{type(cut.select).__name__} at {cut.at!r} finds NaN or infinity in {field} of {where}; check the activations "
        "for overflow (float16 ends at 65,504: bfloat16 does not)"
    )


def check(cut: Cut, answer: Selection, b: int, n: int, k: int) -> None:
    """Hold a selector to the form of its answer.

    Raises:
        SignalError: wrong type or shape; over the whole prompt, mixed tokens; on a CPU, weights that are no numbers.
    """
    who = f"{type(cut.select).__name__} at {cut.at!r}"
    if not isinstance(answer, Selection) or not isinstance(answer.keep_BN, Tensor):
        raise SignalError(f"{who} answered a {type(answer).__name__}; it must answer a Selection of tensors")
    if answer.keep_BN.shape != (b, n) or answer.keep_BN.dtype != torch.bool:
        raise SignalError(
            f"{who} answered {tuple(answer.keep_BN.shape)} {answer.keep_BN.dtype}; keep_BN must be bool of shape "
            f"{(b, n)}"
        )
    if answer.mix_BKN is None:
        return
    if cut.over == "prompt":
        raise SignalError(f'{type(cut.select).__name__} mixes tokens; over="prompt" can only keep or drop')
    if answer.mix_BKN.shape[:1] + answer.mix_BKN.shape[2:] != (b, n):
        raise SignalError(f"{who} mixes by {tuple(answer.mix_BKN.shape)}; mix_BKN must be of shape ({b}, kept, {n})")
    # Looked at where looking is free.
    if not deferred(answer.mix_BKN) and not all_finite(answer.mix_BKN):
        raise SignalError(f"{who} mixes by NaN or infinity; a weight is a number")


def check_kept(cut: Cut, keep_BN: Tensor, mixes: int | None, k: int) -> None:
    """Hold a selector to its word: how many it keeps, of how many at most it gives weights.

    Raises:
        SignalError: more than k, none, or fewer than k without being adaptive; fewer weights than tokens kept.
    """
    adaptive, n = cut.select.adaptive, keep_BN.shape[1]
    who = f"{type(cut.select).__name__} at {cut.at!r}"

    def judge(counts: Sequence[float]) -> SignalError | None:
        low, high = int(min(counts)), int(max(counts))
        if high > k or low < 1 or (low < k and not adaptive):
            some = "1 to " if adaptive else ""
            return SignalError(f"{who} kept {low} to {high} of {n} tokens; it must keep {some}{k}")
        if mixes is not None and mixes < high:
            return SignalError(f"{who} keeps {high} tokens but mixes {mixes}; each kept slot needs its weights")
        return None

    insist(keep_BN.sum(1, dtype=torch.float64), judge)
