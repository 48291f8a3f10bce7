"""A saved stepwise selector of whichever kind it is: the published one, or ours."""

from foveate.errors import ModelError
from foveate.pointer.selector import PointerSelector
from foveate.pointer.stepwise import StepwiseSelector


def load(name: str) -> PointerSelector | StepwiseSelector:
    """From a folder, a hub id, or by the name of a shipped selector.

    Raises:
        ModelError: nothing is there, or it is no stepwise selector.
    """
    try:
        return PointerSelector.from_pretrained(name)
    except ModelError as why:
        try:
            return StepwiseSelector.from_pretrained(name)
        except ModelError:
            raise why from None
