"""`foveate doctor` says what is there, and what would bring the rest."""

import importlib.util
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from foveate.cli import app
from foveate.cli.doctor import EXTRAS
from foveate.ops import roads

run = CliRunner().invoke


def test_every_extra_of_the_package_is_explained() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].keys() - {"dev"}
    assert extras <= EXTRAS.keys() | {"docs"}, "a new extra: say in cli/doctor.py what it brings"
    assert EXTRAS.keys() <= extras


def test_what_is_missing_is_named_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(run(app, ["doctor", "--json"]).stdout)
    assert found["versions"]["torch"] and found["extras"]["search"]["ready"]
    real = importlib.util.find_spec

    def without(name: str, *rest: Any) -> Any:
        return None if name in ("optuna", "numba") else real(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    monkeypatch.setattr(roads, "_has_numba", lambda: False)
    found = json.loads(run(app, ["doctor", "--json"]).stdout)
    assert not found["extras"]["search"]["ready"] and found["extras"]["bench"]["ready"]
    assert found["loops"].startswith("plain PyTorch; the extra 'fast'") or found["device"].startswith("cuda")
    page = run(app, ["doctor"])
    assert page.exit_code == 0 and "missing" in page.stdout and "pip install 'optuna>=4'" in page.stdout
