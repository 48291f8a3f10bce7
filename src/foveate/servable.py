"""Which plans a serving engine can carry out: one cut before the LLM, whose count is known before anything runs."""

from foveate.errors import PlanError, SignalError
from foveate.fields import ENCODER_FIELDS, check_reads
from foveate.plan import Plan


def check_servable(plan: Plan) -> None:
    """Refuse a plan that a serving engine cannot carry out, saying why.

    A server sizes its buffers and caches by the number of tokens an image takes, before any of it is encoded; from the
    first decoder layer on all sequences of a batch, chunk or pipeline stage share one layout.

    Raises:
        PlanError: no cut, more than one, one inside the LLM or over the prompt's text, or renumbered positions.
        SignalError: a selector that reads what a server does not have.
    """
    way = 'serve a plan with one cut at "input", such as divprune(keep=0.222)'
    if len(plan.cuts) != 1:
        raise PlanError(f"a served plan has one cut, not {len(plan.cuts)}; {way}")
    (cut,) = plan.cuts
    check_reads(cut)
    if not isinstance(cut.at, str):
        raise PlanError(
            f"cut at {cut.at}, inside the LLM: a server's KV cache holds the same tokens in every layer; {way}"
        )
    if cut.over != "visual":
        raise PlanError(f'over="{cut.over}" drops words of the prompt, which a server has counted already; {way}')
    if cut.weighs:
        raise PlanError(
            f"{type(cut.select).__name__} divides a total by what a prompt's images are worth beside each other, and a "
            f"server counts an image's tokens before it has seen it; {way}"
        )
    if cut.words is not None:
        raise PlanError(
            "worded(...) reads the question by its tokenizer, which is not where a server chooses; leave it out"
        )
    if cut.between is not None:
        raise PlanError(
            f"{type(cut.select).__name__} merges tokens between the layers of the tower, which a server runs as they "
            f"are; {way}"
        )
    if cut.sized:
        raise PlanError(
            "sized(...) adds the sizes of merged tokens to attention, and a server's kernels add nothing; leave it out"
        )
    if plan.positions == "contiguous":
        raise PlanError(
            'positions="contiguous" would move every token after the image; a served plan keeps the original ones: '
            'leave positions unset, or "original"'
        )
    if unknown := frozenset(cut.select.reads) - ENCODER_FIELDS:
        raise SignalError(
            f"{type(cut.select).__name__} reads {', '.join(sorted(unknown))}, which a server does not see; {way}"
        )


def servable(plan: Plan) -> str | None:
    """Why the plan cannot be served, or None where it can."""
    try:
        check_servable(plan)
    except (PlanError, SignalError) as reason:
        return str(reason)
    return None
