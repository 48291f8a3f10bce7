"""The model that is called, around the base model: what is asked of it, and its loss where positions are gone."""

from typing import Any

import torch

from foveate.errors import ModelError


def called(attached: Any, _model: Any, _args: Any, kwargs: dict[str, Any]) -> None:
    """Note whether the last place alone is asked for, as `generate` asks."""
    keep = kwargs.get("logits_to_keep")
    attached.local.last_only = isinstance(keep, int) and keep == 1 + getattr(attached.local, "guesses", 0)


def correct_loss(attached: Any, model: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """Take positions that no longer exist out of the loss."""
    told, attached.local.dropped = getattr(attached.local, "dropped", None), None
    labels = kwargs.get("labels")
    if labels is None or told is None:
        return None
    dropped = told()
    # The label at t is predicted from t - 1; where that was dropped there is no prediction to score.
    blind = torch.nn.functional.pad(dropped[:, :-1], (1, 0), value=False).to(labels.device)
    if not bool((blind & (labels != -100)).any()):
        return None
    if not isinstance(output, dict):
        raise ModelError("labels on dropped positions need a ModelOutput to correct the loss in; pass return_dict=True")
    extra = {k: v for k, v in kwargs.items() if k == "num_items_in_batch"}
    output["loss"] = model.loss_function(
        logits=output["logits"],
        labels=labels.masked_fill(blind, -100),
        vocab_size=model.config.get_text_config().vocab_size,
        **extra,
    )
    return output
