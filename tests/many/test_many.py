"""Many pictures: a result depends on its name alone, a killed run goes on, a bad picture is a row."""

from __future__ import annotations

import csv
import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint._files import read_image
from pyro_vipaint.checks import warm_prior
from pyro_vipaint.guides import MixtureGuide
from pyro_vipaint.many import run as many_run
from pyro_vipaint.many.pictures import seed_of
from pyro_vipaint.many.streams import Streams
from pyro_vipaint.models import GaussianPrior
from pyro_vipaint.models.measurements.masks import box
from pyro_vipaint.progress import Progress
from tests.cli.conftest import load_tiny
from tests.pictures import half, ramp, save

NAMES = ["a", "b", "deep/c", "deep/d", "e"]
FEW: dict[str, Any] = {"prior": "tiny", "levels": 2, "num_samples": 2, "refine_steps": 2, "device": "cpu", "seed": 4}
FEW["keep"] = "samples"


@pytest.fixture(autouse=True)
def _tiny_priors(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("pyro_vipaint.checks.load_prior", load_tiny)
    yield
    warm_prior.cache_clear()


def paint(folder: Path, names: list[str] = NAMES, size: int = 8) -> Path:
    """Different pictures of these names."""
    for number, name in enumerate(names):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, np.roll(ramp(size), number * 3))
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    save(tmp_path / "mask.png", half())
    return paint(tmp_path / "pictures")


def rows(folder: Path, names: list[str] = NAMES) -> list[tuple[str, Tensor]]:
    return [(name, read_image(folder / f"{name}.png", 1)) for name in names]


def samples(out: Path, name: str) -> Tensor:
    return load_file(out / "images" / name / "samples.safetensors")["samples"]


def mask() -> Tensor:
    return (torch.from_numpy(half()) > 127).float()[None]


def by_name(frame: Any) -> Any:
    """What two runs of the same work agree in."""
    return frame.set_index("name").sort_index().drop(columns=["seconds", "file"])


# One picture


@pytest.mark.parametrize("guide", [None, "LowRankGuide"])
def test_a_result_is_that_of_inpaint_with_the_seed_of_the_manifest(
    pictures: Path, tmp_path: Path, guide: str | None
) -> None:
    frame: Any = vp.inpaint_many(pictures, tmp_path / "mask.png", out=tmp_path / "out", guide=guide, label="dog", **FEW)
    assert frame["name"].tolist() == NAMES and (frame["status"] == "done").all() and frame["seed"].is_unique
    assert (frame["label"] == 1).all() and frame["file"].tolist() == [f"{name}.png" for name in NAMES]
    for name, seed in zip(frame["name"], frame["seed"], strict=True):
        image = read_image(pictures / f"{name}.png", 1)
        alone = vp.inpaint(
            image, mask(), load_tiny("tiny"), 2, 2, guide=guide, label=1, refine_steps=2, device="cpu", seed=int(seed)
        )
        assert torch.equal(samples(tmp_path / "out", name), alone.samples)
    report = json.loads((tmp_path / "out" / "images" / "deep" / "c" / "report.json").read_text())
    assert report["seed"] == frame["seed"][2] and report["labels"] == [1] and len(report["images"]) == 1
    assert report["images"][0]["bound"] == pytest.approx(frame["bound"][2])


@pytest.mark.parametrize(("keep", "more"), [("samples", set()), ("all", {"sample_00.png", "contact_sheet.png"})])
def test_what_is_kept(keep: str, more: set[str], pictures: Path, tmp_path: Path) -> None:
    options = {**FEW, "keep": keep, "num_samples": 1}
    vp.inpaint_many(rows(pictures, ["a"]), mask(), out=tmp_path / "out", **options)
    found = {path.name for path in (tmp_path / "out" / "images" / "a").iterdir()}
    assert found == {".vipaint.json", "samples.safetensors", "report.json"} | more


# Order, company, workers


def test_neither_order_nor_company_matters(pictures: Path, tmp_path: Path) -> None:
    """The rows of a data set, backwards and a part of them, beside the folder."""
    folder = vp.inpaint_many(pictures, mask(), out=tmp_path / "folder", **FEW)
    back = vp.inpaint_many(rows(pictures)[::-1], mask(), out=tmp_path / "back", **FEW)
    part = vp.inpaint_many(rows(pictures, ["deep/d"]), mask(), out=tmp_path / "part", **FEW)
    pd.testing.assert_frame_equal(by_name(folder), by_name(back))
    pd.testing.assert_frame_equal(by_name(folder).loc[["deep/d"]], by_name(part))
    for name in NAMES:
        assert torch.equal(samples(tmp_path / "folder", name), samples(tmp_path / "back", name))
    assert not torch.equal(samples(tmp_path / "folder", "a"), samples(tmp_path / "folder", "b"))


