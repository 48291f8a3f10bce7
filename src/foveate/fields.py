"""The fields of a `TokenView`: where each comes from, and at which cuts it exists, whatever engine fills it."""

from foveate.cut import Cut
from foveate.errors import SignalError
from foveate.selection import OF_TEXT

TOWER = {
    "cls_attn_BN": "cls_attn",
    "cls_cos_BN": "cls_cos",
    "first_attn_BN": "cls_first",
    "encoder_BNC": "encoder",
    "keys_BNC": "keys",
}
"""What the vision tower gives: field -> name of the signal."""
ROW_FIELDS = frozenset({"hidden_BND", "text_BTD", "text_attn_BN", "text_BN"})
"""What text tokens have too: all that a cut over the whole prompt may read."""
ENCODER_FIELDS = frozenset(TOWER) | {"hidden_BND", "grid", "text_BTD"}
"""The question too: its ids are known before anything is encoded, where a model or a server is given both at once."""
LAYER_FIELDS = frozenset(
    {"prior_attn_BN", "text_rows_BRN", "input_BND", "key_norm_BN", "text_hidden_BTD", "text_norm_BT"}
)
"""What exists inside the LLM only, beside `text_attn_BN`."""
FIELDS = ENCODER_FIELDS | ROW_FIELDS | LAYER_FIELDS | {"relevance_BN"}
ASKED = OF_TEXT | {"text_attn_BN", "text_BN", "relevance_BN"}
"""What depends on the question: a selector that reads none of it keeps the same of an image, whatever is asked."""


def tower_fields(reads: frozenset[str]) -> frozenset[str]:
    """What the vision tower has to show for a selector: relevance is computed from its features."""
    return (reads | ({"encoder_BNC"} if "relevance_BN" in reads else set())) & frozenset(TOWER)


def check_reads(cut: Cut) -> None:
    """Refuse a selector that reads what its cut does not have.

    Raises:
        SignalError: a field that is unknown, or that does not exist there.
    """
    who, reads = type(cut.select).__name__, frozenset(cut.select.reads)
    if strange := reads - FIELDS:
        raise SignalError(f"{who} reads {', '.join(sorted(strange))}; a TokenView gives {', '.join(sorted(FIELDS))}")
    if cut.over == "visual" and "text_BN" in reads:
        raise SignalError(f'{who} reads text_BN, which is filled for cuts with over="prompt" only')
    if cut.over == "prompt" and (visual := reads - ROW_FIELDS):
        raise SignalError(
            f"{who} reads {', '.join(sorted(visual))}, which text tokens do not have; "
            f'over="prompt" gives {", ".join(sorted(ROW_FIELDS))}'
        )
    if cut.at == "input" and (inside := reads & LAYER_FIELDS):
        raise SignalError(f"{who} reads {', '.join(sorted(inside))}, which exists inside the LLM only; cut at a layer")
    if cut.at == "encoder" and (early := reads - ENCODER_FIELDS):
        raise SignalError(
            f'{who} reads {", ".join(sorted(early))}, which the encoder does not know; cut at "input" or at a layer'
        )
