"""Small pictures that several tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def ramp(size: int = 8) -> np.ndarray:
    """Bytes ``(size, size)``."""
    return np.linspace(20, 230, size * size).reshape(size, size).astype(np.uint8)


def half() -> np.ndarray:
    """Bytes ``(8, 8)`` whose left half is white."""
    return np.repeat([[255] * 4 + [0] * 4], 8, axis=0).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path
