"""One thread a worker: tests run side by side, and tiny models gain nothing from more."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Kernels are interpreted where no GPU could run them. Triton reads this when it is first imported, whoever does it.
if not Path("/dev/nvidia0").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import torch
from transformers.utils import logging

torch.set_num_threads(1)
logging.set_verbosity_error()
