"""Set the stop's bias so that the mean count is the one asked for: picks do not depend on it, so one walk tells all."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from foveate.errors import FoveateError
from foveate.pointer.picking import Walk
from foveate.selection import TokenView

_HALVINGS = 40
_OFF = 0.1


def walks(selector: Any, views: Iterable[TokenView], room: float) -> list[tuple[Walk, int]]:
    """Each view's picks up to `room` budgets, and its number of tokens."""
    out = []
    for view in views:
        n = view.shape[1]
        most = min(n, max(1, int(room * selector.config.budget * n + 0.5)))
        out.append((selector.walk(view, most), n))
    return out


def mean_kept(selector: Any, seen: list[tuple[Walk, int]], stop_bias: float) -> float:
    """The share of all tokens that is kept at this bias."""
    kept = sum(int(w.standing(selector.config, stop_bias).sum()) for w, _ in seen)
    return kept / sum(n * len(w.order_BT) for w, n in seen)


def calibrated(selector: Any, seen: list[tuple[Walk, int]], budget: float) -> Any:
    """The selector with its dial where the mean share kept is nearest to `budget`.

    Raises:
        FoveateError: no bias in range meets it within a tenth: the selector stops too early or has too little room.
    """
    assert selector.knob is not None
    if selector.config.stop == "none":
        return selector
    knob = selector.knob
    low, high = knob.low, knob.high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_kept(selector, seen, middle) > budget else (low, middle)
    best = min((low, high), key=lambda bias: abs(mean_kept(selector, seen, bias) - budget))
    if abs((got := mean_kept(selector, seen, best)) / budget - 1) > _OFF:
        raise FoveateError(
            f"no {knob.name} from {knob.low} to {knob.high} keeps {budget:.1%} on average; the nearest keeps "
            f"{got:.1%}. Give it more room, or train for another budget"
        )
    return selector.turned(best)


def dialled(selector: Any, seen: list[tuple[Walk, int]], shares: Sequence[float]) -> Any:
    """The selector with a dial of these mean shares, as far as it meets them.

    Raises:
        FoveateError: it meets none.
    """
    dial, why = [], None
    for share in sorted(shares):
        try:
            dial.append((share, calibrated(selector, seen, share).config.stop_bias))
        except FoveateError as e:
            why = e
    if not dial:
        raise why or FoveateError("a dial needs at least one share")
    other = selector.turned(selector.config.stop_bias)
    other.configure(dial=tuple(dial))
    return other


@torch.no_grad()
def counts(selector: Any, seen: list[tuple[Walk, int]]) -> torch.Tensor:
    """Tokens kept of each image, at the selector's own dial."""
    return torch.cat([w.standing(selector.config, selector.config.stop_bias).sum(1) for w, _ in seen])
