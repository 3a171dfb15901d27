"""Every reader of files takes any bytes: it returns what is correct or refuses them in one line, within two seconds.

``VIPAINT_FUZZ_SECONDS=3600 python -m tests.hostile.test_fuzz`` tries examples for that long, reader by reader in turn,
and prints how many there were and what failed. The inputs are drawn by Hypothesis: mutated good files as well as files
made from nothing, and its shrinker reduces what fails.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import pyro_vipaint as vp
from pyro_vipaint import _files
from pyro_vipaint._folders import IMAGES, MARKER
from pyro_vipaint.bench import Store
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.models import load_prior
from pyro_vipaint.models.pretrained.load import COVARIANCE
from tests.hostile import benches, checkpoints, objects, pictures, prior_folders, results
from tests.hostile.command_line import FailedError, inpaint, restore
from tests.hostile.command_line import pictures as lay_out
from tests.hostile.harness import LONGEST, SECONDS, isolated, limit_memory
from tests.hostile.warm import warm
from tests.hostile.world import MODEL

pytestmark = pytest.mark.slow
EXAMPLES = 200
ROUND = 60.0  # seconds of one reader's turn in a long run

# inputs

NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(),
    st.sampled_from([10**400, -1, 0, 1, 2, 8, 10**9, 2**31, 2**63, 0.5, 1e308]),
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=10), inner, max_size=5)),
    max_leaves=10,
)


@st.composite
def mutated(draw: st.DrawFn, good: bytes) -> bytes:
    """A good file with some bytes changed, removed, repeated or cut off."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        how = draw(st.sampled_from(["change", "cut", "insert", "remove", "repeat"]))
        if how == "cut":
            del data[place:]
        elif how == "remove":
            del data[place : place + draw(st.integers(1, 100))]
        elif how == "insert":
            data[place:place] = draw(st.binary(max_size=20))
        elif how == "repeat":
            data[place:place] = data[place : place + draw(st.integers(1, 200))]
        elif data:
            data[place : place + 1] = draw(st.binary(min_size=1, max_size=4))
    return bytes(data)


@st.composite
def edited(draw: st.DrawFn, good: dict[str, Any]) -> bytes:
    """A good JSON object with some entries replaced, removed or added."""
    record = dict(good)
    for name in draw(st.lists(st.sampled_from([*good, "surplus"]), min_size=1, max_size=3)):
        if draw(st.integers(0, 4)) == 0:
            record.pop(name, None)
        else:
            record[name] = draw(VALUES)
    return json.dumps(record).encode("utf-8", "surrogatepass")


def jsons(good: bytes) -> st.SearchStrategy[bytes]:
    """JSON files near a good one, and any others."""
    anything = VALUES.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
    return st.one_of(edited(json.loads(good)), mutated(good), anything, st.binary(max_size=200))


@st.composite
def headers(draw: st.DrawFn, good: bytes) -> bytes:
    """A good safetensors file whose header says something else about its tensors."""
    (length,) = struct.unpack("<Q", good[:8])
    header: Any = json.loads(good[8 : 8 + length])
    data = good[8 + length :]
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(header)))
        entry = draw(st.sampled_from(["dtype", "shape", "data_offsets", "all", "none"]))
        if entry == "none":
            header.pop(name, None)
            header = header or {"a": 1}
        elif entry == "all" or not isinstance(header.get(name), dict):
            header[name] = draw(VALUES)
        elif entry == "dtype":
            header[name] = header[name] | {
                "dtype": draw(st.sampled_from(["F16", "I64", "BOOL", "F8_E4M3", "C64", "F7"]))
            }
        else:
            header[name] = header[name] | {entry: draw(st.lists(NUMBERS, max_size=4))}
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", draw(st.sampled_from([len(text), len(text) + 1, 2**60]))) + text + data


def tensors(good: bytes) -> st.SearchStrategy[bytes]:
    return st.one_of(headers(good), mutated(good), st.binary(max_size=200))


