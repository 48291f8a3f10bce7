"""Tokens merged between the layers of a vision tower, for the time of one encoder call (ToMe, arXiv 2210.09461).

A layer adds an attention to its states x, and then mlp(norm(x)). Tokens merge in between, into means weighted by size.
Nothing of the layer is replaced: its norm is given the merged tokens, what its MLP answers is handed to every member of
each group, and the layer's output, which is x plus that, is merged. A mean of x plus the same is the merged x plus it.
So MLPs work on merged tokens, and all that comes later does. The projector gets what is left, and its answers are put
at the places that the merged tokens have in their images, zeros elsewhere, as behind any cut at the encoder. Where
states of several layers are joined for it, those of earlier ones are merged into the groups that came of them.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from foveate.choosing import count
from foveate.errors import ModelError
from foveate.geometry.base import Call, Kind
from foveate.hf.clock import Clock
from foveate.hf.encoder_cut import EncoderCut
from foveate.hf.encodings import Encoding
from foveate.hf.families.base import Inner
from foveate.hf.prompt import Encoded
from foveate.ops.doubts import later
from foveate.ops.merging import averaged
from foveate.selection import Between


class Merging:
    """What became of the tokens of each image, layer by layer.

    Shape letters: B images, P patches, S tokens before a layer's merging and M after it, [CLS] counted.

    Args:
        between: what merges.
        layers: the tower's.
        left: how many patches each of them leaves.
        patches: of an image.
        cls: whether [CLS] stands before them.
        joined: the tower, where states of several layers are joined.
        watched: what choosing on a device goes on under.
    """

    def __init__(
        self,
        between: Between,
        layers: Sequence[Inner],
        left: Sequence[int],
        patches: int,
        cls: bool,
        joined: nn.Module | None,
        watched: Callable[[torch.device], AbstractContextManager[Any]],
    ) -> None:
        self.between, self.layers, self.apart = between, layers, int(cls)
        self.left, self.patches, self.joined, self.watched = left, patches, joined, watched
        self.rounds: list[tuple[Tensor, Tensor, Tensor]] = []
        """Of each layer that merged: slots, sizes before, sizes after."""
        self.thread = threading.get_ident()
        self.size_BS: Tensor | None = None
        """How many patches each token stands for."""
        self.place_BS: Tensor
        """Where each token stood before the first layer."""
        self.home_BP: Tensor
        """Which token each patch is in."""
        self.slot_BS: Tensor | None = None
        """Inside a layer that merges, behind its attention: which of the M each of the S goes into."""
        self.keys_BSC: Tensor

    def hooks(self) -> list[Any]:
        """Register on the tower; returns the removable handles."""
        out: list[Any] = []
        before = self.patches
        for (layer, keys, heads, norm, mlp), after in zip(self.layers, self.left, strict=True):
            if before < self.patches and self.between.proportional:
                out.append(layer.register_forward_pre_hook(self._attend, with_kwargs=True))
            if r := before - after:
                out.append(keys.register_forward_hook(partial(self._look, heads)))
                out.append(norm.register_forward_pre_hook(partial(self._merge_before, r)))
                out.append(mlp.register_forward_hook(self._spread))
                # First of all, so that whoever records states records merged ones.
                out.append(layer.register_forward_hook(self._merge_after, prepend=True))
            before = after
        if self.joined is not None:
            out.append(self.joined.register_forward_hook(self._even))
        return out

    @property
    def mine(self) -> bool:
        """Hooks are the module's, not the thread's."""
        return threading.get_ident() == self.thread

    def _attend(self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """log(size) on the logits of each key."""
        if not self.mine or self.size_BS is None:
            return None
        x = args[0] if args else kwargs["hidden_states"]
        kwargs = kwargs | {"attention_mask": self.size_BS.log().to(x.dtype)[:, None, None]}
        return args[:1], kwargs

    def _look(self, heads: int, _keys: nn.Module, _args: Any, output: Tensor) -> None:
        if self.mine:
            self.keys_BSC = output.detach().unflatten(-1, (heads, -1)).float().mean(2)

    def _merge_before(self, r: int, _norm: nn.Module, args: tuple[Tensor, ...]) -> Any:
        if not self.mine:
            return None
        x_BSD = args[0]
        b, s = x_BSD.shape[:2]
        with self.watched(x_BSD.device):
            if self.size_BS is None:
                own_S = torch.arange(s, device=x_BSD.device)
                self.size_BS = torch.ones(b, s, device=x_BSD.device)
                self.place_BS, self.home_BP = own_S.expand(b, s), own_S[self.apart :].expand(b, -1)
            from_BR, to_BR, order_BM = self.between.pairs(self.keys_BSC, self.apart, r)
            slot_BS = torch.zeros(b, s, dtype=torch.long, device=x_BSD.device)
            slot_BS = slot_BS.scatter_(1, order_BM, torch.arange(s - r, device=x_BSD.device).expand(b, -1))
            self.slot_BS = slot_BS.scatter_(1, from_BR, slot_BS.gather(1, to_BR))
            total_BM = self.size_BS.new_zeros(b, s - r).scatter_add_(1, self.slot_BS, self.size_BS)
            self.place_BS = self.place_BS.gather(1, order_BM)
            self.home_BP = self.slot_BS.gather(1, self.home_BP)
            self.rounds.append((self.slot_BS, self.size_BS, total_BM))
        return (_merged(x_BSD, *self.rounds[-1]), *args[1:])

    def _spread(self, _mlp: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
        if not self.mine or self.slot_BS is None:
            return None
        return output.gather(1, self.slot_BS[:, :, None].expand(-1, -1, output.shape[2]))

    def _merge_after(self, _layer: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
        if not self.mine or self.slot_BS is None:
            return None
        out_BMD = _merged(output, *self.rounds[-1])
        self.size_BS, self.slot_BS = self.rounds[-1][2], None
        return out_BMD

    def _even(self, _tower: nn.Module, _args: Any, output: Any) -> Any:
        """States of earlier layers, as of the groups that their tokens went into."""
        if not self.mine or not self.rounds:
            return None

        def even(x_BSD: Tensor | None) -> Tensor | None:
            for slot_BS, *sizes in self.rounds:
                if x_BSD is not None and x_BSD.shape[1] == slot_BS.shape[1]:
                    x_BSD = _merged(x_BSD, slot_BS, *sizes)
            return x_BSD

        output["hidden_states"] = tuple(even(x) for x in output["hidden_states"])
        return output


def _merged(x_BSD: Tensor, slot_BS: Tensor, size_BS: Tensor, total_BM: Tensor) -> Tensor:
    """Means of the tokens that go into each of M slots, weighted by size."""
    weighed_BSD = x_BSD.to(torch.promote_types(x_BSD.dtype, torch.float32)) * size_BS[:, :, None]
    slot_BSD = slot_BS[:, :, None].expand_as(weighed_BSD)
    sum_BMD = weighed_BSD.new_zeros(*total_BM.shape, x_BSD.shape[2]).scatter_add(1, slot_BSD, weighed_BSD)
    return (sum_BMD / total_BM[:, :, None]).to(x_BSD.dtype)


class BetweenCut(EncoderCut):
    """An encoder cut whose tokens merge while the tower runs; what comes out of the tower is what stays."""

    def __init__(self, attachment: Any, encoding: Encoding, kind: Kind, call: Call) -> None:
        super().__init__(attachment, encoding, kind, call)
        base, cut, n = self.base, self.cut, self.family.patches(self.base)
        self.merging: Merging | None = None
        k = count(cut, n, n) if encoding.units else None
        if k is not None:
            layers = self.family.inner(base, call)
            if any(i.layer.training and getattr(i.layer, "gradient_checkpointing", False) for i in layers):
                raise ModelError(
                    "gradient checkpointing runs the tower's layers twice, and merging between them cannot follow; "
                    "call gradient_checkpointing_disable() on the tower, or merge behind it"
                )
            left = cut.between.left(n, k, len(layers))
            cls, joined = self.family.has_cls(base), self.family.joined(base, call)
            self.merging = Merging(cut.between, layers, left, n, cls, joined, self._watched)

    def _watched(self, device: torch.device) -> ExitStack:
        """What choosing goes on under."""
        around = ExitStack()
        for each in (torch.no_grad(), Clock(self.encoding.seconds, device), later(self.doubts)):
            around.enter_context(each)
        return around

    def _reads(self) -> frozenset[str]:
        """No tap: the tower's rows are fewer than the tokens."""
        return frozenset()

    def __enter__(self) -> "BetweenCut":
        if self.merging is not None:
            super().__enter__()
            self.handles += self.merging.hooks()
        return self

    def _in(self, projector: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Note which patches' places these rows have."""
        m, x = self.merging, args[0]
        if m is None or not m.mine:
            return args
        images, n = self.encoding.images, m.patches
        if m.size_BS is None or x.shape[:2] != (len(images), m.left[-1]):
            raise ModelError("the vision tower ran without merging its tokens; call the model as a whole")
        place_BK = m.place_BS[:, m.apart :] - m.apart
        self.shape, self.total = torch.Size((len(images), n, x.shape[2])), len(images) * n
        self.rows = (place_BK + n * torch.arange(len(images), device=x.device)[:, None]).flatten()
        keep_BN = torch.zeros(len(images), n, dtype=torch.bool, device=x.device).scatter_(1, place_BK, True)
        kept_BK = place_BK.sort(1).values
        mixes: Any = [None] * len(images)
        if self.cut.sized:
            mixes = averaged(keep_BN, m.place_BS.gather(1, m.home_BP) - m.apart, most=kept_BK.shape[1])
        found = zip(images, kept_BK, mixes, strict=True)
        self.encoding.images = [Encoded(e.unit, e.signals, kept, mix) for e, kept, mix in found]
        return args
