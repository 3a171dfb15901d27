"""Every test starts from the same seed and an empty parameter store, and none asks a model hub for anything."""

from __future__ import annotations

import os

import pyro
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is first imported, which is after this


@pytest.fixture(autouse=True)
def _fresh_state() -> None:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
