"""A choice that fails fails the requests that want it, and no other: a worker says which images, the scheduler acts.

Placeholders are written when nobody has chosen yet, so a selector that raises leaves an image without an answer. The
worker counts the images that it encodes in a step, and hangs the numbers of those that failed on the step's output. The
scheduler knows whose they were: it ends those requests with finish reason "error" (over HTTP: status 500), and every
later one that wants the same of the same image, since keys and values of wrong tokens may lie in the prefix cache.

Under pipeline parallelism the output comes from a stage that sees no image: `reports` is False, the worker only logs.
"""

import functools
from collections.abc import Iterator
from typing import Any

from vllm.utils.import_utils import resolve_obj_by_qualname
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import RequestStatus

NAME = f"{__name__}.scheduler"
"""For vLLM's `scheduler_cls`."""
BASE = "foveate_scheduler"
"""On a model's config: the scheduler that the user asked for."""
WHY = "Foveate could not choose among an image's tokens; the server's log says why"
_NUMBERS = "foveate_failed"
_PENDING: list[tuple[list[int], int]] = []
"""What this process reported, until its step has an output."""


def reports(vllm_config: Any) -> bool:
    """Whether what the encoder's stage says reaches the scheduler."""
    return bool(vllm_config.parallel_config.pipeline_parallel_size == 1)


def use(vllm_config: Any) -> None:
    """Have vLLM make our scheduler, on top of the one it would have made."""
    scheduling = vllm_config.scheduler_config
    if reports(vllm_config) and scheduling.scheduler_cls != NAME:
        setattr(vllm_config.model_config.hf_config, BASE, scheduling.scheduler_cls)
        scheduling.scheduler_cls = NAME


def report(numbers: list[int], of: int) -> None:
    """Say with the step's output which of so many images failed, counted from 0."""
    _PENDING.append((numbers, of))


def watch() -> None:
    """In a worker: hang what was reported on the next output."""
    original = ModelRunnerOutput.__init__
    if hasattr(original, "foveate"):
        return

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if _PENDING:
            setattr(self, _NUMBERS, _PENDING.pop())

    init.foveate = True  # type: ignore[attr-defined]
    ModelRunnerOutput.__init__ = init


class Failing:
    """Mixed into a scheduler, before it."""

    requests: dict[str, Any]
    finish_requests: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.failed: set[str] = set()
        """Hashes of images with what was asked of them."""

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """End the requests whose image failed before their token counts."""
        if reported := getattr(model_runner_output, _NUMBERS, None):
            numbers, of = reported
            images = list(self._encoded(scheduler_output))
            # Were they ever counted differently here and there, all of the step's would be doubtful.
            doubtful = [images[n] for n in numbers] if of == len(images) else images
            self.failed.update(i for i in doubtful if i is not None)
        ended = self._end(scheduler_output) if self.failed else ()
        out = super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]
        for request in ended:
            out.setdefault(request.client_index, EngineCoreOutputs()).outputs.append(
                EngineCoreOutput(request.request_id, [], finish_reason=request.get_finished_reason(), stop_reason=WHY)
            )
        return out

    def _encoded(self, scheduler_output: Any) -> Iterator[str | None]:
        """The images of a step in the order in which the worker sees them; None for one whose request is gone."""
        for name, inputs in scheduler_output.scheduled_encoder_inputs.items():
            request = self.requests.get(name)
            yield from (request and request.mm_features[i].identifier for i in inputs)

    def _end(self, scheduler_output: Any) -> Any:
        now = [self.requests[name] for name in scheduler_output.num_scheduled_tokens if name in self.requests]
        wrong = [r.request_id for r in now if any(f.identifier in self.failed for f in r.mm_features)]
        return self.finish_requests(wrong, RequestStatus.FINISHED_ERROR)


def scheduler(vllm_config: Any, **kwargs: Any) -> Any:
    """vLLM's scheduler, or the user's, with ours mixed in."""
    chosen = getattr(vllm_config.model_config.hf_config, BASE, None)
    if isinstance(chosen, str):
        chosen = resolve_obj_by_qualname(chosen)
    base = chosen or (AsyncScheduler if vllm_config.scheduler_config.async_scheduling else Scheduler)
    return type(f"Failing{base.__name__}", (Failing, base), {})(vllm_config=vllm_config, **kwargs)