@st.composite
def values(draw: st.DrawFn, file: str) -> bytes:
    """A good safetensors file with other numbers in it."""
    from safetensors.torch import save

    weights = load_file(objects.template() / file)
    name = draw(st.sampled_from(sorted(weights)))
    number = draw(st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30, -1.0, 0.0]))
    changed = weights[name].clone()
    if changed.is_floating_point() and changed.numel():
        changed.view(-1)[draw(st.integers(0, changed.numel() - 1))] = number
    return save(weights | {name: changed})


FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PCX", "SGI", "DDS")


def files_of_pictures() -> st.SearchStrategy[bytes]:
    """Damaged pictures of many formats, PNGs of any claimed size, depth and colour, and any bytes."""
    damaged = [mutated(pictures.encoded(kind)) for kind in FORMATS]
    modes = [
        mutated(pictures.encoded("TIFF", pictures.RGB.convert(mode)))
        for mode in ("CMYK", "LAB", "YCbCr", "I", "F", "P", "1")
    ]
    claimed = st.builds(
        pictures.png, st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.sampled_from([1, 2, 4, 8, 16, 7]),
        st.sampled_from([0, 2, 3, 4, 6, 9]), st.binary(max_size=100),
    )  # fmt: skip
    return st.one_of(*damaged, *modes, claimed, st.binary(max_size=200))


WORDS = st.one_of(
    NUMBERS.map(str), st.text(max_size=12).filter(lambda text: "\0" not in text),
    st.sampled_from(["nan", "inf", "-inf", "1e999", "1_000", "0x10", "²", "٣", " 3 ", "+2", "-0", "1e3", "--", "-h"]),
)  # fmt: skip
OPTIONS = (
    "--samples",
    "--levels",
    "--preset",
    "--steps",
    "--refine-steps",
    "--beta",
    "--seed",
    "--label",
    "--guidance-scale",
    "--device",
)
OF_RESTORE = ("--factor", "--std", "--length", "--angle", "--noise", "--task", "--mode")


# readers


@dataclass(frozen=True)
class Reader:
    """Reads what ``lay`` wrote into a folder; ``holds`` for what it returns."""

    inputs: Callable[[], st.SearchStrategy[Any]]
    read: Callable[[Path, Any], Any]
    holds: Callable[[Any], Any] = lambda result: True
    errors: tuple[type[Exception], ...] = (vp.InputError,)


def of_prior(file: str, kind: Callable[[bytes], Any]) -> Reader:
    def read(folder: Path, content: bytes) -> Any:
        (prior_folders.good(folder) / file).write_bytes(content)
        return load_prior(folder / "prior")

    def holds(prior: Any) -> bool:
        x = prior.denoise(torch.zeros(1, *prior.event_shape), 0.5, class_labels=torch.tensor([0]))
        return bool(x.isfinite().all()) and prior.sigma_data > 0

    return Reader(lambda: kind((prior_folders.template() / file).read_bytes()), read, holds)


def of_covariance() -> Reader:
    def read(folder: Path, content: bytes) -> Any:
        (prior_folders.good(folder) / COVARIANCE).write_bytes(content)
        return load_prior(folder / "prior").data_covariance

    def holds(covariance: Any) -> bool:
        b = torch.ones(1, 1, 8, 8)
        return bool(covariance.posterior_mean(b, b).isfinite().all()) and covariance.rest > 0

    return Reader(lambda: tensors(prior_folders.covariance()), read, holds)


def of_checkpoint(kind: str) -> Reader:
    def read(folder: Path, content: bytes) -> Any:
        (folder / "file").write_bytes(content)
        return checkpoints.run(folder)

    def inputs() -> st.SearchStrategy[bytes]:
        good = checkpoints.good_files()[kind]
        return tensors(good) if kind == "safetensors" else st.one_of(mutated(good), st.binary(max_size=200))

    return Reader(inputs, read, lambda prior: prior.event_shape[0] >= 1)


def of_object(
    file: str, kind: Callable[[bytes], Any], load: Callable[[Path], Any], template: Callable[[], Path] | None = None
) -> Reader:
    template = template or objects.template

    def read(folder: Path, content: bytes) -> Any:
        (prior_folders.good(folder, template) / file).write_bytes(content)
        return load(folder / "prior")

    return Reader(lambda: kind((template() / file).read_bytes()), read, _finite)


