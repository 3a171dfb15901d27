"""Every test starts from the same seed and an empty parameter store."""

from __future__ import annotations

import pyro
import pytest


@pytest.fixture(autouse=True)
def _fresh_state() -> None:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
