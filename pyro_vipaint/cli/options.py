"""What the commands share: options, consoles, errors in one line."""

from __future__ import annotations

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
Prior = Annotated[str, typer.Option(help="Shipped name, folder or hub id.")]
Levels = Annotated[int, typer.Option(help="K, the number of latent levels.")]
Label = Annotated[int | None, typer.Option(help="Number of a class, for class-conditional priors; see vipaint priors.")]
Prompt = Annotated[str | None, typer.Option(help="Text, for priors that take it.")]
Guidance = Annotated[float | None, typer.Option(help="Weight of label or prompt; 1 is none.")]
Half = Annotated[bool, typer.Option("--half", help="Networks in bfloat16, where the device has it.")]
Checkpointing = Annotated[bool, typer.Option("--checkpointing", help="Recompute activations: less memory, more time.")]
Steps = Annotated[int | None, typer.Option(help="SVI steps, K + 1 network calls each.")]
RefineSteps = Annotated[int | None, typer.Option(help="Refinement steps, one network call each.")]
Beta = Annotated[float | None, typer.Option(help="Weight of the prior side; 1 is the true bound.")]
InvertMask = Annotated[bool, typer.Option("--invert-mask", help="White means hidden instead.")]
Truth = Annotated[Path | None, typer.Option(help="The undamaged picture, to be compared with.")]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Bad input ends with one line and exit code 2, a fit that broke, a full disk or memory with exit code 1."""
    try:
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


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch found no memory: a class of its own on a GPU, which is not worth its import, else a text."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _print_error(error: object) -> None:
    """The message in one line, however narrow the terminal, with brackets in file names left as they are."""
    message = " ".join(str(error).split())
    errors.print(Text.assemble(("Error: ", "bold red"), message), soft_wrap=True)