@pytest.mark.parametrize("options", [{"preset": "inference"}, {"preset": "pictures", "steps": 3}])
def test_a_batch_changes_the_last_digits_alone(pictures: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """Batches of two and three, and each picture alone with its seed and the settings of the run."""
    options = {**FEW, **options, "levels": 1}
    for size in (2, 3):
        vp.inpaint_many(pictures, mask(), out=tmp_path / f"{size}", batch=size, **options)
    for name in NAMES:
        two, three = (samples(tmp_path / f"{size}", name) for size in (2, 3))
        torch.testing.assert_close(two, three, atol=1e-5, rtol=0)
        alone = vp.inpaint(
            read_image(pictures / f"{name}.png", 1), mask(), load_tiny("tiny"), 1, 2, seed=seed_of(4, name),
            preset=options["preset"], steps=options.get("steps"), refine_steps=2, device="cpu",
        )  # fmt: skip
        near = 1e-5 if options["preset"] == "pictures" else 0.1  # alone the step of w and tau is taken
        torch.testing.assert_close(two, alone.samples, atol=near, rtol=0)


def test_streams_give_each_image_the_numbers_that_it_has_alone() -> None:
    """For the shapes in which the library draws, also where samples, images and sides are as many."""
    seeds, event = [5, 6, 7], (3, 4, 3)

    def drawn() -> list[Tensor]:
        like = torch.zeros(3, count, *event)
        return [
            torch.empty(3, count, *event).normal_(), torch.randn(count, *event), torch.randn_like(like),
            torch.randn(3, count, 3), torch.randn(count, 20), torch.rand(1, count), torch.normal(like, like + 2),
        ]  # fmt: skip

    count = 3
    with Streams(seeds, event, torch.device("cpu")):
        together = drawn()
    count = 1
    for n, seed in enumerate(seeds):
        torch.manual_seed(seed)
        for alone, all_of_them in zip(drawn(), together, strict=True):
            axis = next(i for i, size in enumerate(alone.shape) if size != all_of_them.shape[i])
            assert torch.equal(all_of_them.narrow(axis, n, 1), alone)


def test_draws_that_belong_to_no_image_are_refused() -> None:
    with Streams([1, 2], (1, 8, 8), torch.device("cpu")):
        with pytest.raises(vp.InputError, match="that belong to no image: use --batch 1"):
            torch.randn(5, 5)
        with pytest.raises(vp.InputError, match="draws by multinomial"):
            torch.multinomial(torch.ones(2, 4), 1)
        assert torch.equal(torch.randn(2, generator=torch.Generator().manual_seed(1)).isfinite(), torch.ones(2) > 0)


# Masks and labels


def test_masks_of_a_folder_go_with_the_names_and_drawn_ones_with_the_seeds(pictures: Path, tmp_path: Path) -> None:
    for number, name in enumerate(NAMES[:-1]):
        path = tmp_path / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, np.roll(half(), number, axis=1))
    frame: Any = vp.inpaint_many(pictures, tmp_path / "masks", out=tmp_path / "out", **FEW).set_index("name")
    assert frame["status"].to_dict() == dict.fromkeys(NAMES[:-1], "done") | {"e": "failed"}
    assert "has no mask e" in frame.loc["e", "error"]
    for number, name in enumerate(NAMES[:-1]):
        found = load_file(tmp_path / "out" / "images" / name / "samples.safetensors")["mask"]
        assert torch.equal(found[0].expand(1, 8, 8), torch.roll(mask(), number, -1))
    vp.inpaint_many(pictures, "rotated-window", out=tmp_path / "drawn", **FEW)
    found = [load_file(tmp_path / "drawn" / "images" / name / "samples.safetensors")["mask"] for name in NAMES]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(found, 2))
    vp.inpaint_many(pictures, "box", out=tmp_path / "box", invert_mask=True, **FEW)
    found = load_file(tmp_path / "box" / "images" / "a" / "samples.safetensors")["mask"]
    assert torch.equal(found, 1 - box(8))


