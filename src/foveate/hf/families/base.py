"""What must be known about one Hugging Face `model_type` beside its geometry: where its parts are, how it is read."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import nn

from foveate.errors import ModelError, SignalError
from foveate.geometry.base import Call, Geometry
from foveate.geometry.tower import TowerLayer, TowerSignals, tower_signals
from foveate.plan import Positions

PLAIN = frozenset({"llama", "mistral", "qwen2", "qwen3", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text"})
"""Decoders of the plain kind, see `Family.plain`."""


class Family(Geometry):
    """The common part: models built as base.vision tower + base.projector + base.language_model."""

    video: ClassVar[bool] = False
    positions: ClassVar[Positions] = "original"
    """The default position policy: kept tokens keep their place, which is what grounding needs."""
    signals: ClassVar[Mapping[str, str]]
    """TokenView field -> how this family defines it, one line each."""
    note: ClassVar[str] = ""
    by_runs: ClassVar[bool] = False
    """Images are runs of placeholders, and nothing is known of the encoder."""
    probed: bool = True
    """Whether cutting a token is like never sending it, as `probe.py` tries. Not where distances are counted off
    lengths: there never sending brings tokens closer to each other."""
    merges_between: ClassVar[bool] = False
    """Whether tokens can be merged between the tower's layers: an image is one row of it, every patch of which becomes
    a token by itself."""
    tail: ClassVar[int] = 5
    """Prompt tokens after the question in the usual chat templates, such as "ASSISTANT:"."""

    answer_type: ClassVar[int] = 0
    """What `token_type_ids` calls the tokens of an answer."""

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

    # -- what the decoder is like

    def plain(self, lm: Any) -> bool:
        """Whether its layers are known: between them nothing but DeepStack is indexed by position, so that states may
        stay short, and their attention is that of rotated q_proj and k_proj. Of other layers nothing is assumed: each
        gives its states back at full length, and its attention is listened to."""
        return lm.config.model_type in PLAIN

    def wraps(self, lm: Any) -> Sequence[tuple[nn.Module, str, Any]]:
        """(module, attribute, attachment -> original -> replacement): what a layer computes from mere lengths."""
        return ()

    # -- what the tower gives

    def tap(self, base: Any, reads: frozenset[str], call: Call, first: bool = False) -> "Tap":
        """A recorder of the feature layer of one call, or of the first one, for these TokenView fields."""
        raise NotImplementedError

    def inner(self, base: Any, call: Call) -> "Sequence[Inner]":
        """The tower's layers up to the one whose output is projected, where tokens can be merged between them."""
        raise NotImplementedError

    def joined(self, base: Any, call: Call) -> nn.Module | None:
        """The module whose output's `hidden_states` are joined token by token, where more than one of them is read."""
        return None

    def check_tower(self, base: Any) -> None:
        """Refuse towers whose rows this family cannot place.

        Raises:
            ModelError: another kind of tower, or settings that do not make one token a patch.
        """

    def only_tower(self, base: Any, known: str) -> None:
        """Refuse every tower but one.

        Raises:
            ModelError: another kind.
        """
        if (kind := base.config.vision_config.model_type) != known:
            raise ModelError(f"the vision tower is {kind!r}; {self.model_type} is supported with {known!r}")


class Inner(NamedTuple):
    """A tower's layer that adds an attention to its states, and then an MLP of what its norm makes of them."""

    layer: nn.Module
    keys: nn.Module
    """Projects keys, heads joined."""
    heads: int
    norm: nn.Module
    """Before the MLP."""
    mlp: nn.Module


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

    def shown(self) -> TowerLayer:
        """The layer that was recorded, as the signals are computed from it."""
        raise NotImplementedError

    def signals(self) -> TowerSignals:
        """What was seen, row by row; forgets it."""
        found = tower_signals(self.shown(), self.reads)
        self.seen.clear()
        return found

    def keep_output(self, name: str) -> Any:
        """A forward hook that stores a module's output."""

        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if threading.get_ident() == self.thread:
                self.seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    def keep_input(self, name: str) -> Any:
        """A forward pre-hook (with kwargs) that stores the states that a layer is given."""

        def hook(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            if threading.get_ident() == self.thread:
                self.seen[name] = args[0] if args else kwargs["hidden_states"]

        return hook

    def keep_call(self, name: str, *arguments: str) -> Any:
        """A forward pre-hook (with kwargs) that stores some of a module's named arguments, as a tuple."""

        def hook(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
            if threading.get_ident() == self.thread:
                self.seen[name] = tuple(kwargs[a] for a in arguments)

        return hook

    def look(self, name: str) -> Any:
        """What a hook stored."""
        if name not in self.seen:
            raise SignalError(f"the vision tower ran without showing its {name}; call the model as a whole")
        return self.seen[name]


def feature_layers(index: int | Sequence[int], depth: int) -> list[int]:
    """The tower's layers whose outputs are `hidden_states[index]`, one or several that are joined in this order.

    -1 stands for what the first layer is given.

    Raises:
        ModelError: there is no such output, or no layer has run for any of them.
    """
    states = [index] if isinstance(index, int) else list(index)
    layers = [i - 1 if i >= 0 else depth + i for i in states]
    if not all(-1 <= i < depth for i in layers) or max(layers, default=-1) < 0:
        raise ModelError(f"vision_feature_layer is {index!r}, which is no output of the tower's {depth} layers")
    return layers


def feature_layer(index: int | Sequence[int], depth: int) -> int:
    """The deepest of `feature_layers`: the one that signals are read from, and the last whose output is projected."""
    return max(feature_layers(index, depth))
