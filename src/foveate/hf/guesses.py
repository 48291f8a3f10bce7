"""Assisted decoding: tokens that were guessed stand behind the prompt in its first pass, and have no say in a choice.

`generate` asks a source for guesses before each pass of the model; that is where their number is known.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from foveate.errors import ModelError
from foveate.hf.checks import MARK


def watched(local: Any, original: Callable[..., Any]) -> Callable[..., Any]:
    """`_get_candidate_generator` whose sources also note, in `local.guesses`, how much they guessed.

    Raises (when called):
        ModelError: the guesses come from a model that has a plan attached as well.
    """
    signature = inspect.signature(original)

    @functools.wraps(original)
    def source(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs).arguments
        assistant = call.get("assistant_model")
        if assistant is not None and any(MARK in m.__dict__ for m in assistant.modules()):
            raise ModelError(
                "the assistant model has a plan attached too, but generate gives it prompts without their images; "
                "detach it (what it guesses is checked by this model anyway)"
            )
        if getattr(call["generation_config"], "assistant_early_exit", None) is not None:
            raise ModelError(
                "assistant_early_exit lets the model guess with its own first layers, which the plan would cut too; "
                "leave it unset, or guess by prompt_lookup_num_tokens or an assistant_model"
            )
        made = original(*args, **kwargs)
        made.get_candidates = _noted(local, made.get_candidates)
        return made

    return source


def _noted(local: Any, guess: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(guess)
    def candidates(input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        out = guess(input_ids, *args, **kwargs)
        local.guesses = out[0].shape[1] - input_ids.shape[1]
        return out

    return candidates


def guessed(local: Any) -> int:
    """How many of the last tokens of the pass that begins are guesses. Told once."""
    n, local.guesses = getattr(local, "guesses", 0), 0
    return n