def test_labels_come_from_a_table_a_mapping_or_the_row(pictures: Path, tmp_path: Path) -> None:
    classes = dict(zip(NAMES, [0, 1, 1, 0, 1], strict=True))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        lines = [("label", "file"), *((("cat", "DOG")[label], f"{name}.png") for name, label in classes.items())]
        csv.writer(file).writerows(lines)
    table = vp.inpaint_many(pictures, mask(), out=tmp_path / "table", labels=tmp_path / "labels.csv", **FEW)
    mapping = vp.inpaint_many(pictures, mask(), out=tmp_path / "mapping", labels=classes, **FEW)
    data = [(name, image, mask(), classes[name]) for name, image in rows(pictures)]
    row = vp.inpaint_many(data, out=tmp_path / "row", **FEW)
    for frame in (table, mapping, row):
        assert frame.set_index("name")["label"].to_dict() == classes
    with pytest.raises(vp.InputError, match="labels has none for 1 of 5 pictures, the first is 'e'"):
        vp.inpaint_many(pictures, mask(), out=tmp_path / "x", labels=dict.fromkeys(NAMES[:-1], 0), **FEW)


# Kills, failures, damage


def stop_after(number: int) -> Any:
    def callback(progress: Progress) -> None:
        if progress.step == number:
            raise KeyboardInterrupt

    return callback


def test_an_interrupted_run_ends_as_an_undisturbed_one_and_repeats_nothing(pictures: Path, tmp_path: Path) -> None:
    whole: Any
    again: Any
    with vp.count_calls() as all_calls:
        whole = vp.inpaint_many(pictures, mask(), out=tmp_path / "whole", **FEW)
    for number in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            vp.inpaint_many(pictures, mask(), out=tmp_path / "out", callback=stop_after(number), **FEW)
    with vp.count_calls() as rest:
        again = vp.inpaint_many(pictures, mask(), out=tmp_path / "out", **FEW)
    assert 5 * rest.calls == 2 * all_calls.calls
    pd.testing.assert_frame_equal(by_name(whole), by_name(again))
    for name in NAMES:
        assert torch.equal(samples(tmp_path / "whole", name), samples(tmp_path / "out", name))
    with vp.count_calls() as none:
        pd.testing.assert_frame_equal(vp.inpaint_many(pictures, mask(), out=tmp_path / "out", **FEW), again)
    assert none.calls == 0


def test_what_was_lost_or_cut_off_alone_is_computed_again(pictures: Path, tmp_path: Path) -> None:
    out, done = tmp_path / "out", []
    whole = vp.inpaint_many(pictures, mask(), out=out, **FEW)
    (out / "images" / "b" / "report.json").unlink()
    with (out / "manifest.csv").open("rb+") as file:
        file.truncate(file.seek(0, os.SEEK_END) - 9)  # in the row of e
    again = vp.inpaint_many(pictures, mask(), out=out, callback=lambda step: done.append(step.note), **FEW)
    assert sorted(done) == ["", "b", "e"]
    pd.testing.assert_frame_equal(by_name(again), by_name(whole))


def test_a_damaged_line_is_named_and_computed_again(pictures: Path, tmp_path: Path) -> None:
    whole = vp.inpaint_many(pictures, mask(), out=tmp_path / "out", **FEW)
    path = tmp_path / "out" / "manifest.csv"
    path.write_text(path.read_text().replace("deep/c,", "deep/c", 1))
    with pytest.warns(UserWarning, match="Not read, as damaged: 1 lines"):
        again = vp.inpaint_many(pictures, mask(), out=tmp_path / "out", **FEW)
    pd.testing.assert_frame_equal(by_name(again), by_name(whole))


@pytest.mark.parametrize("number", ["xyz", "9" * 40, "1_0"])
def test_a_row_with_something_else_for_a_number_is_damaged(number: str, pictures: Path, tmp_path: Path) -> None:
    """As after an edit by hand; the largest seed is none of these."""
    whole = vp.inpaint_many(pictures, mask(), out=tmp_path / "out", **FEW)
    path, seed = tmp_path / "out" / "manifest.csv", str(whole["seed"][1])
    path.write_text(path.read_text().replace(seed, str(2**63 - 1)))
    assert vp.inpaint_many(pictures, mask(), out=tmp_path / "out", **FEW)["seed"][1] == 2**63 - 1
    path.write_text(path.read_text().replace(str(2**63 - 1), number))
    with pytest.warns(UserWarning, match="Not read, as damaged: 1 lines"):
        again = vp.inpaint_many(pictures, mask(), out=tmp_path / "out", **FEW)
    pd.testing.assert_frame_equal(by_name(again), by_name(whole))


