"""Options, consoles and error lines that the commands share."""

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

Out = Annotated[Path, typer.Option(help="Folder for the results: new, empty, or with earlier results.")]
Seed = Annotated[int, typer.Option(help="Seed of all random numbers.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, …")]
Prior = Annotated[str, typer.Option(help="Name of a shipped prior, folder, or hub id.")]
Levels = Annotated[int, typer.Option(help="K, the number of latent levels.")]
Label = Annotated[int | None, typer.Option(help="Class number for class-conditional priors; see vipaint priors.")]
Prompt = Annotated[str | None, typer.Option(help="Text, for priors that take it.")]
Guidance = Annotated[float | None, typer.Option(help="Weight of classifier-free guidance; 1 means no guidance.")]
Half = Annotated[bool, typer.Option("--half", help="Run the networks in bfloat16 where the device supports it.")]
Checkpointing = Annotated[bool, typer.Option("--checkpointing", help="Recompute activations: less memory, more time.")]
Steps = Annotated[int | None, typer.Option(help="SVI steps, K + 1 network calls each.")]
RefineSteps = Annotated[int | None, typer.Option(help="Refinement steps, one network call each.")]
Beta = Annotated[float | None, typer.Option(help="Weight of the prior side of the bound; 1 is the true bound.")]
InvertMask = Annotated[bool, typer.Option("--invert-mask", help="White means hidden instead of observed.")]
Truth = Annotated[Path | None, typer.Option(help="The undamaged picture, for comparison.")]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns errors into one line: bad input exits with code 2; a broken fit, a full disk or full memory with code 1."""
    try:
        yield
    except Exception as error:
        message = str(error)
        if _is_out_of_memory(error):
            message = "Not enough memory: ask for fewer --samples, or for --half or --checkpointing."
        elif not isinstance(error, (InputError, NonFiniteError, OSError)):
            raise
        # One line on any terminal; brackets in file names are not markup.
        errors.print(Text.assemble(("Error: ", "bold red"), " ".join(message.split())), soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, InputError) else 1) from None


def _is_out_of_memory(error: Exception) -> bool:
    """Whether PyTorch found no memory: on a GPU by the name of the error's class, to avoid the import of PyTorch."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
