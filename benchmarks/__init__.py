"""The benchmarks, one module per command."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit() -> str:
    """The commit of this checkout, for the rows that it makes."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    here = Path(__file__).parent
    return subprocess.run(command, cwd=here, capture_output=True, text=True, check=False).stdout.strip()