def test_names_with_all_kinds_of_spaces(tmp_path: Path) -> None:
    """Screenshots have a narrow one before AM; joiners stand inside Persian words. Line breaks are refused."""
    names = ["NA", "Screenshot at 9.41.00\u202fAM", 'a,"b"', "a\u00a0b", "می\u200cخواهم"]
    paint(tmp_path / "pictures", names)
    for _ in range(2):
        frame: Any = vp.inpaint_many(tmp_path / "pictures", mask(), out=tmp_path / "out", **FEW)
        assert frame["name"].tolist() == sorted(names) and (frame["status"] == "done").all()
    for name in ("a\nb", "a\u2028b", "a\u202eb", "a\x85b"):
        with pytest.raises(vp.InputError, match="cannot be that of a folder"):
            vp.inpaint_many([(name, torch.zeros(1, 8, 8))], mask(), out=tmp_path / "other", **FEW)


@pytest.mark.parametrize("name", ["report.json", ".manifest.csv"])
def test_a_full_disk_ends_in_one_line_and_the_run_goes_on(
    name: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = vp.inpaint_many(pictures, mask(), out=tmp_path / "whole", **FEW)
    write, left = Path.write_bytes, [1]

    def full(path: Path, content: bytes) -> int:
        if path.name.startswith(name):
            left[0] -= 1
        if left[0] < 0:
            write(path, content[:5])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patch, pytest.raises(vp.InputError, match=r"written \(No space.*which goes on"):
        patch.setattr(Path, "write_bytes", full)
        vp.inpaint_many(pictures, mask(), out=tmp_path / "out", **FEW)
    half_written = list((tmp_path / "out").rglob("*.part"))
    again = vp.inpaint_many(pictures, mask(), out=tmp_path / "out", **FEW)
    assert not half_written
    pd.testing.assert_frame_equal(by_name(again), by_name(whole))


def test_a_file_in_the_place_of_a_result_stays(pictures: Path, tmp_path: Path) -> None:
    vp.inpaint_many(rows(pictures, ["a"]), mask(), out=tmp_path / "out", **FEW)
    (tmp_path / "out" / "images" / "b").write_text("mine")
    with pytest.raises(vp.InputError, match=r"b cannot be written \(File exists\): mend this"):
        vp.inpaint_many(pictures, mask(), out=tmp_path / "out", **FEW)
    assert (tmp_path / "out" / "images" / "b").read_text() == "mine"


def test_a_bad_picture_is_a_row_and_tried_again_when_asked(pictures: Path, tmp_path: Path) -> None:
    (pictures / "b.png").write_text("no picture")
    frame: Any = vp.inpaint_many(pictures, mask(), out=tmp_path / "out", batch=5, **FEW).set_index("name")
    assert frame["status"].value_counts().to_dict() == {"done": 4, "failed": 1}
    assert "cannot be read as a picture" in frame.loc["b", "error"] and frame.loc["b", "outputs"] == ""
    assert not (tmp_path / "out" / "images" / "b").exists()
    save(pictures / "b.png", ramp())
    for retry, wanted in ((False, "failed"), (True, "done")):
        frame: Any = vp.inpaint_many(pictures, mask(), out=tmp_path / "out", batch=5, retry=retry, **FEW)
        assert frame.set_index("name").loc["b", "status"] == wanted


def test_a_batch_that_fails_fails_for_its_culprit_alone(pictures: Path, tmp_path: Path) -> None:
    data = rows(pictures)
    data[2][1][..., 0] = torch.nan  # an observed pixel
    frame: Any = vp.inpaint_many(data, mask(), out=tmp_path / "out", batch=5, **FEW).set_index("name")
    assert frame["status"].to_dict() == dict.fromkeys(NAMES, "done") | {"deep/c": "failed"}
    assert "finite" in frame.loc["deep/c", "error"]


class Lazy:
    """A data set with names, which counts what is read of it; row ``broken`` cannot be read."""

    def __init__(self, data: list[tuple[str, Tensor]], broken: int | None = None) -> None:
        self.data, self.broken, self.read = data, broken, []
        self.names = [name for name, _ in data]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[str, Tensor]:
        self.read.append(index)
        if index == self.broken:
            raise OSError("the disk\nis gone")
        return self.data[index]


def test_a_data_set_with_names_is_read_where_something_is_missing(pictures: Path, tmp_path: Path) -> None:
    data = Lazy(rows(pictures), broken=1)
    for reads in ([0, 1, 2, 3, 4], []):
        data.read.clear()
        frame: Any = vp.inpaint_many(data, mask(), out=tmp_path / "out", **FEW)
        assert data.read == reads
    assert frame["error"][1].startswith("OSError: the disk is gone")


# Refusals

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no mask": ({"mask": None}, "needs a mask"),
    "an unknown mask": ({"mask": "bix"}, "no mask 'bix'.* box"),
    "several masks": ({"mask": torch.stack([mask(), mask()])}, "One mask"),
    "a black mask": ({"mask": 0 * mask()}, "all 0"),
    "batch 0": ({"batch": 0}, "batch must be at least 1"),
    "two labels": ({"label": 0, "labels": {}}, "omit one of the two"),
    "an unknown class": ({"label": "horse"}, "no class 'horse'"),
    "no such table": ({"labels": "nowhere.csv"}, "nowhere.csv does not exist"),
    "keep": ({"keep": "some"}, "no keep 'some'"),
    "seed": ({"seed": 2**64}, "seed must be"),
    "workers 0": ({"workers": 0}, "workers must be at least 1"),
    "an address": ({"address": "x"}, "goes with the engine ray"),
    "a prior for workers": ({"prior": load_tiny("tiny"), "workers": 2}, "load the prior themselves"),
    "a guide as an object": ({"guide": MixtureGuide}, "name of a family"),
    "a guide that learns over images": ({"guide": "FlowGuide", "batch": 2}, "FlowGuide may learn from the other"),
    "steps that a batch shares": ({"steps": 5, "batch": 2}, "use --steps 1, or --batch 1"),
    "a tensor of images": ({"images": torch.zeros(2, 1, 8, 8)}, "images must be a folder"),
    "rows of something else": ({"images": [1, 2]}, "images must be a folder"),
    "names out of the folder": ({"images": [("../x", torch.zeros(1, 8, 8))]}, "cannot be that of a folder"),
    "a name twice": ({"images": [("x", 0), ("x", 0)]}, "Two pictures have the name"),
    "a name that is a folder": ({"images": [("x", 0), ("x/y", 0)]}, "is a picture and a folder"),
    "not a folder": ({"images": "nowhere"}, "not a folder of pictures"),
    "guidance by nothing": ({"guidance_scale": -1.0, "label": 0}, "guidance-scale must be"),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_what_cannot_run_is_refused_before_anything_is_written(
    change: tuple[dict[str, Any], str], pictures: Path, tmp_path: Path
) -> None:
    options = {"images": pictures, "mask": mask(), "out": tmp_path / "out", **FEW, **change[0]}
    with pytest.raises(vp.InputError, match=change[1]), vp.count_calls() as count:
        vp.inpaint_many(**options)
    assert count.calls == 0 and not (tmp_path / "out").exists()


def test_two_pictures_of_one_name_and_results_among_the_pictures_are_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(vp.InputError, match="lie in each other"):
        vp.inpaint_many(pictures, mask(), out=pictures / "out", **FEW)
    Image.fromarray(ramp()).save(pictures / "a.bmp")
    with pytest.raises(vp.InputError, match="results of one name"):
        vp.inpaint_many(pictures, mask(), out=tmp_path / "out", **FEW)


CHANGES = {"seed": 5, "num_samples": 3, "mask": 1 - mask(), "label": 0, "levels": 3, "batches": 2, "keep": "all"}


def test_a_damaged_record_of_what_was_asked_is_refused_and_says_what_to_do(pictures: Path, tmp_path: Path) -> None:
    vp.inpaint_many(pictures, mask(), out=tmp_path / "out", **FEW)
    record = tmp_path / "out" / "run.json"
    record.write_bytes(record.read_bytes()[:20])
    with pytest.raises(vp.InputError, match=r"run\.json cannot be read .* Its run cannot go on: choose another folder"):
        vp.inpaint_many(pictures, mask(), out=tmp_path / "out", **FEW)
    assert record.stat().st_size == 20


@pytest.mark.parametrize("name", [*CHANGES, "weights"])
def test_a_folder_of_other_settings_is_refused(
    name: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"images": pictures, "mask": mask(), "out": tmp_path / "out", **FEW, "preset": "pictures", "steps": 1}
    vp.inpaint_many(**options)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    if name == "weights":
        other = GaussianPrior.diagonal(torch.zeros(1, 8, 8), torch.full((1, 8, 8), 0.6)).diffusion()
        warm_prior.cache_clear()
        monkeypatch.setattr("pyro_vipaint.checks.load_prior", lambda *a, **k: replace(other, name="tiny"))
    else:
        options |= {{"batches": "batch"}.get(name, name): CHANGES[name]}
    with pytest.raises(vp.InputError, match=rf"has results of other .*{name}.*: choose another folder"):
        vp.inpaint_many(**options)
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}


