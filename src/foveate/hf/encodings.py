"""What is known of the images of an encoder call, from the call that made it to the pass that uses it."""

from typing import Any

import torch
from torch import Tensor

from foveate.fields import TOWER, tower_fields
from foveate.geometry.base import Kind, Unit
from foveate.hf.clock import Seconds
from foveate.hf.prompt import Encoded
from foveate.ops.host import read

_TOWER_STATES = ("last_hidden_state", "hidden_states", "attentions")


class Encoding:
    """What is known of the images of one encoder call. Travels with the encoder's output."""

    def __init__(self, owner: Any, units: list[Unit]) -> None:
        self.owner, self.units = owner, units
        self.images = [Encoded(u) for u in units]
        self.seconds: list[Seconds] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "Encoding":
        """Outputs may be copied; what is known of them stays one object."""
        return self

    def under(self, owner: Any) -> "Encoding":
        """The same images, for another attachment; what they cost was paid before."""
        copy = Encoding(owner, self.units)
        copy.images = self.images
        return copy

    def sign(self, output: Any) -> None:
        """Remember what these features look like."""
        self.signature = sums(output)

    def made(self, output: Any) -> bool:
        """Whether these are the features signed, or copies of them, perhaps repeated for beams."""
        # NaN is like nothing, itself included: that features are broken is said where they are chosen from.
        mine, theirs = (x.nan_to_num().unique() for x in read(self.signature, sums(output)))
        return mine.shape == theirs.shape and torch.allclose(mine, theirs, rtol=1e-4)


Features = dict[Kind, tuple[Any, "Encoding"]]
"""An encoder's outputs, each with what is known of its images."""


def sums(output: Any) -> Tensor:
    """One number an image, from its features."""
    return torch.stack([x.detach().sum(dtype=torch.float64) for x in output.pooler_output])


def stored(attachment: Any, kind: Kind) -> tuple[Any, Encoding] | None:
    """What was encoded before, where it holds all that this plan reads."""
    found = (attachment.features or {}).get(kind)
    if found is None or attachment.encoder_cut is not None:
        return None
    wanted = {TOWER[name] for name in tower_fields(attachment.plan.reads)}
    return found if all(wanted <= image.signals.keys() for image in found[1].images) else None


def store(features: Features, kind: Kind, output: Any, encoding: Encoding) -> None:
    """Put an output by, with the signals of an earlier call of the same images that read others."""
    if kind in features:
        both = zip(encoding.images, features[kind][1].images, strict=True)
        encoding.images = [Encoded(new.unit, old.signals | new.signals, new.kept) for new, old in both]
    # Models read these of an output; the tower's states, which come with it, are many times as large.
    slim = type(output)(**{name: value for name, value in output.items() if name not in _TOWER_STATES})
    features[kind] = slim, encoding
