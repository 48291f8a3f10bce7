"""Tasks of lmms-eval: its data, its prompts, its scores for each question; the asking is done as for any other task.

`lmms:gqa` is a task that comes with lmms-eval; `lmms:FOLDER/NAME` is one whose YAML file lies in a folder of your own.
A task's figure over a set may be more than a mean (POPE's F1, MME's sum). Here every question gets the score that
`process_results` gives it, so that intervals and paired tests mean something; for the task's own figure run
`python -m lmms_eval --model foveate` (`foveate.bench.lmms_model`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from foveate import images
from foveate.bench.tasks import Task
from foveate.data import Example
from foveate.errors import FoveateError, unknown

_LONGEST = 16
"""Tokens, where a task does not say."""


@dataclass(frozen=True)
class DocExample(Example):
    """One document of a task; its pictures are decoded when asked for."""

    task: Any = field(default=None, repr=False, compare=False)
    index: int = 0

    def pictures(self) -> list[Image.Image]:
        """What the task shows of it.

        Raises:
            FoveateError: a picture cannot be decoded, or is none.
        """
        try:
            shown = self.task.doc_to_visual(self.task.eval_docs[self.index]) or []
        except (OSError, ValueError, SyntaxError) as e:
            raise FoveateError(f"the pictures of document {self.index} cannot be read: {e}") from None
        if strange := [type(v).__name__ for v in shown if not isinstance(v, Image.Image)]:
            raise FoveateError(f"document {self.index} shows a {strange[0]}; only pictures can be asked about")
        return [images.to_rgb(v) for v in shown]


def load(name: str, limit: int | None = None) -> Task:
    """One task of lmms-eval.

    Raises:
        FoveateError: lmms-eval is not installed, has no such task, cannot reach its data, or the task is no plain
            question and answer.
    """
    task = _find(name.removeprefix("lmms:"))
    if task.OUTPUT_TYPE != "generate_until":
        raise FoveateError(f"{name} is a {task.OUTPUT_TYPE} task; only generate_until tasks can be asked here")
    docs = task.eval_docs_no_media
    count = min(len(docs), limit or len(docs))
    examples = [
        DocExample(str(i), (), str(task.doc_to_text(docs[i])), _answers(task, docs[i]), task, i) for i in range(count)
    ]
    options = dict(task.config.generation_kwargs or {})
    until = options.get("until") or []
    stops = [until] if isinstance(until, str) else list(until)

    def score(answer: str, e: Example) -> float:
        for stop in stops:
            answer = answer.split(stop)[0] if stop else answer
        index = int(e.id)
        # Few tasks score by the picture; those that do say so, and then their documents still hold it.
        return value(name, task.process_results(docs[index], [answer]))[1]

    metric = value(name, task.process_results(docs[0], [""]))[0] if count else ""
    return Task(name, examples, score, metric, int(options.get("max_new_tokens") or _LONGEST))


def value(name: str, found: Mapping[str, Any]) -> tuple[str, float]:
    """The first metric that is a number from 0 to 1 for one question, and that number.

    Raises:
        FoveateError: there is none.
    """
    for metric, result in found.items():
        inner = result.get("score") if isinstance(result, Mapping) else result
        if isinstance(inner, bool | int | float) and 0 <= float(inner) <= 1:
            return metric, float(inner)
    raise FoveateError(
        f"{name} gives no score from 0 to 1 for a single question ({', '.join(found)}); run it whole with "
        "python -m lmms_eval --model foveate"
    )


def _find(word: str) -> Any:
    try:
        from lmms_eval.tasks import TaskManager, get_task_dict
    except ImportError as e:
        raise FoveateError(
            f"lmms: tasks need lmms-eval ({e}): pip install lmms-eval==0.7.3, in an environment of its own"
        ) from None
    folder, _, last = word.rpartition("/")
    if folder and not Path(folder).is_dir():
        raise FoveateError(f"no folder {folder} with lmms-eval tasks; write lmms:NAME, or lmms:FOLDER/NAME")
    manager = TaskManager(include_path=folder or None, include_defaults=not folder, model_name="foveate")
    if last not in manager.all_tasks:
        raise FoveateError(unknown("lmms-eval task", last, manager.all_tasks, see="python -m lmms_eval --tasks list"))
    if last not in manager.all_subtasks:
        raise FoveateError(f"{last} is a group of lmms-eval tasks; name the tasks in it, with commas")
    try:
        found = get_task_dict([last], manager)[last]
    except Exception as e:  # data sets fail to arrive in many ways
        raise FoveateError(f"the data of {last} cannot be reached: {type(e).__name__}: {e}") from e
    return found[1] if isinstance(found, tuple) else found


def _answers(task: Any, doc: Any) -> tuple[str, ...]:
    target = task.doc_to_target(doc)
    return tuple(str(t) for t in target) if isinstance(target, list | tuple) else (str(target),)
