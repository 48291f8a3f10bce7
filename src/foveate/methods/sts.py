"""Pick tokens step by step, each in view of those already picked, until a learned stop.

STS, arXiv 2606.16067. A selector has to be trained for each model (`foveate train sts`): the published one,
`foveate.pointer.stepwise`, before the projector, or ours, `foveate.pointer`, before the LLM. No code is public, so
there are no authors' indices to compare with; docs/methods/sts.md says what the papers leave open.

`keep` is what it is everywhere: the most an image may keep. The retention rates of the paper are means, and a mean of
0.111 wants room above it for crowded images: `sts(keep=0.28, budget=0.111)`.
"""

from foveate.cut import Cut, check_keep
from foveate.errors import PlanError
from foveate.plan import Plan
from foveate.pointer.loading import load
from foveate.pointer.saved import names
from foveate.typed import checked

_TINY, _TOKENS = "tiny", 576
"""What is shipped, and the tokens of the model that it is for, by which a keep that is a number is a share."""


@checked
def sts(
    keep: float | int, path: str | None = None, stop_bias: float | None = None, budget: float | None = None
) -> Plan:
    """STS: a stepwise pointer with a learned stop, before the LLM (or, as published, before the projector).

    Args:
        keep: the most tokens that an image may keep, a fraction (float) or a number (int); the stop decides below it.
        path: folder or hub id of a trained selector, or the name of a shipped one. By default the shipped one, which is
            for the embedded model alone.
        stop_bias: the dial: larger keeps fewer. By default what the selector was calibrated to.
        budget: instead, the share that is kept on average, for a selector of many budgets: the nearest on its dial. By
            default `keep`, so that crowded images are cut short.

    Raises:
        PlanError: a keep out of range, or no selector is shipped.
        ModelError: no selector at `path`.
    """
    keep = check_keep(keep)
    if stop_bias is not None and budget is not None:
        raise PlanError(f"stop_bias={stop_bias} and budget={budget} both set the mean count; give one of them")
    select = load(path or _shipped())
    share = keep if isinstance(keep, float) else keep / _TOKENS
    if stop_bias is not None:
        select = select.turned(stop_bias)
    elif budget is not None or select.config.dial:
        select = select.at(min(1.0, share) if budget is None else budget)
    return Plan((Cut(select.place, select, keep),))


def _shipped() -> str:
    if _TINY not in names():
        raise PlanError(
            "no trained selector comes with this Foveate; train one with foveate train sts, and name its folder: "
            "sts(keep, path=...)"
        )
    return _TINY
