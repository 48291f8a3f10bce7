"""What a model type refuses that others do, as data: at which cuts, of methods that read what, and why.

Nothing is written down here. What `check_plan` says of plans that ask for one thing each is written out, from a config
alone, so that nothing has to be loaded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from foveate.cut import Cut, Place
from foveate.errors import FoveateError
from foveate.fields import FIELDS
from foveate.hf.families.base import Family
from foveate.hf.plan_checks import check_plan
from foveate.plan import Plan, Positions
from foveate.selection import Attention

Said = tuple[tuple[str, ...], str, str]
"""What is read, the rule, the setting."""


@dataclass(frozen=True)
class Refusal:
    """One thing that is refused at attach."""

    cut: str
    """The encoder, the input, layers or some of these ("linear_attention layers", "layers from 15 on"); or "any"."""
    reads: tuple[str, ...]
    """TokenView fields of which a method must not read any there; none: there is no such cut for any method."""
    rule: str
    """By which rule of `plan_checks.WHY`."""
    setting: str = ""
    """The setting of a plan, a cut or a method that is refused."""

    @property
    def asks(self) -> str:
        """What is not to be asked for there, in words."""
        return ", ".join([*self.reads, *([self.setting] if self.setting else [])])


def refusals(family: Family, config: Any, lm: Any = None) -> list[Refusal]:
    """What a model of this family with this config refuses.

    Args:
        family: the type's, or the generic one.
        config: the model's.
        lm: its language model; None is one that its config describes, under sdpa.
    """
    text = config.get_text_config() if lm is None else lm.config
    names = ("model_type", "layer_types", "sliding_window", "attention_chunk_size")
    told = SimpleNamespace(_attn_implementation="sdpa", **{n: getattr(text, n, None) for n in names})
    lm = lm or SimpleNamespace(config=told, layers=range(text.num_hidden_layers))
    depth = len(lm.layers)
    first = getattr(lm, "first_kv_shared_layer_idx", depth)
    base: Any = SimpleNamespace(config=config)

    def rule(
        at: Place,
        *reads: str,
        keep: float | int = 0.5,
        like: Positions | None = None,
        rotary: bool = True,
        between: Any = None,
    ) -> str:
        method: Any = SimpleNamespace(
            reads=frozenset(reads), adaptive=False, attention=Attention("last", "own", rotary), between=between
        )
        try:
            check_plan(Plan((Cut(at, method, keep),), like), family, base, lm)
        except FoveateError as refused:
            return refused.rule
        return ""

    def of(at: Place) -> Iterator[Said]:
        if whole := rule(at, "hidden_BND"):
            yield (), whole, ""
            return
        by: dict[str, list[str]] = {}
        for field in sorted(FIELDS - {"relevance_BN", "text_BN"}):
            by.setdefault(rule(at, field), []).append(field)
        yield from ((tuple(fields), name, "") for name, fields in by.items() if name)
        if found := rule(at, "hidden_BND", keep=9):
            yield (), found, "keep as a number"
        if at == "encoder" and (found := rule(at, between=SimpleNamespace(proportional=True))):
            yield (), found, "merging between the tower's layers"
        found = rule(at, "text_attn_BN", rotary=False)
        if found and "text_attn_BN" not in by.get(found, ()):
            yield ("text_attn_BN",), found, "rotary=False"

    moved = rule("input", "hidden_BND", like="contiguous")
    said: dict[str, list[Said]] = {"any": [((), moved, 'positions="contiguous"')] if moved else []}
    said |= {at: list(of(at)) for at in ("encoder", "input")}
    # One layer of each kind stands for all; never the first, before which nothing has run.
    types = list(getattr(lm.config, "layer_types", None) or ())
    types += [""] * (depth - len(types))
    kinds = [f"layers from {first} on" if i >= first else f"{kind} layers" for i, kind in enumerate(types)][1:]
    found_at = {kind: list(of(1 + kinds.index(kind))) for kind in dict.fromkeys(kinds)}
    everywhere = [x for x in found_at[kinds[0]] if all(x in these for these in found_at.values())]
    said["layers"] = everywhere
    said |= {kind: [x for x in these if x not in everywhere] for kind, these in found_at.items()}
    whole = {"encoder", "input", "layers"}
    out = []
    for one in dict.fromkeys(x for these in said.values() for x in these):
        at = [place for place, these in said.items() if one in these]
        at = ["any", *(place for place in at if place not in whole)] if whole <= {*at} else at
        out += [Refusal(place, *one) for place in at]
    return out
