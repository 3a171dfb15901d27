"""What the commands share: consoles, errors in one line, common options."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from pyro_vipaint.errors import InputError, NonFiniteError

console, errors = Console(), Console(stderr=True)

Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Seed = Annotated[int, typer.Option(help="Seed of all randomness.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, …")]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Bad input ends with one line and exit code 2, a fit that broke, a full disk or memory with exit code 1."""
    try:
        with _ended_in_order():
            yield
    except InputError as error:
        _print_error(error)
        raise typer.Exit(2) from None
    except (NonFiniteError, OSError) as error:
        _print_error(error)
        raise typer.Exit(1) from None
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        _print_error("Not enough memory: ask for fewer --samples, or for --half or --checkpointing.")
        raise typer.Exit(1) from None


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM, by which schedulers end a job, unwinds the program as Ctrl-C does."""
    own = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # not somebody else's to handle
    if not own or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch found no memory: a class of its own on a GPU, which is not worth its import, else a text."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _print_error(error: object) -> None:
    """The message in one line, however narrow the terminal, with brackets in file names left as they are."""
    message = " ".join(str(error).split())
    errors.print(Text.assemble(("Error: ", "bold red"), message), soft_wrap=True)
