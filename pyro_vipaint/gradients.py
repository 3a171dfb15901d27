"""Gradients where the caller has switched them off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyro_vipaint.errors import InputError


@contextmanager
def gradients() -> Iterator[None]:
    """Gradients inside, also below ``torch.no_grad()``, where sampling usually runs.

    Raises:
        InputError: below ``torch.inference_mode()``, whose tensors never have any.
    """
    if torch.is_inference_mode_enabled():
        raise InputError("this needs gradients, which torch.inference_mode() rules out: use torch.no_grad() instead.")
    with torch.enable_grad():
        yield