def of_result(file: str, kind: Callable[[bytes], Any]) -> Reader:
    return of_object(file, kind, lambda folder: objects.load_result(folder.parent), objects.result_template)


def _finite(thing: Any) -> bool:
    if isinstance(thing, vp.Result):
        return bool(thing.samples.isfinite().all())
    numbers = thing.parameters() if isinstance(thing, HierarchicalGuide) else thing.terms.values()
    return all(bool(value.isfinite().all()) for value in numbers)


def load_guide(folder: Path) -> HierarchicalGuide:
    return HierarchicalGuide.load(folder, MODEL)


def of_picture(read: Callable[[Path], torch.Tensor], holds: Callable[[Any], Any]) -> Reader:
    def write_and_read(folder: Path, content: bytes) -> Any:
        (folder / "picture.png").write_bytes(content)
        return read(folder / "picture.png")

    return Reader(files_of_pictures, write_and_read, holds)


def out_beside(folder: Path, file: tuple[str, bytes]) -> Any:
    """A folder with a foreign or damaged file is looked at before a run; nothing in it changes."""
    name, content = file
    out = folder / "out"
    out.mkdir()
    (out / name).write_bytes(content)
    (out / "sample_00.png").write_bytes(b"mine")
    try:
        return IMAGES.check(out)
    finally:
        assert (out / name).read_bytes() == content and (out / "sample_00.png").read_bytes() == b"mine"


def marked(folder: Path, content: bytes) -> Any:
    """Earlier results whose marker or report is damaged."""
    out = results.results(folder)
    (out / MARKER).write_bytes(content)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    try:
        return IMAGES.check(out)
    finally:
        assert before == {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def good_marker() -> bytes:
    return (results.template() / "out" / MARKER).read_bytes()


def cell(folder: Path, content: bytes) -> Any:
    benches.finished(folder)
    benches.cells(folder)[0].write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Store(folder / "out").table()


def command(run: Callable[..., str], options: tuple[str, ...]) -> Reader:
    def read(folder: Path, words: tuple[str, str]) -> str:
        lay_out(folder)
        return run(folder, *words)

    pairs = st.tuples(st.sampled_from(options), WORDS.map(lambda word: word[:60]))
    return Reader(lambda: pairs.filter(_is_quick), read, errors=(vp.InputError, FailedError))


def _is_quick(words: tuple[str, str]) -> bool:
    """Numbers that are right and large are right, and take their time."""
    try:
        return not 30 < float(words[1].replace("_", "")) < 2**63 or words[0] not in (
            "--samples",
            "--steps",
            "--refine-steps",
        )
    except ValueError:
        return True


def super_resolution(folder: Path, *words: str) -> str:
    return restore(folder, "--task", "super-resolution", "--factor", 2, *words)


READERS: dict[str, Reader] = {
    "prior.json": of_prior("prior.json", jsons),
    "unet/config.json": of_prior(prior_folders.UNET, jsons),
    "scheduler_config.json": of_prior(prior_folders.SCHEDULER, jsons),
    "weights of a prior": of_prior(prior_folders.WEIGHTS, tensors),
    "covariance of a prior": of_covariance(),
    **{f"checkpoint, {kind}": of_checkpoint(kind) for kind in ("safetensors", "zip", "legacy", "pickle of EDM")},
    "guide.json": of_object(objects.GUIDE, jsons, load_guide),
    "parameters of a guide": of_object(objects.PARAMETERS, tensors, load_guide),
    "values of a guide": of_object(objects.PARAMETERS, lambda good: values(objects.PARAMETERS), load_guide),
    "fit.json": of_object(objects.FIT, jsons, vp.Fit.load),
    "tensors of a fit": of_object(objects.TERMS, tensors, vp.Fit.load),
    "result.json": of_result(objects.RESULT, jsons),
    "tensors of a result": of_result(objects.SAMPLES, tensors),
    "marker of results": Reader(lambda: jsons(good_marker()), marked),
    "foreign report.json": Reader(
        lambda: st.tuples(st.sampled_from(["report.json", "report.md", MARKER]), jsons(good_marker())),
         out_beside,
    ),
    "cell of a benchmark": Reader(lambda: jsons(benches.cells(benches.template())[0].read_bytes()), cell),
    "picture": of_picture(lambda p: _files.read_image(p, 3), lambda x: x.ndim == 3 and len(x) == 3 and _in_range(x)),
    "resized picture": of_picture(lambda p: _files.read_image(p, 1, (8, 8)),
                                  lambda x: x.shape == (1, 8, 8) and _in_range(x)),
    "mask": of_picture(_files.read_mask, lambda m: bool(((m == 0) | (m == 1)).all())),
    "numbers of vipaint inpaint": command(inpaint, OPTIONS),
    "numbers of vipaint restore": command(super_resolution, OF_RESTORE),
}  # fmt: skip


def _in_range(x: torch.Tensor) -> bool:
    """In [-1, 1] where it is not NaN, which marks a hole."""
    known = x[~x.isnan()]
    return bool((known.abs() <= 1 + 1e-6).all())


def check(reader: Reader, content: Any) -> None:
    """One input: a correct result or one line, in time; in a process of its own, which may crash or hang."""
    fault, seconds = "", 0.0
    for _ in range(2):  # once more if it was slow, since other processes may have been at work
        answer, late = isolated(lambda: _fault(reader, content))
        assert answer is not None, "ran too long" if late else "the process crashed"
        fault, seconds = answer
        if fault or seconds < SECONDS:
            break
    assert not fault, fault
    assert seconds < SECONDS, f"took {seconds:.1f} s"


def _fault(reader: Reader, content: Any) -> tuple[str, float]:
    """What is wrong with the answer, empty if nothing is; and its time."""
    with TemporaryDirectory(prefix="fuzz-") as name:
        warnings.simplefilter("ignore")
        limit_memory()
        fault, begun = "", time.perf_counter()
        try:
            if reader.holds(reader.read(Path(name), content)) is False:
                fault = "the result is not correct"
        except reader.errors as error:
            message = str(error)
            fault = (
                ""
                if message.strip() and "\n" not in message and len(message) <= LONGEST
                else f"not one line: {message!r}"
            )
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        return fault[:500], time.perf_counter() - begun


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example]


