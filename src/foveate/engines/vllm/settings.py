"""What a server or a request asks for, and the one text of it that travels, is hashed with the image and read back.

A setting is a mapping under the key "foveate": a method's name and options, or a plan; and hard budgets of tokens.

    {"method": "divprune", "keep": 0.222}
    {"foveate_plan": 1, "cuts": [...]}
    {"method": "divprune", "keep": 0.5, "image_tokens": 128, "request_tokens": 512}
    {"image_tokens": 128}                # the server's method, or DivPrune; images of up to 128 tokens stay whole
    "all"                                # nothing is dropped

A server's budgets bound every request, whatever it asks for.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from foveate import methods, reading
from foveate.cut import Cut
from foveate.engines.vllm.filling import at_cap
from foveate.errors import PlanError, short, unknown
from foveate.plan import Plan

KEY = "foveate"
"""Of settings, in `--hf-overrides` and in `mm_processor_kwargs`."""
ALL = "all"
BUDGETS = ("image_tokens", "request_tokens")
FOLDERS = ("path", "saved", "text_tower")
"""Options of methods, and fields of selectors, that name a folder or a hub id."""
DEFAULT = "divprune"
"""What chooses where a budget bites and nobody said how."""


@dataclass(frozen=True)
class Wish:
    """What was asked for.

    Args:
        plan: None drops nothing of itself.
        image_tokens: the most an image may keep; None is no limit.
        request_tokens: the most all images of a request may keep together.
    """

    plan: Plan | None = None
    image_tokens: int | None = None
    request_tokens: int | None = None


@dataclass(frozen=True)
class Order:
    """A wish made out for the images of one request: what the worker does."""

    plan: Plan | None
    cap: int | None = None
    question: tuple[int, ...] = ()
    """Ids of the text that asks, where the plan reads it."""

    @property
    def cut(self) -> Cut | None:
        """The one cut."""
        return self.plan.cuts[0] if self.plan else None

    def count(self, n: int) -> int:
        """How many tokens an image of n keeps: exactly, since placeholders are written before anybody chooses.

        Raises:
            PlanError: a keep larger than the image.
        """
        k = self.cut.count(n) if self.cut else n
        return k if self.cap is None else min(k, self.cap)


def read(value: Any, depth: int, ours: bool = False) -> Wish:
    """Settings as they were written: a mapping, its JSON, or "all".

    Args:
        value: None is "all".
        depth: decoder layers of the model, for methods that want them.
        ours: from the server's own command line, and not from a request.

    Raises:
        PlanError: it means nothing, or a request names a learned selector, whose folder would be read.
    """
    if value is None or value == ALL:
        return Wish()
    try:
        if isinstance(value, str):
            value = reading.read(value)
        if not isinstance(value, Mapping):
            shown = short(repr(value))
            raise PlanError(f'"{KEY}" is {shown}; give {{"method": NAME, "keep": NUMBER}}, a plan, or "all"')
        rest = dict(value)
        budgets = {name: _budget(name, rest.pop(name, None)) for name in BUDGETS}
        if not ours:
            _check_stranger(rest)
        return Wish(_plan(rest, depth), **budgets)
    except reading.NotJSON as e:
        raise PlanError(f'"{KEY}" is {short(repr(value))}, which is neither "all" nor JSON ({e})') from None
    except RecursionError:
        raise PlanError(f'"{KEY}" is nested too deeply for a plan or an option') from None


def order(asked: Wish | None, server: Wish, images: int) -> Order:
    """What is to be done for a request of so many images.

    Raises:
        PlanError: more images than its budget has tokens.
    """
    wish = server if asked is None else asked
    both = (wish, server)
    cap = _least(w.image_tokens for w in both)
    if (total := _least(w.request_tokens for w in both)) is not None and images:
        if total < images:
            raise PlanError(f"request_tokens is {total}, fewer than the request's {images} images; raise it")
        cap = _least((cap, total // images))
    plan = wish.plan
    if plan is None and cap is not None:
        plan = server.plan or methods.method(DEFAULT, keep=1.0)
        plan = plan.with_keep(1.0)
    if plan is not None:
        plan = replace(plan, cuts=tuple(replace(c, select=at_cap(c.select)) for c in plan.cuts))
    return Order(plan, cap)


def write(order: Order) -> str:
    """One text for each different order. `parse` reads it."""
    from foveate import __version__

    plan = order.plan and json.loads(replace(order.plan, note="", made=None).to_json())
    # The version belongs to it: caches may be shared between servers, and another Foveate may choose otherwise.
    data = {"foveate": __version__, "plan": plan, "cap": order.cap, "question": order.question}
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=256)
def parse(text: str) -> Order:
    """The order behind `write`."""
    data = json.loads(text)
    plan = _from_json(json.dumps(data["plan"])) if data["plan"] else None
    return Order(plan, data["cap"], tuple(data["question"]))


@lru_cache(maxsize=64)
def _from_json(text: str) -> Plan:
    return Plan.from_json(text)


def _plan(rest: dict[str, Any], depth: int) -> Plan | None:
    if "foveate_plan" in rest:
        return Plan.from_json(json.dumps(rest))
    if not rest:
        return None
    if not isinstance(name := rest.pop("method", None), str):
        known = ("method", "keep", "foveate_plan", *BUDGETS)
        raise PlanError(unknown("setting", next(iter(rest), "method"), known, see='{"method": NAME, "keep": NUMBER}'))
    # JSON has lists where Python has tuples, and plans are hashable.
    options = {k: _frozen(v) for k, v in rest.items()}
    if "depth" in methods.parameters(name):
        options.setdefault("depth", depth)
    try:
        return methods.method(name, **options)
    except TypeError as e:
        raise PlanError(f"{name} cannot be made with {rest}: {e}") from None


def _check_stranger(rest: Mapping[str, Any]) -> None:
    """Refuse a request that would have the server import a module or read a folder.

    Raises:
        PlanError: naming what.
    """
    if isinstance(name := rest.get("method"), str) and name not in methods.METHODS:
        raise PlanError(unknown("method", name, methods.METHODS))
    text = json.dumps(rest, default=str)
    kinds = re.findall(r'"kind": "([^"]*)"', text)
    named = [n for n, _ in re.findall(rf'"({"|".join(FOLDERS)})": ("[^"]*")', text)]
    if strange := [k for k in kinds if not k.startswith("foveate.methods.")] or named:
        raise PlanError(
            f"{', '.join(strange)} would have the server read a folder or import a module, which only the server may "
            "ask for: start it with foveate serve --plan FILE, or name another method"
        )


def _budget(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PlanError(f"{name} is {value!r}; it must be a whole number of tokens, at least 1")
    return value


def _least(values: Any) -> int | None:
    return min((v for v in values if v is not None), default=None)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def question_ids(ids: Sequence[int], images: frozenset[int], special: frozenset[int], tail: int) -> tuple[int, ...]:
    """Ids of the text that asks, by the rule that the Hugging Face engine reads a prompt by."""
    import torch

    from foveate.question import question

    row = torch.tensor([list(ids)])
    visual, odd = (torch.isin(row, torch.tensor(sorted(s), dtype=torch.long)) for s in (images, special))
    asks, _ = question(torch.ones_like(row, dtype=torch.bool), visual, odd, tail)
    return tuple(row[asks].tolist())
