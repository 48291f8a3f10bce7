"""One thread a worker: tests run side by side, and tiny models gain nothing from more."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Kernels are interpreted where no GPU could run them. Triton reads this when it is first imported, whoever does it.
if not Path("/dev/nvidia0").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import hypothesis
import pytest
import torch
from hypothesis.internal.conjecture import providers
from transformers.utils import logging

torch.set_num_threads(1)
logging.set_verbosity_error()

# The same examples on every run: a new one is looked for on purpose, with HYPOTHESIS_PROFILE=search.
hypothesis.settings.register_profile("same", derandomize=True, database=None)
hypothesis.settings.register_profile("search", derandomize=False)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "same")
hypothesis.settings.load_profile(PROFILE)
if PROFILE == "same" and hasattr(providers, "is_local_module_file"):
    # It draws constants of all code imported so far as well, so that the order of test files would decide. No setting.
    providers.is_local_module_file = lambda path: False


@pytest.fixture(autouse=True)
def no_accelerator_is_left():
    """accelerate remembers the first precision of a process, and refuses others."""
    yield
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()
