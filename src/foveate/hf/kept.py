"""What a layer of a cache holds after a cut: which positions, and what is known of all layers together."""

import weakref
from typing import Any

import torch
from torch import Tensor

from foveate.errors import ModelError


class Told:
    """What holds for all layers of a cache that was cut; shared by them.

    Attributes:
        uniform: every layer lost the same.
        free: no filler, no padding, no shift: whoever goes on from here needs to know nothing but the length.
        open: both, so that a model alone goes on rightly.
        biased: attention is biased towards some entry of some layer.
    """

    def __init__(self, uniform: bool = False, free: bool = False, biased: bool = False) -> None:
        self.uniform, self.free, self.open, self.biased = uniform, free, uniform and free, biased
        self._leader: Any = None
        self._whole = False

    def __getstate__(self) -> dict[str, Any]:
        """Without the pass that is running."""
        return self.__dict__ | {"_leader": None}

    def lead(self, by: object, whole: bool) -> None:
        """Say that a pass knows of the cut, for as long as `by` lives; `whole`: it wants masks of all positions."""
        self._leader, self._whole = weakref.ref(by), whole

    @property
    def led(self) -> bool:
        """Whether the pass that is running knows of the cut."""
        return self._leader is not None and self._leader() is not None

    @property
    def picked(self) -> bool:
        """Whether masks are made of all positions, and each layer's columns picked out of them."""
        return not self.uniform or (self.led and self._whole)


class Kept:
    """Which logical positions the first cached entries of a layer stand for. Shared by layers that saw the same tokens.

    Attributes:
        index_BP: logical position of each entry, -1 for filler that evens out the rows of a batch.
        covers: how many logical positions are told about; everything later stands for itself.
        shift_B: how far positions of later tokens move down ("contiguous"), or None.
        by_text: the choice was made by the prompt's text, so the prompt cannot be shortened afterwards.
        guesses: how many of the last positions had no say in it, and can be taken back.
        filled: there may be filler.
        dropped: logical positions without an entry of their own.
        told: what holds for the whole cache.
        mask_BT: where layers are uniform and rows padded, the padding mask of what is held.
        bias_BP: what is added to the attention logits of each entry, or None.
    """

    def __init__(
        self,
        index_BP: Tensor,
        covers: int,
        shift_B: Tensor | None,
        by_text: bool,
        guesses: int = 0,
        filled: bool | None = None,
        bias_BP: Tensor | None = None,
    ) -> None:
        self.bias_BP = bias_BP
        self.index_BP, self.covers, self.shift_B = index_BP, covers, shift_B
        self.by_text, self.guesses = by_text, guesses
        self.filled = bool((index_BP < 0).any()) if filled is None else filled
        self.dropped = covers - index_BP.shape[1]
        self.told = Told()
        self.mask_BT: Tensor | None = None
        self._taken: tuple[Tensor, Kept] | None = None
        self._cropped: tuple[int, Kept] | None = None

    def _like(self, other: "Kept", mask_BT: Tensor | None) -> "Kept":
        self.told, self.mask_BT = other.told, mask_BT
        return self

    def squeeze(self, real_BT: Tensor) -> Tensor:
        """A padding mask over logical positions -> over entries, then whatever comes later."""
        index = self.index_BP.to(real_BT.device)
        return torch.cat((real_BT.gather(1, index.clamp(min=0)) & (index >= 0), real_BT[:, self.covers :]), 1)

    def take(self, rows: Tensor) -> "Kept":
        """The same for other batch rows. Layers share one answer, so that they go on sharing."""
        if self._taken is None or self._taken[0] is not rows:
            i = rows.to(self.index_BP.device)
            shift, bias = (None if x is None else x[i] for x in (self.shift_B, self.bias_BP))
            kept = Kept(self.index_BP[i], self.covers, shift, self.by_text, self.guesses, self.filled, bias)
            self._taken = (rows, kept._like(self, None if self.mask_BT is None else self.mask_BT[i]))
        return self._taken[1]

    def crop(self, n: int) -> "Kept":
        """The same without the last n positions, as assisted decoding takes back what it guessed.

        Raises:
            ModelError: some of them were dropped, or the choice was made by them.
        """
        if self._cropped is None or self._cropped[0] != n:
            want = torch.arange(self.covers - n, self.covers, device=self.index_BP.device)
            told = self.by_text and n > self.guesses
            if told or n > self.index_BP.shape[1] or bool((self.index_BP[:, -n:] != want).any()):
                raise ModelError(
                    f"cropping {n} tokens would reach into a pruned prompt; crop generated tokens only, or start a new "
                    "cache"
                )
            left = max(0, self.guesses - n)
            bias = None if self.bias_BP is None else self.bias_BP[:, :-n]
            kept = Kept(self.index_BP[:, :-n], self.covers - n, self.shift_B, self.by_text, left, self.filled, bias)
            self._cropped = (n, kept._like(self, None if self.mask_BT is None else self.mask_BT[:, :-n]))
        return self._cropped[1]


def extend(
    old: Kept | None,
    past: int,
    index_BM: Tensor,
    new: int,
    shift_B: Tensor | None = None,
    by_text: bool = False,
    guesses: int = 0,
    filled: bool | None = None,
    bias_BM: Tensor | None = None,
) -> Kept:
    """What a layer holds after a cut: what it held, then the kept ones of `new` more positions.

    Args:
        old: what was cut before.
        past: logical length before.
        index_BM: kept places among the new positions, -1 for filler.
        new: how many positions the forward pass was given.
        shift_B: see `Kept`.
        by_text: see `Kept`.
        guesses: see `Kept`.
        filled: whether there is filler among the new positions; None: look.
        bias_BM: see `Kept`, of the new entries.
    """
    b, device = index_BM.shape[0], index_BM.device
    if old is None and not past:
        return Kept(index_BM, new, shift_B, by_text, guesses, filled, bias_BM)
    before = [] if old is None else [old.index_BP.to(device)]
    told = 0 if old is None else old.covers
    before.append(torch.arange(told, past, device=device).expand(b, -1))
    index_BP = torch.cat((*before, torch.where(index_BM >= 0, index_BM + past, -1)), 1)
    if filled is not None and old is not None:
        filled |= old.filled
    bias_BP = None
    if bias_BM is not None or (old is not None and old.bias_BP is not None):
        # Nothing is added to what stands for itself.
        bias_BP = torch.zeros(index_BP.shape, device=device)
        if old is not None and old.bias_BP is not None:
            bias_BP[:, : old.bias_BP.shape[1]] = old.bias_BP.to(device)
        if bias_BM is not None:
            bias_BP[:, index_BP.shape[1] - bias_BM.shape[1] :] = bias_BM
    return Kept(index_BP, past + new, shift_B, by_text, guesses, filled, bias_BP)
