"""Kept tokens hold their places, so a pruned prompt has the positions of an unpruned one: there must be room for them.

vLLM looks positions up in a table as long as the model was made for. Past its end lies other memory: answers are
wrong, and those of later requests too. So prompts are refused by their unpruned length. Decoding goes on from there,
and vLLM stops it by the pruned length; the table is made longer by as much, where a longer one means the same.
"""

from typing import Any

from foveate.errors import PlanError

LIMIT, ROOM = "foveate_positions", "foveate_room"
_SAME_WHEN_LONGER = ("default", "llama3", "linear", "proportional")
"""RoPE types whose frequencies do not depend on the length of the table."""


def make_room(model_config: Any) -> None:
    """Note the model's own limit, and lengthen its table beyond it. For one-axis RoPE; M-RoPE's table is ample."""
    config = model_config.hf_config
    text = config.get_text_config()
    if hasattr(config, LIMIT):
        return
    setattr(config, LIMIT, text.max_position_embeddings)
    kind = (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default")
    grows = kind in _SAME_WHEN_LONGER
    setattr(config, ROOM, grows)
    if grows:
        text.max_position_embeddings += model_config.max_model_len


def check_room(config: Any, tokens: int, beyond: int, longest: int) -> None:
    """Refuse a prompt whose positions pass the end of the table, now or while decoding.

    Args:
        config: the model's.
        tokens: of the pruned prompt.
        beyond: positions of its images that exceed their kept tokens.
        longest: vLLM's `max_model_len`.

    Raises:
        PlanError: saying by how much.
    """
    limit = getattr(config, LIMIT, None) or config.get_text_config().max_position_embeddings
    answer = 0 if getattr(config, ROOM, True) else max(0, longest - tokens)
    if beyond > 0 and tokens + beyond + answer > limit:
        room = f", and its answer up to {answer} more" if answer else ""
        raise PlanError(
            f"the prompt keeps {tokens} tokens but has {tokens + beyond} positions, as long as it is unpruned{room}; "
            f"the model has {limit}. Send fewer or smaller images; dropping more does not help"
            + (", a smaller --max-model-len does" if answer else "")
        )
