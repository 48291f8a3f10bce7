"""The embedded model, loaded once for all benchmark tests, and two ways of answering beside the full model."""

import pytest

from foveate.bench.ways import Way
from foveate.engines import hf
from foveate.methods import METHODS


@pytest.fixture(scope="session")
def engine() -> hf.Engine:
    return hf.load()


@pytest.fixture(scope="session")
def ways() -> list[Way]:
    return [
        Way("full"),
        Way("random", "0.111", "plan", METHODS["random"](keep=0.111)),
        Way("downsample", "0.111", "downsample"),
        Way("fastv", "0.222", "plan", METHODS["fastv"](keep=0.222)),
    ]
