"""What must be known about one Hugging Face `model_type`: where its parts are, and how tower outputs become tokens.

A tower speaks in *rows*: what goes into the projector, all images of a call in one list of R rows. The LLM receives
*tokens*. A family's `pack` is the one bridge between them; every signal of the tower crosses it, so that none can be
out of step with the tokens it describes.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from foveate.errors import ModelError, SignalError
from foveate.plan import Positions
from foveate.selection import Block, Grid

Kind = Literal["image", "video"]
Call = Mapping[str, Any]
"""The arguments of one get_image_features or get_video_features call."""


@dataclass(frozen=True)
class Unit:
    """One image or video of a call: how many tokens it becomes, and where they lie."""

    kind: Kind
    tokens: int
    grid: Grid


@dataclass(frozen=True)
class TowerSignals:
    """What the tower gives for each row: [R] or [R, C]. Only what was asked for."""

    cls_attn: Tensor | None = None
    encoder: Tensor | None = None
    keys: Tensor | None = None
    cls_cos: Tensor | None = None


class Family:
    """The common part: models built as base.vision tower + base.projector + base.language_model."""

    model_type: ClassVar[str]
    video: ClassVar[bool] = False
    positions: ClassVar[Positions] = "original"
    """The default position policy: kept tokens keep their place, which is what grounding needs."""
    signals: ClassVar[Mapping[str, str]]
    """TokenView field -> how this family defines it, one line each."""
    note: ClassVar[str] = ""
    joins_units: ClassVar[bool] = False
    """Adjacent units of a prompt are one image (InternVL's tiles)."""
    mrope: ClassVar[bool] = False
    """Positions have three axes (time, row, column)."""
    tail: ClassVar[int] = 5
    """Prompt tokens after the question in the usual chat templates, such as "ASSISTANT:"."""

    # -- where the parts are

    def base(self, model: nn.Module) -> Any:
        """The module that joins tower and language model."""
        return getattr(model, "model", model)

    def language_model(self, model: nn.Module) -> Any:
        """The decoder."""
        return self.base(model).language_model

    def layers(self, model: nn.Module) -> nn.ModuleList:
        """The decoder layers."""
        return self.language_model(model).layers

    def depth(self, model: nn.Module) -> int:
        """How many decoder layers there are."""
        return len(self.layers(model))

    def projector(self, base: Any) -> nn.Module:
        """The module whose input is the tower's rows."""
        return base.multi_modal_projector

    def token_id(self, config: Any, kind: Kind) -> int | None:
        """The placeholder in `input_ids`, or None where the model takes no such thing."""
        return getattr(config, f"{kind}_token_id", None)

    # -- from rows to tokens

    def rows(self, base: Any, kind: Kind, call: Call) -> int:
        """How many rows this call will put through the projector, from the shapes of its inputs alone."""
        raise NotImplementedError

    def pack(self, base: Any, kind: Kind, call: Call, rows_RC: Tensor, newline: float = 0.0) -> list[Tensor]:
        """Bring one value per row to one value per token, image by image, as the model brings its features.

        Args:
            base: the base module.
            kind: what the call encodes.
            call: its arguments.
            rows_RC: one row of any width for each projector row.
            newline: what tokens that come from no row receive.

        Returns:
            One tensor [N, C] an image.
        """
        raise NotImplementedError

    def exact(self, base: Any, kind: Kind, call: Call) -> bool:
        """Whether `pack` only moves rows; False where it resamples them."""
        return True

    def units(self, base: Any, kind: Kind, call: Call) -> list[Unit]:
        """Counts and grids of the images of a call, known before anything is encoded."""
        r = self.rows(base, kind, call)
        # On the CPU: this is bookkeeping, and must not wait for a device.
        index = torch.arange(r, dtype=torch.float64).unsqueeze(1)
        return [
            Unit(kind, len(t), self.grid(base, kind, call, t.squeeze(1)))
            for t in self.pack(base, kind, call, index, -1.0)
        ]

    def grid(self, base: Any, kind: Kind, call: Call, source_N: Tensor) -> Grid:
        """Where the tokens of one image lie; `source_N` is the row of each token, negative where there is none."""
        side = round(len(source_N) ** 0.5)
        return (Block(0, side, side),)

    # -- what the tower gives

    def tap(self, base: Any, reads: frozenset[str], call: Call) -> "Tap":
        """A recorder of the feature layer of one call, for these TokenView fields."""
        raise NotImplementedError

    def check_tower(self, base: Any) -> None:
        """Refuse towers whose rows this family cannot place.

        Raises:
            ModelError: another kind of tower, or settings that do not make one token a patch.
        """

    def has_cls(self, base: Any) -> bool:
        """Whether the tower has a [CLS] token."""
        raise NotImplementedError


class Tap:
    """Records one layer of the tower while it runs, and afterwards says what each row got.

    A tap hooks projections, never the attention kernel: SDPA and FlashAttention stay as they are, and a tower that
    calls its attention once an image still projects once a layer.
    """

    def __init__(self, reads: frozenset[str]) -> None:
        self.reads = reads
        self.seen: dict[str, Any] = {}
        # One tower may run in several threads at once, and hooks are the module's, not the thread's.
        self.thread = threading.get_ident()

    def hooks(self) -> Sequence[Any]:
        """Register on the tower; returns the removable handles."""
        raise NotImplementedError

    def signals(self) -> TowerSignals:
        """What was seen, row by row; forgets it."""
        raise NotImplementedError

    def keep_output(self, name: str) -> Any:
        """A forward hook that stores a module's output."""

        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if threading.get_ident() == self.thread:
                self.seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    def take(self, name: str) -> Any:
        """What a hook stored, once."""
        if name not in self.seen:
            raise SignalError(f"the vision tower ran without showing its {name}; call the model as a whole")
        return self.seen.pop(name)


def feature_layer(index: int | Sequence[int], depth: int) -> int:
    """The encoder layer whose output is `hidden_states[index]` (the last one, where several are joined)."""
    last = index if isinstance(index, int) else index[-1]
    layer = last - 1 if last > 0 else depth + last
    if not 0 <= layer < depth or last == 0:
        raise ModelError(f"vision_feature_layer is {index!r}, which is no output of the tower's {depth} layers")
    return layer
