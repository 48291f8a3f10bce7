"""Everything that an attachment hooks or wraps, on one model object, and takes away again."""

import threading
import weakref
from functools import partial
from typing import Any

from foveate.hf.beginning import begin, end
from foveate.hf.checks import MARK
from foveate.hf.encode import wrapped
from foveate.hf.guesses import watched
from foveate.hf.loss import called, correct_loss
from foveate.hf.passing import deepstack, layer_in, layer_out, lm_in, lm_out
from foveate.hf.reading import noted
from foveate.hf.run import Run
from foveate.hf.wrappers import compiled, renew_compiled, unseen


class Hooks:
    """See the module's docstring. Decoder layers are hooked only while a pass has a use for it."""

    def __init__(self, attached: Any) -> None:
        self.attached = attached
        self._handles: list[Any] = []
        self._ears: list[Any] = []
        self._wrapped: list[tuple[Any, str, Any, Any]] = []
        """(module, attribute, what it was on this instance or None, what it is now)."""
        self.listening: weakref.WeakSet[Run] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._put()

    def remove(self) -> None:
        """Give the model back as it was; what others have wrapped since stays theirs, and ours inside steps aside."""
        for handle in (*self._handles, *self._ears):
            handle.remove()
        for module, name, before, ours in reversed(self._wrapped):
            if module.__dict__.get(name) is not ours:
                continue
            if before is None:
                delattr(module, name)
            else:
                setattr(module, name, before)
        self._handles, self._ears, self._wrapped = [], [], []
        if self.attached.there:
            delattr(self.attached.base, MARK)
            renew_compiled()

    def _put(self) -> None:
        attached = self.attached
        model, base, lm = attached.model, attached.base, attached.lm
        renew_compiled()
        setattr(base, MARK, attached)
        add = self._handles.append
        if model is not base:
            add(model.register_forward_pre_hook(unseen(partial(called, attached)), with_kwargs=True))
            add(model.register_forward_hook(unseen(partial(correct_loss, attached)), with_kwargs=True))
        add(base.register_forward_pre_hook(unseen(partial(begin, attached)), with_kwargs=True))
        add(lm.register_forward_pre_hook(unseen(partial(lm_in, attached)), with_kwargs=True))
        add(lm.register_forward_hook(unseen(partial(lm_out, attached))))
        # After the language model's, which may be the same module.
        add(base.register_forward_hook(unseen(partial(end, attached)), always_call=True))
        for name in ("get_image_features", "get_video_features"):
            if hasattr(base, name) and not attached.family.by_runs:
                kind: Any = name.split("_")[1]
                self._wrap(base, name, unseen(wrapped(attached, kind, getattr(base, name)), inside=True))
        for module, name, make in attached.family.wraps(lm):
            self._wrap(module, name, make(attached, getattr(module, name)))
        if hasattr(model, name := "_get_candidate_generator"):
            self._wrap(model, name, watched(attached.local, getattr(model, name)))
        reads = attached.encoder_cut.select.reads if attached.encoder_cut is not None else frozenset()
        if "text_BTD" in reads and hasattr(model, name := "generate"):
            self._wrap(model, name, noted(attached.local, getattr(model, name)))
        if hasattr(lm, name := "_deepstack_process"):
            self._wrap(lm, name, unseen(deepstack(attached, getattr(lm, name))))
        for module in {id(x): x for x in (model, base)}.values():
            # Asked before what the module holds, hooks among it, of which pickle would say that they are local objects.
            self._wrap(module, "__reduce_ex__", lambda _protocol: attached.__reduce__())

    def _wrap(self, module: Any, name: str, ours: Any) -> None:
        """On the instance: the class, and every other model, keeps its own."""
        self._wrapped.append((module, name, module.__dict__.get(name), ours))
        setattr(module, name, ours)

    def listen(self, run: Run | None) -> None:
        """Put hooks on the layers for a run, or (None) take them off where no pass has a use for them.

        Code that was compiled with them looks for no others, so there they stay.
        """
        if run is None and not self._ears:
            return
        with self._lock:
            if run is None:
                if self._ears and self.attached.plain and not self.listening and not compiled():
                    while self._ears:
                        self._ears.pop().remove()
                return
            self.listening.add(run)
            if self._ears:
                return
            renew_compiled()
            for i, layer in enumerate(self.attached.lm.layers):
                hook = unseen(partial(layer_in, self.attached, i))
                self._ears.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
                if not self.attached.plain:
                    # First of all, so that whoever records states records whole ones.
                    self._ears.append(
                        layer.register_forward_hook(unseen(partial(layer_out, self.attached)), prepend=True)
                    )
