"""What a hostile input may lead to: one line that refuses it, or a correct result; and the limits of time and memory.

A case prepares files (``arrange``), tries one thing (``act``), and is right if

- ``act`` raises :class:`InputError` (or, where ``error`` says so, another error of the library) with a message of one
  line of at most :data:`LONGEST` characters in which the regular expression ``says`` is found, without a network call;
- or, for an odd but legitimate input, ``works`` holds for what it returns;

within :data:`SECONDS` of processor time and :data:`MEBIBYTES` of memory beyond what was in use before; and what is
refused leaves every file as it was, and no new one. A command's exit code and line on stderr are turned into the same
errors.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import resource
import select
import signal
import stat
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import pyro_vipaint as vp

SECONDS, MEBIBYTES, LONGEST = 2.0, 1024.0, 300
DEADLINE = 8  # seconds after which a case is killed
ROOM = 3 * 2**30  # bytes of address space for one case, so that a wrong one does not exhaust the machine


@dataclass(frozen=True)
class Case:
    """One hostile input; see the module."""

    name: str
    act: Callable[[Path], Any]
    says: str = ""
    arrange: Callable[[Path], Any] = lambda folder: None
    error: type[Exception] = vp.InputError
    works: Callable[[Path, Any], Any] | None = None
    calls: int = 0  # network calls before the refusal, where the input shows itself only then


@dataclass(frozen=True)
class Outcome:
    """What a case led to: ``fault`` is empty if it is right."""

    fault: str
    seconds: float
    mebibytes: float


def refused(table: dict[str, tuple[Callable[[], Any], str]]) -> Iterator[Case]:
    """The cases of calls without files, each with what its refusal says."""
    for name, (call, says) in table.items():
        yield Case(name, lambda folder, call=call: call(), says)


def working(table: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]) -> Iterator[Case]:
    """The cases of odd but legitimate calls, each with what holds for its result."""
    for name, (call, holds) in table.items():
        yield Case(f"{name} (works)", lambda folder, call=call: call(), works=lambda folder, x, holds=holds: holds(x))


def tried(case: Case) -> Outcome:
    """The outcome of a case; one that was too slow is tried once more: others may have emptied its caches."""
    outcome = _in_a_child(case)
    return _in_a_child(case) if outcome.seconds > SECONDS else outcome


def _in_a_child(case: Case) -> Outcome:
    """Tries a case in a process of its own, which may crash or hang, and whose children end with it."""
    outcome, late = isolated(lambda: _tried(case))
    return outcome or Outcome(f"ran longer than {DEADLINE} s" if late else "the process crashed", 0.0, 0.0)


def isolated(function: Callable[[], Any]) -> tuple[Any, bool]:
    """The result of the function in a forked process, None if it crashes or takes too long; and whether it did that.

    What makes threads is called in such a process alone: a fork of a process with threads may hang.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.setsid()
            os.write(writer, pickle.dumps(function()))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answered, *_ = select.select([pipe], [], [], DEADLINE)
        content = pipe.read() if answered else b""
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return pickle.loads(content) if content else None, not answered


def _tried(case: Case) -> Outcome:
    with TemporaryDirectory(prefix="hostile-") as name:
        warnings.simplefilter("ignore")
        folder = Path(name).resolve()
        torch.manual_seed(0)
        try:
            case.arrange(folder)
        except Exception as error:
            return Outcome(f"could not be arranged: {type(error).__name__} {error}", 0.0, 0.0)
        before = snapshot(folder)
        limit_memory()
        resident, begun, result, error = _resident("VmRSS"), time.process_time(), None, None
        with vp.count_calls() as count:
            try:
                result = case.act(folder)
            except Exception as caught:
                error = caught
        seconds, mebibytes = time.process_time() - begun, max(0.0, _resident("VmHWM") - resident)
        fault = _fault(case, folder, result, error, count.calls)
        if not fault and case.works is None:
            fault = changes(before, snapshot(folder))
        if not fault and seconds > SECONDS:
            fault = f"took {seconds:.1f} s"
        if not fault and mebibytes > MEBIBYTES:
            fault = f"took {mebibytes:.0f} MiB"
        return Outcome(fault, seconds, mebibytes)


