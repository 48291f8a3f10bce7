"""Foveate as a model of lmms-eval, so that its own figures (F1, sums, judges) can be had under a plan.

    python -m lmms_eval --model foveate --model_args pretrained=./llava,method=divprune,keep=0.111 --tasks pope \\
        --batch_size 8

`pretrained` is a folder, a hub id or "tiny"; `method` and `keep` make the plan, or `plan` names a plan file; without
either nothing is dropped. Other arguments are the method's settings. Needs lmms-eval, in an environment of its own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms
from PIL import Image

from foveate import images
from foveate.data import Example
from foveate.engines import hf
from foveate.engines.score import answer
from foveate.errors import FoveateError
from foveate.methods import method, parameters
from foveate.plan import Plan

_LONGEST = 64


class FoveateModel(lmms):  # type: ignore[misc]
    """Answers lmms-eval's requests greedily, a batch at a time."""

    is_simple = True

    def __init__(
        self,
        pretrained: str = "tiny",
        method: str | None = None,
        keep: float | int = 0.222,
        plan: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int | str = 1,
        max_batch_size: Any = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        facts = hf.look(pretrained)
        self.plan = _plan(method, keep, plan, facts.depth, settings)
        self.engine = hf.load(pretrained, device or "auto", dtype)
        self.batch = int(batch_size)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """One answer a request, cut at its stop words."""
        said: list[str] = []
        for start in range(0, len(requests), self.batch):
            chunk = requests[start : start + self.batch]
            examples = [self._example(r) for r in chunk]
            longest = [int((r.args[1] or {}).get("max_new_tokens") or _LONGEST) for r in chunk]
            found = answer(self.engine, examples, self.plan, max(longest))
            said += [_stopped(f.text, r.args[1] or {}) for f, r in zip(found, chunk, strict=True)]
        return said

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not offered."""
        raise NotImplementedError("Foveate answers one round at a time; choose a task of output type generate_until")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not offered."""
        raise NotImplementedError("Foveate offers no likelihoods to lmms-eval; choose a generate_until task")

    def _example(self, request: Any) -> Example:
        context, _, visual, doc_id, task, split = request.args
        shown = visual(self.task_dict[task][split][doc_id]) or []
        if strange := [type(v).__name__ for v in shown if not isinstance(v, Image.Image)]:
            raise FoveateError(f"{task} shows a {strange[0]}; only pictures can be asked about")
        return Example(str(doc_id), tuple(images.to_rgb(v) for v in shown), context)


def _plan(name: str | None, keep: float | int, file: str | None, depth: int, settings: dict[str, Any]) -> Plan | None:
    if file is not None:
        if name is not None or settings:
            raise FoveateError("plan= already says how to choose; leave out method= and its settings")
        return Plan.from_json(Path(file).read_text(encoding="utf-8"))
    if name is None:
        if settings:
            raise FoveateError(f"no argument {min(settings)!r}; a method's settings need method=")
        return None
    if "depth" in parameters(name):
        settings = {"depth": depth} | settings
    return method(name, keep=keep, **settings)


def _stopped(text: str, options: dict[str, Any]) -> str:
    until = options.get("until") or []
    for stop in [until] if isinstance(until, str) else until:
        text = text.split(stop)[0] if stop else text
    return text
