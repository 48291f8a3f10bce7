"""A search's memory: every evaluation is one trial of an Optuna study, claimed by one process and told once.

The searches decide what to ask next from what is known alone, in rounds of a fixed width. So a search that was killed
goes on where it was, and several processes on one study, on one machine or many, do the same search together: each
evaluates what nobody has claimed, and waits for what others have.
"""

import json
import os
import socket
import time
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from typing import Any

from foveate import files
from foveate.errors import FoveateError, install
from foveate.search.journal import Journal

LEASE = 300.0
"""Seconds without a sign of life after which a claim from another machine is void."""
_BEAT = 10.0
_WAIT = 0.2


@dataclass(frozen=True)
class Asked:
    """Something to evaluate.

    Args:
        key: says all that matters; the same key is the same evaluation.
        data: plain data to evaluate from.
    """

    key: str
    data: Any


Result = dict[str, Any]
Evaluate = Callable[[Any, Callable[[], None]], Result]
"""(data, sign of life) -> plain data with "loss" and "cost"."""


class Study:
    """See the module's docstring."""

    def __init__(self, storage: str | os.PathLike[str], name: str, settings: Mapping[str, Any]) -> None:
        """Begin a study or join it.

        Args:
            storage: a file (a journal; SQLite where it ends in .db or .sqlite), or a database URL.
            name: of the study in it.
            settings: all that the outcome depends on; those who join must have the same.

        Raises:
            FoveateError: Optuna is missing, the storage cannot be used, or was begun with other settings.
        """
        self.optuna = optuna = load_optuna()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            self._study = optuna.create_study(
                storage=_storage(optuna, os.fspath(storage)), study_name=name, load_if_exists=True,
                directions=["minimize", "minimize"],
            )  # fmt: skip
            self._agree(dict(settings))
        except FoveateError:
            raise
        except Exception as e:  # drivers, locks and half-written files each fail in their own way
            raise FoveateError(f"the study {storage} cannot be used: {type(e).__name__}: {str(e)[:200]}") from e
        self.evaluated = 0
        """How many this process evaluated itself."""

    def _agree(self, settings: dict[str, Any]) -> None:
        mine = json.dumps(settings, sort_keys=True)
        theirs = self._study.user_attrs.get("settings")
        if theirs is None:
            self._study.set_user_attr("settings", mine)
            theirs = self._study.user_attrs.get("settings", mine)
        if theirs == mine:
            return
        before = json.loads(theirs)
        changed = sorted(k for k in before.keys() | settings.keys() if before.get(k) != settings.get(k))
        raise FoveateError(
            f"this study was begun with other settings ({', '.join(changed)} differ); use the same ones to go on, or "
            "another --study"
        )

    # -- asking

    def ask(self, asked: Sequence[Asked], evaluate: Evaluate) -> list[Result]:
        """The results of all that is asked, from whoever evaluates it."""
        while True:
            claims = self._claims()
            done = {k: t for k, t in claims.items() if t.state.name == "COMPLETE"}
            if all(a.key in done for a in asked):
                return [json.loads(done[a.key].user_attrs["result"]) for a in asked]
            free = next((a for a in asked if a.key not in claims), None)
            if free is None:
                time.sleep(_WAIT)
                self._bury(claims)
            else:
                self._try(free, evaluate)

    def known(self) -> dict[str, Result]:
        """Everything that was evaluated, by key."""
        return {k: json.loads(t.user_attrs["result"]) for k, t in self._claims().items() if t.state.name == "COMPLETE"}

    def _claims(self) -> dict[str, Any]:
        """Key -> the trial that counts: the first that has not failed."""
        out: dict[str, Any] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state.name != "FAIL" and (key := trial.user_attrs.get("key")) is not None:
                out.setdefault(key, trial)
        return out

    def _try(self, asked: Asked, evaluate: Evaluate) -> None:
        trial = self._claim(asked)
        if trial is None:
            return
        handle = self.optuna.trial.Trial(self._study, trial._trial_id)
        last = time.time()

        def beat() -> None:
            nonlocal last
            if time.time() - last > _BEAT:
                last = time.time()
                handle.set_user_attr("beat", last)

        try:
            result = evaluate(asked.data, beat)
            if not isfinite(result["loss"] + result["cost"]):  # Optuna would take it for a failure, to be tried again
                what = f"a loss of {result['loss']} at a cost of {result['cost']} is none"
                raise FoveateError(f"{what}: the model's scores are no numbers, as if float16 overflowed; try --dtype")
        except BaseException:
            self._tell(trial.number, None)
            raise
        try:
            handle.set_user_attr("result", json.dumps(result))
        except FoveateError:  # a full disk
            raise
        except Exception:  # buried by another process, which took it for dead: what counts is what that one tells
            return
        self.evaluated += 1
        self._tell(trial.number, [result["loss"], result["cost"]])

    def _claim(self, asked: Asked) -> Any:
        """The claim, if it is the first; all processes agree on the order in which trials were made."""
        token = uuid.uuid4().hex
        attrs = {
            "key": asked.key, "token": token, "host": socket.gethostname(), "pid": os.getpid(), "beat": time.time(),
        }  # fmt: skip
        running = self.optuna.trial.TrialState.RUNNING
        self._study.add_trial(self.optuna.trial.create_trial(state=running, user_attrs=attrs))
        mine = next(t for t in self._study.get_trials(deepcopy=False) if t.user_attrs.get("token") == token)
        if self._claims().get(asked.key) is not None and self._claims()[asked.key].number == mine.number:
            return mine
        self._tell(mine.number, None)
        return None

    def _bury(self, claims: Mapping[str, Any]) -> None:
        """Give up claims whose process is gone."""
        for trial in claims.values():
            if trial.state.name == "RUNNING" and not _alive(trial.user_attrs):
                self._tell(trial.number, None)

    def _tell(self, number: int, values: list[float] | None) -> None:
        state = self.optuna.trial.TrialState.FAIL if values is None else None
        # Another process may have been faster; both say the same, or it gave this one up.
        with suppress(ValueError, RuntimeError, self.optuna.exceptions.UpdateFinishedTrialError):
            self._study.tell(number, values, state=state)


def _alive(attrs: Mapping[str, Any]) -> bool:
    if attrs["host"] != socket.gethostname():
        return time.time() - attrs["beat"] < LEASE
    if attrs["pid"] == os.getpid():
        # Claimed by this very process, in a pass that was broken off.
        return False
    try:
        os.kill(attrs["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return time.time() - attrs["beat"] < LEASE


def _storage(optuna: Any, where: str) -> Any:
    if "://" in where:
        return optuna.storages.RDBStorage(where, engine_kwargs=_patient(where))
    path = files.place(where)
    if path.is_dir() or not path.parent.is_dir():
        raise FoveateError(f"the study {where} must be a file in a folder that exists, or a database URL")
    if path.suffix in (".db", ".sqlite", ".sqlite3"):
        url = f"sqlite:///{path}"
        return optuna.storages.RDBStorage(url, engine_kwargs=_patient(url))
    backend = Journal(optuna, path)
    if backend.mend():
        warnings.warn(
            f"the last line of {path} was cut off, and is dropped; what it told of is evaluated again", stacklevel=4
        )
    return optuna.storages.JournalStorage(backend)


def _patient(url: str) -> dict[str, Any]:
    return {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}


def load_optuna() -> Any:
    """Optuna, or what to install."""
    try:
        import optuna
    except ImportError:
        raise FoveateError(f"searching needs Optuna: {install('search')}") from None
    return optuna