@cache
def warmed() -> None:
    warm()


@pytest.mark.parametrize("name", READERS)
def test_any_input_is_read_or_refused(name: str) -> None:
    warmed()
    reader = READERS[name]

    @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=QUIET)
    @given(reader.inputs())
    def one(content: Any) -> None:
        check(reader, content)

    one()


# a long run


def fuzz(seconds: float) -> int:
    """Tries readers in turn for so long, with ever new examples; prints and counts what fails."""
    warmed()
    end, counts, failures = time.monotonic() + seconds, dict.fromkeys(READERS, 0), dict.fromkeys(READERS, "")
    turn = min(ROUND, seconds / len(READERS))
    while time.monotonic() < end:
        for name, reader in READERS.items():
            if time.monotonic() < end and not failures[name]:
                failures[name] = _turn(name, reader, min(end, time.monotonic() + turn), counts)
    for name, count in counts.items():
        print(f"{name:32} {count:8} examples  {failures[name] or 'no failure'}")
    failed = [name for name in READERS if failures[name]]
    print(f"{sum(counts.values())} examples of {len(READERS)} readers in {seconds:.0f} s, {len(failed)} readers failed")
    return int(bool(failed))


def _turn(name: str, reader: Reader, end: float, counts: dict[str, int]) -> str:
    """New examples of one reader until ``end``; returns the smallest failure, or nothing."""
    found: list[str] = []

    @settings(
        max_examples=50,
        deadline=None,
        database=None,
        suppress_health_check=QUIET,
        phases=[Phase.generate, Phase.shrink],
    )
    @given(reader.inputs())
    def one(content: Any) -> None:
        counts[name] += 1
        try:
            check(reader, content)
        except AssertionError as error:
            found.append(f"{str(error)[:300]} for {repr(content)[:300]}")
            raise

    while time.monotonic() < end and not found:
        with suppress(AssertionError):
            one()
    return found[-1] if found else ""


if __name__ == "__main__":
    sys.exit(fuzz(float(os.environ.get("VIPAINT_FUZZ_SECONDS", "60"))))
