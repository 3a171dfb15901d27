"""Options, consoles and error lines that the commands share."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from pyro_vipaint.errors import InputError, NonFiniteError

if TYPE_CHECKING:
    from pyro_vipaint.models import DiffusionPrior

TRACEBACK = "VIPAINT_TRACEBACK"  # the environment variable that shows where an unexpected error comes from
INTERRUPTED = 130  # as shells report SIGINT
DIGITS = 18  # of a number; Python refuses to read those that are much longer


class Terminal(Console):
    """A console; a run whose output nobody reads any more goes on, so that its files are written."""

    def on_broken_pipe(self) -> None:
        """Writes nothing from now on."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


console, errors = Terminal(), Terminal(stderr=True)

Out = Annotated[Path, typer.Option(help="Folder for the results: new, empty, or with earlier results.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Take any folder: files with names of results are replaced, others stay.")
]
Seed = Annotated[int, typer.Option(help="Seed of all random numbers.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, …")]
Prior = Annotated[str, typer.Option(help="Name of a shipped prior or of a plug-in, folder, or hub id.")]
Levels = Annotated[int, typer.Option(help="K, the number of latent levels.")]
Preset = Annotated[
    str | None,
    typer.Option(
        help="inference, by default, for draws whose spread is right, or pictures, for the smallest mean LPIPS."
    ),
]
Guide = Annotated[
    str | None,
    typer.Option(help="Family of guides, or that of a plug-in, fitted with --preset pictures unless another is given."),
]
Label = Annotated[str | None, typer.Option(help="Class, number or name, for priors that have them: vipaint priors.")]
Prompt = Annotated[str | None, typer.Option(help="Text, for priors that take it.")]
Guidance = Annotated[float | None, typer.Option(help="Weight of classifier-free guidance; 1 means no guidance.")]
Half = Annotated[bool, typer.Option("--half", help="Run the networks in bfloat16 where the device supports it.")]
Checkpointing = Annotated[bool, typer.Option("--checkpointing", help="Recompute activations: less memory, more time.")]
Steps = Annotated[int | None, typer.Option(help="SVI steps, K + 1 network calls each, or K from t = 1.")]
RefineSteps = Annotated[int | None, typer.Option(help="Refinement steps, one network call each.")]
Beta = Annotated[float | None, typer.Option(help="Weight of the prior side of the bound; 1 is the true bound.")]
InvertMask = Annotated[bool, typer.Option("--invert-mask", help="White means hidden instead of observed.")]
SoftMask = Annotated[
    bool, typer.Option("--soft-mask", help="Grey in the mask means noise: m of white has sigma / sqrt(m).")
]
Grey = Annotated[
    bool, typer.Option("--grey", help="Turn colour grey for a grey prior; give grey equal channels for one in colour.")
]
Labels = Annotated[
    Path | None, typer.Option(help="Folder: CSV file with the columns file and label, a class by number or name.")
]
Keep = Annotated[str | None, typer.Option(help="Folder: all files of each result, or samples, which has no pictures.")]
Batch = Annotated[int | None, typer.Option(help="Folder: most pictures in one network call; 1 by default.")]
ManyEngine = Annotated[str | None, typer.Option(help="Folder: local, or ray for a Ray cluster.")]
ManyWorkers = Annotated[int | None, typer.Option(help="Folder: processes, each with its prior; 1 by default.")]
ManyThreads = Annotated[int | None, typer.Option(help="Folder: CPU threads per process.")]
ManyAddress = Annotated[
    str | None, typer.Option(help="Folder: address of the Ray cluster; by default one is started here.")
]
ManyRetry = Annotated[bool, typer.Option("--retry", help="Folder: try pictures that failed again.")]
Truth = Annotated[Path | None, typer.Option(help="The undamaged picture, for comparison.")]


def preset_of(preset: str | None, guide: str | None) -> str:
    """The preset asked for; by default that of :func:`pyro_vipaint.restore` with such a guide."""
    return preset or ("inference" if guide is None else "pictures")


def class_number(label: str | None, prior: DiffusionPrior) -> int | None:
    """The number of a class that is given by its number or, in any case of letters, by its name.

    Raises:
        InputError: no class of the prior has the name.
    """
    from pyro_vipaint.models.priors.conditions import class_numbers

    if label is None:
        return None
    if label.removeprefix("-").isdecimal() and len(label) <= DIGITS:
        return int(label)
    return class_numbers(label, prior) if prior.class_names else 0  # refused with the problem


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the process with one line for an error, and prints a warning in one line.

    The exit code is 2 for what the user can mend, 1 for what failed, and 130 for an interrupt.
    """
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _print("Warning: ", "bold yellow", str(message))
        try:
            yield
        except (KeyboardInterrupt, typer.Abort):
            sys.exit(INTERRUPTED)
        except Exception as error:
            if os.environ.get(TRACEBACK):
                raise
            message, code = told(error)
            _print("Error: ", "bold red", message)
            sys.exit(code)


def _print(kind: str, style: str, message: str) -> None:
    """One line on any terminal; brackets in file names are not markup."""
    if message:
        errors.print(Text.assemble((kind, style), " ".join(message.split())), soft_wrap=True)


def told(error: Exception) -> tuple[str, int]:
    """The message of an error and the exit code."""
    if hasattr(error, "format_message"):  # of the arguments; typer has had several homes for the class
        return _usage(error), 2
    if _is_out_of_memory(error):
        return "Not enough memory: ask for fewer --samples, or for --half or --checkpointing.", 1
    if isinstance(error, ModuleNotFoundError):
        return f"{error}: install the package.", 2
    if isinstance(error, (InputError, NonFiniteError, OSError)):
        return str(error), 2 if isinstance(error, InputError) else 1
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {error}"
    return f"{place}. This is a fault of vipaint; {TRACEBACK}=1 shows where it comes from.", 1


def _usage(error: Any) -> str:
    """The message, and where help is; empty where the help itself has been printed."""
    message, context = error.format_message(), getattr(error, "ctx", None)
    end = "" if message.endswith((".", "?")) else "."
    return f"{message}{end} See {context.command_path} --help." if message and context else message


def _is_out_of_memory(error: Exception) -> bool:
    """Whether there was no memory: PyTorch's on a GPU by the name of its class, to avoid the import of PyTorch."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)
