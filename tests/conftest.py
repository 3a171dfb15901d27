"""Every test starts from the same seed and an empty parameter store, and none asks a model hub for anything.

pytest-xdist runs one process per core, each with one thread of PyTorch: two processes with one thread take half the
time of one process with two.
"""

from __future__ import annotations

import os

import pyro
import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is first imported, which is after this


@pytest.fixture(autouse=True)
def _fresh_state() -> None:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
