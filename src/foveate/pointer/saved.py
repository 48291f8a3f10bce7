"""Learned selectors as folders: config.json and model.safetensors, the conventions of the hub; `push_to_hub` works."""

import copy
import os
from dataclasses import fields, replace
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from safetensors.torch import load_model
from torch import nn

from foveate import typed
from foveate.errors import ModelError, PlanError, short, unknown
from foveate.files import folder, place
from foveate.files import read as file_text
from foveate.reading import NotJSON, read
from foveate.selection import Knob

WEIGHTS = "model.safetensors"
_CARD = """---
{{ card_data }}
---

A learned selector of visual tokens for Foveate. It belongs to the model it was trained for; `config.json` holds its
budget, the share of the tokens that it keeps on average.

    from foveate.pointer import PointerSelector  # or StepwiseSelector, OneShotSelector
    selector = PointerSelector.from_pretrained("this folder")
"""
_HUB = ("revision", "cache_dir", "force_download", "token", "local_files_only")
SHIPPED = Path(__file__).parent / "shipped"
"""Selectors of the embedded model, one folder each."""


class Saved(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="foveate",
    tags=["token-pruning", "vision-language"],
    model_card_template=_CARD,
):
    """A selector whose numbers live in a folder; a plan file names that folder."""

    knob: ClassVar[Knob | None] = None
    """The config field that turns the mean count after training; None where the count is fixed."""
    place: ClassVar[Literal["encoder", "input"]] = "input"
    """The cut that it was made for."""
    saved: str | None = None
    """The folder or hub id of these weights, or the name of a shipped selector; None before they were saved."""
    config: Any

    def turned(self, value: float) -> Self:
        """The same weights (shared, not copied) with the knob at `value`.

        Raises:
            PlanError: this selector has no knob.
        """
        if self.knob is None:
            raise PlanError(f"{type(self).__name__} keeps exactly what it is allowed; there is no knob to turn")
        other = copy.copy(self)
        other.configure(**{self.knob.name: float(value)})
        return other

    def at(self, budget: float) -> Self:
        """The same weights, dialled to keep this share of the tokens on average: the nearest they were dialled for.

        Raises:
            PlanError: this selector knows one budget only, or the budget is no share.
        """
        if not 0 < budget <= 1:
            raise PlanError(f"budget is {budget}; it must be a fraction in (0, 1]")
        dial = getattr(self.config, "dial", ())
        if not dial:
            raise PlanError(
                f"{self!r} was trained for one budget, {self.config.budget:.1%}; turn its stop_bias, or train one for "
                "many budgets (foveate train sts --spread LOW HIGH)"
            )
        x = min(max(log(budget), log(dial[0][0])), log(dial[-1][0]))
        low, high = next((a, b) for a, b in pairwise((*dial, dial[-1])) if x <= log(b[0]) + 1e-9)
        width = log(high[0]) - log(low[0])
        part = (x - log(low[0])) / width if width > 0 else 0.0
        return self.turned(low[1] + part * (high[1] - low[1]))

    def configure(self, **changes: Any) -> None:
        """Change fields of the config that no weight depends on."""
        self.config = self._hub_mixin_config = replace(self.config, **changes)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> str | None:  # type: ignore[override]
        """Write config.json, model.safetensors and a model card into a folder.

        Raises:
            FoveateError: it cannot be made or written to.
        """
        into = folder(save_directory, "save_pretrained")
        url = super().save_pretrained(into, **options)
        # safetensors writes for the owner alone.
        (into / WEIGHTS).chmod(0o644)
        self.saved = os.path.abspath(into)
        return url

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> Self:  # type: ignore[override]
        """Load from a folder, a hub id, or by the name of a shipped selector.

        Raises:
            ModelError: nothing is there, or it is no selector of this kind.
        """
        name = os.fspath(name)
        shipped = name in (known := names())
        here = SHIPPED / name if shipped else place(name)
        if not here.is_dir() and (name.count("/") != 1 or name.startswith((".", "~", "/"))):
            ours = ", ".join(known) or "none"
            raise ModelError(f"no selector {name}; give a folder, a hub id (owner/name), or a shipped one ({ours})")
        if here.is_dir() and not (here / "config.json").is_file():
            raise ModelError(
                f"{here} is no selector: it has no config.json; give what save_pretrained wrote, of foveate train's "
                "--out the folder selector/"
            )
        if here.is_dir():
            cls._check(here)
        try:
            loaded = super().from_pretrained(os.fspath(here) if here.is_dir() else name, **options)
        except Exception as e:  # hub, JSON, safetensors and torch each have their own
            why = short(" ".join(str(e).split()), 200) or type(e).__name__
            raise ModelError(f"{name} does not load as a {cls.__name__}: {why}") from e
        loaded.saved = name if shipped or not here.is_dir() else os.path.abspath(here)
        return loaded.eval()

    @classmethod
    def _from_pretrained(  # type: ignore[override]
        cls, *, model_id: str, strict: bool = True, map_location: str = "cpu", config: Any = None, **hub: Any
    ) -> Self:
        """As the mixin does it, but strict, or other weights would load as a selector of random ones; and silent."""
        file = os.path.join(model_id, WEIGHTS)
        if not os.path.isdir(model_id):
            options = {k: v for k, v in hub.items() if k in _HUB}
            file = hf_hub_download(model_id, WEIGHTS, **options)
        made = cls(config)
        load_model(made, file, strict=strict, device=map_location)
        if spoilt := [n for n, t in made.state_dict().items() if not torch.isfinite(t).all()]:
            raise ModelError(f"its weights {spoilt[0]} hold NaN or infinity; train it anew, or copy it again")
        return made

    @classmethod
    def _check(cls, folder: Path) -> None:
        """Refuse a config that is no object of this kind's fields: the hub's own reader passes over what it likes.

        Raises:
            ModelError: it is so, or it is another kind of selector's.
        """
        try:
            data = read(file_text(folder / "config.json", "the selector"))
        except NotJSON as e:
            raise ModelError(f"{folder} is no selector: its config.json is no JSON ({e})") from None
        found = data.keys() if isinstance(data, dict) else {""}
        # All fields are always written; who has fewer is an older one, unless they are another kind's.
        others = [k.__name__ for k in _kinds(Saved) if k is not cls and found == _fields(k) != _fields(cls)]
        if not others and found <= _fields(cls):
            return
        hint = f"it is a {others[0]}" if others else "its config.json has other settings"
        raise ModelError(f"{folder} is no {cls.__name__}: {hint}; give the folder of one that foveate train wrote")

    def to_plan(self) -> dict[str, Any]:
        """What a plan file holds: where the weights are, and where the knob stands.

        Raises:
            PlanError: they are nowhere yet.
        """
        if self.saved is None:
            raise PlanError(
                f"this {type(self).__name__} was never saved, so no plan file could name it; call "
                "save_pretrained(folder) first"
            )
        return {"saved": self.saved} | ({self.knob.name: getattr(self.config, self.knob.name)} if self.knob else {})

    @classmethod
    def from_plan(cls, saved: str, **dial: float) -> Self:
        """The selector that `to_plan` described."""
        takes: dict[str, Any] = {"saved": str} | ({cls.knob.name: float} if cls.knob else {})
        typed.check({"saved": saved, **dial}, takes, PlanError)
        if strange := sorted(dial.keys() - takes.keys()):
            raise PlanError(unknown(f"setting of {cls.__name__}", strange[0], takes, see="written by Plan.to_json()"))
        loaded = cls.from_pretrained(saved)
        return loaded.turned(dial[cls.knob.name]) if cls.knob and cls.knob.name in dial else loaded

    def __eq__(self, other: object) -> bool:
        """Of one kind, from one folder, turned alike; so that a plan that was written and read is the same plan."""
        if self is other or type(self) is not type(other) or not isinstance(other, Saved):
            return self is other
        return self.saved is not None and other.saved is not None and self.to_plan() == other.to_plan()

    def __hash__(self) -> int:
        """By identity: modules are kept in sets by frameworks that must not take two for one."""
        return id(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.saved or 'not saved'})"

    def on(self, device: torch.device) -> Self:
        """This selector, moved to where the tokens are."""
        return self if next(self.parameters()).device == device else self.to(device)


def _kinds(base: type[Saved]) -> list[type[Saved]]:
    """The selectors proper: what nothing derives from."""
    return [k for below in base.__subclasses__() for k in _kinds(below) or [below]]


def _fields(kind: type[Saved]) -> set[str]:
    """The settings that a kind's config may name."""
    return {f.name for f in fields(typed.hints_of(kind.__init__)["config"])}


def names() -> list[str]:
    """The shipped selectors."""
    return sorted(f.name for f in SHIPPED.iterdir() if (f / "config.json").is_file()) if SHIPPED.is_dir() else []