def test_two_runs_at_a_time_do_not_share_a_folder(pictures: Path, tmp_path: Path) -> None:
    def second(progress: Progress) -> None:
        if progress.step == 1:
            with pytest.raises(vp.InputError, match="Another run writes into"):
                vp.inpaint_many(pictures, mask(), out=tmp_path / "out", **FEW)

    assert len(vp.inpaint_many(pictures, mask(), out=tmp_path / "out", callback=second, **FEW)) == 5


def test_a_worker_that_dies_is_a_row(monkeypatch: pytest.MonkeyPatch, pictures: Path, tmp_path: Path) -> None:
    """The engine's answer for it is that of ``_lost``; tests/bench holds the engines to it."""
    monkeypatch.setattr(many_run, "compute", lambda batch, job: many_run._lost(batch))
    frame: Any = vp.inpaint_many(pictures, mask(), out=tmp_path / "out", **FEW)
    assert (frame["status"] == "failed").all() and frame["error"].str.contains("smaller --batch").all()


# Processes

HUNDRED = [f"{number // 10}/{number:03d}" for number in range(100)]
QUICK = ["--samples", "1", "--refine-steps", "1", "--levels", "1", "--device", "cpu", "--threads", "1"]


def command(pictures: Path, out: Path, *options: str) -> list[str]:
    program = [sys.executable, "-m", "pyro_vipaint.cli.main", "inpaint", str(pictures), "--mask", "random-large"]
    return [*program, "--out", str(out), "--keep", "samples", *QUICK, *options]


