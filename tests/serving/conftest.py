"""One engine a model, in this process, so that tests can look into it."""

import os

import pytest
from engines_of_vllm import MODELS, NAME, make


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The model of this run: FOVEATE_MODEL. vLLM starts once in a process, so `make test-vllm` runs once for each."""
    if NAME in MODELS:
        return MODELS[NAME]
    from little import write

    return write(NAME, tmp_path_factory.mktemp(NAME))


@pytest.fixture(scope="session")
def instrument(folder):
    """Name and engine of one model."""
    llm = make(folder)
    yield NAME, llm
    llm.llm_engine.engine_core.shutdown()


@pytest.fixture
def kept(monkeypatch):
    """What the worker chose, image by image."""
    from foveate.engines.vllm.worker import Foveated

    seen = []
    original = Foveated._choose

    def choose(self, *asked):
        answers = original(self, *asked)
        seen.extend(places.tolist() for places, _ in answers or ())
        return answers

    monkeypatch.setattr(Foveated, "_choose", choose)
    return seen


@pytest.fixture(scope="session")
def reference(folder):
    """The Hugging Face engine of the same folder."""
    from foveate.engines import hf

    return hf.load(os.fspath(folder), "cpu", "float32")
