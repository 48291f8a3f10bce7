"""The taps on a tower and the cut behind it, before the projector, for the time of one encoder call.

Only the kept rows go through the projector, and zeros are left for the others, so that the features come out as long as
the model expects; the language model's pre-hook then drops those places before anything reads them.
"""

import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from foveate.choosing import Asked, choose
from foveate.errors import ModelError
from foveate.fields import TOWER, tower_fields
from foveate.geometry.base import Call, Kind
from foveate.geometry.tower import by_image
from foveate.hf.clock import Clock
from foveate.hf.encodings import Encoding
from foveate.hf.families.base import Tap
from foveate.hf.prompt import Encoded
from foveate.hf.reading import words
from foveate.ops.doubts import Doubts, later
from foveate.ops.host import upload
from foveate.ops.precise import precise


class EncoderCut:
    """Taps and, where the plan says so, the cut before the projector, for the time of one encoder call."""

    def __init__(self, attachment: Any, encoding: Encoding, kind: Kind, call: Call) -> None:
        self.cut = attachment.encoder_cut
        self.family, self.base, self.encoding = attachment.family, attachment.base, encoding
        self.kind, self.call, self.attachment = kind, call, attachment
        reads = self._reads()
        self.tap: Tap | None = self.family.tap(self.base, reads, call) if reads else None
        first = frozenset({"cls_attn_BN"}) if "first_attn_BN" in reads else None
        self.first: Tap | None = self.family.tap(self.base, first, call, first=True) if first else None
        self.rows: Tensor | None = None
        self.total = 0
        self.doubts: Doubts = attachment.doubts
        self.handles: list[Any] = []
        self.done = False
        self.thread = threading.get_ident()

    def _reads(self) -> frozenset[str]:
        """What the taps have to show."""
        asked = tower_fields(self.attachment.plan.reads)
        return asked if self.cut is None else asked | {"hidden_BND"}

    @property
    def hooked(self) -> bool:
        """Whether something is put on the tower."""
        return bool(self.handles)

    def __enter__(self) -> "EncoderCut":
        if self.tap is not None:
            self.handles += self.tap.hooks()
        if self.first is not None:
            self.handles += self.first.hooks()
        if self.cut is not None:
            projector = self.family.projector(self.base)
            self.handles.append(projector.register_forward_pre_hook(self._in))
            self.handles.append(projector.register_forward_hook(self._out))
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
        if kind is None and self.tap is not None and not self.done:
            self._collect()

    def _collect(self) -> None:
        """Bring the tower's signals to the tokens."""
        assert self.tap is not None
        device = next(v for v in self.call.values() if isinstance(v, Tensor)).device
        with torch.no_grad(), Clock(self.encoding.seconds, device), later(self.doubts):
            signals = self.tap.signals()
            if self.first is not None:
                signals = replace(signals, cls_first=self.first.signals().cls_attn)
            found = by_image(self.family, self.base, self.kind, self.call, signals)
        self.encoding.images = [Encoded(u, s) for u, s in zip(self.encoding.units, found, strict=True)]
        self.done = True

    def _in(self, projector: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Choose, and let only the chosen rows through."""
        if threading.get_ident() != self.thread:
            return args
        self._collect()
        with Clock(self.encoding.seconds, args[0].device), later(self.doubts):
            chosen, mixed = self._choose()
        if not any(e.kept is not None for e in chosen):
            return args
        self.encoding.images = chosen
        return (self._rows(args[0], chosen, mixed), *args[1:])

    def _choose(self) -> tuple[list[Encoded], dict[int, Tensor]]:
        chosen, mixed = list(self.encoding.images), dict[int, Tensor]()
        texts: list[Tensor | None] = [None] * len(chosen)
        if "text_BTD" in self.cut.select.reads:
            texts = list(words(self.attachment, self.kind, [e.unit.tokens for e in chosen]))
        for number, kept, mix in choose(self.cut, [asked(e, t) for e, t in zip(chosen, texts, strict=True)]):
            e = chosen[number]
            chosen[number] = Encoded(e.unit, e.signals, kept, mix if self.cut.sized else None)
            if mix is not None:
                mixed[number] = mix
        return chosen, mixed

    def _rows(self, x: Tensor, chosen: list[Encoded], mixed: dict[int, Tensor]) -> Tensor:
        """The projector's input for the kept tokens' rows; where tokens are mixed, of their mixtures."""
        f, base = self.family, self.base
        if not f.exact(base, self.kind, self.call):
            if mixed:
                raise ModelError(
                    f"{f.model_type} resamples its features after the projector here (a large image, or a video), so "
                    'tokens cannot be merged before it; merge at "input", or use smaller images'
                )
            return x
        total = f.rows(base, self.kind, self.call)
        self.shape, self.total = x.shape, total
        flat = x.reshape(total, -1)
        index = torch.arange(total, dtype=torch.float64).unsqueeze(1)
        rows, new = [], flat
        for i, (e, source) in enumerate(zip(chosen, f.pack(base, self.kind, self.call, index, -1.0), strict=True)):
            host = source.squeeze(1).long()
            if e.kept is None or e.kept.device.type == "cpu":
                kept = host if e.kept is None else host[e.kept]
                # A newline token has no features to give, and none to take.
                kept = kept if bool((host >= 0).all()) else kept[kept >= 0]
                given = upload(kept, x.device)
            else:
                # Where the device alone knows what is kept, newlines take a row along that nobody will look at.
                given = upload(host, x.device)[e.kept]
            rows.append(given)
            if i in mixed:
                place = upload(host, x.device)
                states = torch.where((place >= 0).unsqueeze(1), flat[place.clamp(min=0)], 0)
                with precise(flat.device):
                    states = mixed[i].to(flat.dtype).to(flat.device) @ states
                own = place[upload(e.kept, x.device)] if e.kept is not None else place
                full = torch.cat((new, new[:1]))
                new = full.index_put((torch.where(own < 0, total, own),), states)[:total]
        self.rows = torch.cat(rows)
        taken = new[self.rows.clamp(min=0)]
        return taken.reshape(1, -1, x.shape[-1]) if x.ndim == 3 else taken.reshape(-1, x.shape[-1])

    def _out(self, projector: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        """Give the projected rows their places back, zeros elsewhere."""
        if self.rows is None or threading.get_ident() != self.thread:
            return None
        full = output.new_zeros(self.total + 1, output.shape[-1])
        where = torch.where(self.rows < 0, self.total, self.rows)
        full = full.index_put((where,), output.reshape(-1, output.shape[-1]))[: self.total]
        # Kimi's projector takes the patches of a row one by one.
        alike = len(self.shape) == 3 and self.shape[0] * self.shape[1] == self.total
        return full.view(*self.shape[:-1], -1) if alike else full


def projected(signals: Mapping[str, Tensor]) -> Tensor:
    """An image's features as its projector is given them, token by token: [N, C] of one tower layer, or of several."""
    return signals.get("joined", signals["encoder"])


def asked(image: Encoded, text_TD: Tensor | None = None) -> Asked:
    """What an encoder cut may ask about an image: its features are its tokens' states. And of its prompt's question."""
    signals = image.signals
    fields: dict[str, Callable[[], Tensor]] = {
        name: functools.partial(signals.__getitem__, signal) for name, signal in TOWER.items()
    }
    fields["hidden_BND"] = lambda: projected(signals)
    if text_TD is not None:
        fields["text_BTD"] = lambda: text_TD.to(signals["encoder"].device)
    return Asked(image.unit.tokens, image.unit.tokens, fields, image.unit.grid)
