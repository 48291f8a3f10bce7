"""Makes it so: of the tokens that a segment holds, those that stay become the next.

The host says where everything goes; which tokens of an image stay is filled in on the device where it alone knows. So
nothing is waited for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foveate.errors import ModelError
from foveate.hf.prompt import Image, Prompt, anchored, squeeze_index
from foveate.hf.segment import Segment, along, gather, inverse
from foveate.hf.step import Step
from foveate.ops.host import rows_of, upload
from foveate.ops.merging import sizes
from foveate.ops.precise import precise


@dataclass
class Taken:
    """What stays of an image at a cut."""

    image: Image
    slots: Tensor
    """Where what was left of it stood in the segment, in host memory."""
    kept: Tensor
    """Which of these stay."""
    mix: Tensor | None
    sized: bool = False
    """Whether attention is to know how many tokens a mixed one stands for."""

    @property
    def far(self) -> bool:
        """Whether the device alone knows."""
        return self.kept.device.type != "cpu"


class Shortening:
    """The segments of one pass, each made of the one before."""

    def __init__(self, step: Step, prompt: Prompt) -> None:
        self.step, self.prompt = step, prompt

    def shorten(self, hidden: Tensor, taken: Sequence[Taken]) -> Tensor:
        """Start the segment of what stays, and give its states. Mixed tokens are written into the new tensor."""
        step, alive_BL = self.step, self.prompt.alive_BL
        old, was = step.segment, step.slots()
        mixed = [(t, self._places(t.image.row, t.slots)) for t in taken if t.mix is not None]
        if mixed and hidden.ndim != 3:
            raise ModelError("this model keeps several states a token, so tokens cannot be merged between layers")
        stays = [self._drop(t) for t in taken]
        host, filled = squeeze_index(alive_BL)
        now, take = inverse(host, step.l), gather(was, host.clamp(min=0))
        take_BM = self._told(take, [(t, now[t.image.row, at]) for t, at in zip(taken, stays, strict=True) if t.far])
        index_BM = take_BM if old.index_BM is None else gather(old.index_BM, take_BM)
        if filled:
            index_BM = index_BM.masked_fill(upload(host < 0, index_BM.device), -1)
        step.segment = Segment(index_BM, new=True, filled=filled, host_BM=host)
        out = along(hidden, take_BM, step.b, step.width(hidden))
        places = {id(t): at for t, at in zip(taken, stays, strict=True)}
        for t, before in mixed:
            assert t.mix is not None
            row, slots = t.image.row, now[t.image.row, places[id(t)]]
            with precise(hidden.device):
                states = t.mix.to(hidden.dtype) @ rows_of(hidden, row, t.slots)
            out[row, upload(slots, out.device)] = states
            after = self._places(row, slots)
            step.mixes.append((row, before, after, t.mix))
            if t.sized:
                self.size(row, after, sizes(t.mix.to(after.device), self.sizes_BL()[row, before]))
        if step.sizes_BL is not None:
            bias_BM = gather(step.sizes_BL.log(), step.segment.safe_BM)
            step.segment.bias_BM = bias_BM.masked_fill(index_BM < 0, 0) if filled else bias_BM
        return out

    def sizes_BL(self) -> Tensor:
        """How many tokens each place stands for."""
        sizes_BL = self.step.sizes_BL
        return torch.ones(self.step.b, self.step.l, device=self.step.embeds.device) if sizes_BL is None else sizes_BL

    def size(self, row: int, places: Tensor, sizes_K: Tensor) -> None:
        """Note how many tokens some places stand for. Earlier segments keep what they were told."""
        self.step.sizes_BL = self.sizes_BL().index_put((torch.full_like(places, row), places), sizes_K)

    def _drop(self, taken: Taken) -> Tensor:
        """Note what of an image stays: its places, the prompt's last token apart."""
        image, alive_BL = taken.image, self.prompt.alive_BL
        alive_BL[image.row, image.place_N[image.alive]] = False
        # Where the device alone knows which, the first of them stand for those that stay.
        image.alive = image.alive[: len(taken.kept)] if taken.far else image.alive[taken.kept]
        image.known &= not taken.far
        stays = image.place_N[image.alive]
        image.alive = anchored(image)
        alive_BL[image.row, image.place_N[image.alive]] = True
        return stays

    def _told(self, take_BM: Tensor, far: list[tuple[Taken, Tensor]]) -> Tensor:
        """Which slots of the old segment the new one takes, on the device: the host's, and what it alone knows."""
        device = self.step.embeds.device
        if not far:
            return upload(take_BM, device)
        for t, slots in far:
            take_BM[t.image.row, slots] = t.slots[0]
        b, m = take_BM.shape
        told = upload(torch.cat([take_BM.flatten(), *(t.image.row * m + slots for t, slots in far)]), device)
        kept = [t.kept.to(device) for t, _ in far]
        taken = told[: b * m].index_add_(0, told[b * m :], kept[0] if len(kept) == 1 else torch.cat(kept))
        return taken.view(b, m)

    def _places(self, row: int, slots: Tensor) -> Tensor:
        """Places of the prompt in some slots of the segment, as the device knows them."""
        index = self.step.segment.index_BM
        return upload(slots, self.step.embeds.device) if index is None else rows_of(index, row, slots)

    def left(self, image: Image) -> Callable[[], Tensor]:
        """Which of an image's tokens are left, once somebody asks."""
        if image.known:
            alive = image.alive
            return lambda: alive
        first, places = image.first, self._places(image.row, self.step.slots()[image.row, image.place_N[image.alive]])
        return lambda: places - first

    def note(self, image: Image, at: Any, asked: int) -> None:
        """Write down what a cut left of an image."""
        image.cuts.append((at, asked, len(image.alive), self.left(image)))


def chosen(image: Image) -> Tensor:
    """What an encoder cut kept of an image, on the device."""
    device = next(kept.device for _, kept in image.chosen if kept.device.type != "cpu")
    parts = [upload(kept, device) + start if start else upload(kept, device) for start, kept in image.chosen]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
