"""What several command tests need."""

import pytest

from foveate.engines import hf


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model fails the test."""

    def fail(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(hf, "load", fail)