def finished(out: Path) -> dict[str, int]:
    """The pictures with a row, and when their report was written."""
    path = out / "manifest.csv"
    lines = path.read_bytes().split(b"\n")[1:-1] if path.exists() else []
    names = [line.split(b",")[0].decode() for line in lines]
    return {name: (out / "images" / name / "report.json").stat().st_mtime_ns for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--workers", "2"], ["--engine", "ray", "--workers", "2"]], ids=["two", "ray"])
def test_a_hundred_pictures_killed_twice_lose_and_repeat_nothing(options: list[str], tmp_path: Path) -> None:
    """SIGKILL after a third and after two thirds; the results are bit for bit those of one undisturbed process."""
    if "ray" in options:
        pytest.importorskip("ray")
    pictures, out = paint(tmp_path / "pictures", HUNDRED, 32), tmp_path / "out"
    for part in (30, 60):
        before = finished(out)
        process = subprocess.Popen(
            command(pictures, out, *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 240
        while len(finished(out)) < part and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        after = finished(out)
        assert before.items() <= after.items(), "a finished picture was lost or computed again"
        assert part <= len(after) < 100
    before = finished(out)
    subprocess.run(command(pictures, out, *options), check=True, capture_output=True)
    assert before.items() <= finished(out).items() and len(finished(out)) == 100
    subprocess.run(command(pictures, tmp_path / "one"), check=True, capture_output=True)
    tables: list[Any] = [
        pd.read_csv(folder / "manifest.csv").drop(columns="seconds") for folder in (out, tmp_path / "one")
    ]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert tables[0]["name"].tolist() == HUNDRED and (tables[0]["status"] == "done").all()
    for name in HUNDRED:
        assert torch.equal(samples(out, name), samples(tmp_path / "one", name))
    assert not [path for path in out.rglob(".*") if path.name not in (".vipaint.json", ".lock")]
