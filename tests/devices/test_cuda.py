"""Every part of the library on a real GPU: the laws of its numbers are those on the CPU, and no wait is hidden.

``make gpu-check`` runs these tests; elsewhere they are skipped without CUDA. ``VIPAINT_TEST_DEVICE=cpu`` runs them on
the CPU, with other random numbers than it is compared with, which shows that they can pass. With
``VIPAINT_TEST_TINY=1`` each guide meets one objective and not all.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.devices.pretend import HOST
from tests.devices.programs import ADAPTIVE, FITS, PAIRED, PROGRAMS
from tests.statistics import assert_within, mean_and_error

DEVICE = torch.device(os.environ.get("VIPAINT_TEST_DEVICE", "cuda"))
TINY = os.environ.get("VIPAINT_TEST_TINY") == "1"
NAMES = [name for name in PROGRAMS if not TINY or name not in FITS or name in PAIRED]
IMAGES = 64  # copies of one image: so many independent draws of each number
STEPS = 3
ROUNDING = 1e-4  # relative, of numbers without noise

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    """float32 without TF32, in which a GPU convolves by default."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def assert_same_law(ours: Tensor, theirs: Tensor) -> None:
    """The means over images agree within their standard errors, at the failure rate of the suite."""
    (mean, error), (other, its) = (mean_and_error(numbers.cpu().double()) for numbers in (ours, theirs))
    assert_within(mean, other, (error**2 + its**2).sqrt() + ROUNDING * (1 + other.abs()))


@pytest.mark.parametrize("name", NAMES)
def test_the_law_is_that_of_the_cpu(name: str) -> None:
    numbers = []
    for seed, device in enumerate((DEVICE, HOST)):
        torch.manual_seed(seed)
        numbers.append(PROGRAMS[name].run(device, IMAGES, STEPS))
    assert all(values.isfinite().all() for values in numbers)
    assert_same_law(*numbers)


@pytest.mark.parametrize("name", ["DPS", "HierarchicalGuide, BetaELBO", "of_weights"])
def test_another_law_is_found(name: str) -> None:
    """The same program with numbers that are too large."""
    torch.manual_seed(0)
    numbers = PROGRAMS[name].run(DEVICE, IMAGES, STEPS)
    torch.manual_seed(1)
    with pytest.raises(AssertionError, match="off by"):
        assert_same_law(1.3 * numbers, PROGRAMS[name].run(HOST, IMAGES, STEPS))


def waits(name: str, steps: int) -> int:
    """The synchronising operations of a run, as CUDA itself counts them."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            PROGRAMS[name].run(DEVICE, 2, steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in seen)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="CUDA counts")
@pytest.mark.parametrize("name", [name for name in NAMES if PROGRAMS[name].waits < ADAPTIVE])
def test_no_step_waits_more_often_than_it_says(name: str) -> None:
    PROGRAMS[name].run(DEVICE, 2, 1)  # what is made once
    assert waits(name, 2) - waits(name, 1) <= PROGRAMS[name].waits
