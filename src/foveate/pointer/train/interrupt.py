"""Ctrl-C, and the signal that cluster managers send first, wait for the end of an update, whose state is then saved."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import torch

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Waiting:
    """Notes a signal while the `with` lasts. A second one does not wait: it is a KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Only the main thread may do this; elsewhere signals do what they did.
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in _SIGNALS}
        return self

    def __exit__(self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self, accelerator: Any) -> bool:
        """Whether any process was asked to stop; all get the same answer, for saving needs all of them."""
        if accelerator.num_processes == 1:
            return self.asked
        mine = torch.tensor(float(self.asked), device=accelerator.device)
        return bool(accelerator.reduce(mine, "sum") > 0)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