def _fault(case: Case, folder: Path, result: Any, error: Exception | None, calls: int) -> str:
    """What is wrong with the answer, empty if nothing is."""
    message = "" if error is None else str(error)
    if case.works is not None:
        if error is not None:
            return f"should work, raised {type(error).__name__}: {message[:200]}"
        try:
            return "" if case.works(folder, result) is not False else "the result is not correct"
        except Exception as problem:
            return f"the result is not correct: {type(problem).__name__} {problem}"
    if error is None:
        return f"was accepted: {type(result).__name__} {str(result)[:80]!r}"
    if not isinstance(error, case.error):
        return f"raised {type(error).__name__}: {message[:200]}"
    if not message.strip() or "\n" in message or len(message) > LONGEST:
        return f"a message of {len(message.splitlines())} lines, {len(message)} characters: {message[:200]!r}"
    if not re.search(case.says, message, re.IGNORECASE):
        return f"does not say {case.says!r}: {message}"
    return f"was refused after {calls} network calls: {message}" if calls > case.calls else ""


def snapshot(folder: Path) -> dict[str, Any]:
    """Every path below ``folder`` with its kind, mode and content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        content: Any = None
        if stat.S_ISLNK(state.st_mode):
            content = path.readlink()
        elif stat.S_ISREG(state.st_mode):
            with suppress(PermissionError):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = (state.st_mode, content)
    return found


def changes(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The files that a refusal left, changed or removed."""
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return f"was refused, but left, changed or removed {', '.join(names[:3])}" if names else ""


def limit_memory() -> None:
    """Keeps this process within :data:`ROOM` from now on, and lets the kernel count its peak of memory anew."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (int(_resident("VmSize") * 2**20) + ROOM, hard))
    Path("/proc/self/clear_refs").write_text("5")


def _resident(entry: str) -> float:
    """An entry of /proc/self/status, in MiB."""
    (line,) = (text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith(entry))
    return int(line.split()[1]) / 1024


# the counts


def every_case() -> dict[str, list[Case]]:
    """The cases by area; every name is there once."""
    from tests.hostile import (
        api,
        benches,
        checkpoints,
        command_line,
        diagnostics,
        objects,
        pictures,
        prior_folders,
        results,
    )

    areas = {
        "vp.inpaint, vp.restore": api.FACADE,
        "models, priors, operators, likelihoods": api.MODELS,
        "guides, ELBOs, fit, sample, refine": api.INFERENCE,
        "baselines, compare": api.METHODS,
        "diagnostics, metrics": diagnostics.CASES,
        "pictures and masks": pictures.CASES,
        "command line": command_line.CASES,
        "folders of priors": prior_folders.CASES,
        "single-file checkpoints": checkpoints.CASES,
        "saved guides and fits": objects.CASES,
        "folders of results": results.CASES,
        "folders of benchmarks": benches.CASES,
    }
    return {area: _without_repeats(cases) for area, cases in areas.items()}


def _without_repeats(cases: Iterable[Case]) -> list[Case]:
    found = list(cases)
    repeats = sorted(name for name, count in Counter(case.name for case in found).items() if count > 1)
    assert not repeats, f"two cases have one name: {repeats}"
    return found


def table(counts: dict[str, tuple[int, int, int]]) -> str:
    """The table of docs/reliability.md: refused, worked and wrong by area."""
    counts = counts | {"all": tuple(map(sum, zip(*counts.values(), strict=True)))}  # type: ignore[dict-item]
    lines = [f"| {area} | {bad + odd} | {bad} | {odd} | {wrong} |" for area, (bad, odd, wrong) in counts.items()]
    return "\n".join(["| area | inputs | refused | worked | wrong |", "|---|---:|---:|---:|---:|", *lines])


def counted(wrong: dict[str, int]) -> dict[str, tuple[int, int, int]]:
    """Refusals, odd inputs and wrong ones by area."""
    areas = {area: [case.works is not None for case in cases] for area, cases in every_case().items()}
    return {area: (len(odd) - sum(odd), sum(odd), wrong.get(area, 0)) for area, odd in areas.items()}


def main(*patterns: str) -> int:
    """Tries every case (those whose ``area: name`` matches a pattern) and prints what is wrong, and the counts."""
    from tests.hostile.warm import warm

    warm()
    wrong, slowest, most = {}, (0.0, ""), (0.0, "")
    for area, cases in every_case().items():
        for case in cases:
            title = f"{area}: {case.name}"
            if patterns and not any(re.search(pattern, title) for pattern in patterns):
                continue
            outcome = tried(case)
            slowest, most = max(slowest, (outcome.seconds, title)), max(most, (outcome.mebibytes, title))
            if outcome.fault:
                wrong[area] = wrong.get(area, 0) + 1
                print(f"WRONG {title}\n      {' '.join(outcome.fault.split())}", flush=True)
    print(table(counted(wrong)))
    print(f"slowest {slowest[0]:.2f} s ({slowest[1]}), most memory {most[0]:.0f} MiB ({most[1]})")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
