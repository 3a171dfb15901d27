"""Files: whole or not there at all, folders of results, and what pictures mean."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pyro_vipaint as vp
from pyro_vipaint._files import check_out, read_image, read_mask, sample_names, whole_folder, write_whole
from pyro_vipaint.models.measurements.masks import rotated_window
from tests.pictures import half, ramp, save


def interrupt(*arguments: Any, **named: Any) -> None:
    raise KeyboardInterrupt


def write_results(out: Path, num_samples: int) -> None:
    """A report of that many samples, and their pictures."""
    with whole_folder(out) as folder:
        (folder / "report.json").write_text(json.dumps({"num_samples": num_samples, "images": [{}]}))
        for name in sample_names(num_samples, 1):
            (folder / name).write_text("a sample")


# whole or not at all


def test_a_file_is_whole_or_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_whole(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.json"]
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_folder_appears_when_the_block_has_ended_well(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "a" / "out") as temporary:
        (temporary / "one.txt").write_text("1")
        assert not (tmp_path / "a" / "out" / "one.txt").exists()
    assert os.listdir(tmp_path / "a" / "out") == ["one.txt"]
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "b") as temporary:
        (temporary / "one.txt").write_text("1")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["a"]


def test_an_old_report_does_not_vouch_for_new_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder whose files were not all moved has no report."""
    (tmp_path / "report.json").write_text("old")
    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_results(tmp_path, 1)
    assert os.listdir(tmp_path) == []


# folders of results


def test_results_go_to_a_new_folder_an_empty_one_or_one_of_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for out in (tmp_path, tmp_path / "new", tmp_path / "new" / "er", Path("relative"), Path(".")):
        check_out(out)
    assert os.listdir(tmp_path) == []
    write_results(tmp_path / "out", 3)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    check_out(tmp_path / "out")
    (tmp_path / "bench" / "cells").mkdir(parents=True)
    check_out(tmp_path / "bench")


def other_files(out: Path) -> None:
    out.mkdir()
    (out / "notes.txt").write_text("mine")


def a_picture_of_the_user(out: Path) -> None:
    write_results(out, 2)
    (out / "sample_02.png").write_text("mine")


BAD_OUTS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "a file": (Path.touch, "", "cannot be written"),
    "below a file": (Path.touch, "below", "cannot be written"),
    "other files": (other_files, "", "notes.txt, not only results"),
    "a picture that no report names": (a_picture_of_the_user, "", "sample_02.png, not only results"),
}


@pytest.mark.parametrize(("make", "below", "message"), BAD_OUTS.values(), ids=BAD_OUTS)
def test_other_paths_are_refused(tmp_path: Path, make: Callable[[Path], Any], below: str, message: str) -> None:
    """Nothing of the user is overwritten or deleted."""
    make(tmp_path / "out")
    with pytest.raises(vp.InputError, match=f"{message}.*name another folder"):
        check_out(tmp_path / "out" / below)


def test_a_picture_that_the_run_reads_is_not_replaced(tmp_path: Path) -> None:
    """Nor the picture behind a link."""
    write_results(tmp_path / "out", 2)
    (tmp_path / "link.png").symlink_to(tmp_path / "out" / "sample_01.png")
    for picture in (tmp_path / "out" / "sample_01.png", tmp_path / "link.png"):
        with pytest.raises(vp.InputError, match="lies in the folder of the results"):
            check_out(tmp_path / "out", None, picture)
    check_out(tmp_path / "other", tmp_path / "link.png")


# pictures


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "F"])
def test_modes_of_pictures(tmp_path: Path, mode: str) -> None:
    """Colour, transparency, palettes and deeper greys are read as the grey picture that they hold."""
    deep = {"I;16": ramp().astype(np.uint16) * 257, "F": ramp().astype(np.float32) / 255}
    path = save(tmp_path / "x.tiff", deep.get(mode, ramp()))
    if mode not in deep:
        path = tmp_path / "x.png"
        Image.fromarray(ramp()).convert(mode).save(path)
    grey = read_image(save(tmp_path / "grey.png", ramp()), 1)
    torch.testing.assert_close(read_image(path, 1), grey, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["1", "RGBA", "0 and 1", "I;16", "F"])
def test_modes_of_masks(tmp_path: Path, mode: str) -> None:
    """A mask file may have one bit, a palette, colours, deeper greys, or bytes that are 0 and 1."""
    pixels = {"0 and 1": half() // 255, "I;16": half().astype(np.uint16) * 257, "F": half().astype(np.float32) / 255}
    path = save(tmp_path / "mask.tiff", pixels.get(mode, half()))
    if mode not in pixels:
        path = tmp_path / "mask.png"
        Image.fromarray(half()).convert(mode).save(path)
    expected = torch.from_numpy(half() > 0).float().unsqueeze(0)
    assert torch.equal(read_mask(path), expected)
    assert torch.equal(read_mask(path, invert=True), 1 - expected)


def test_masks_that_are_neither_white_nor_black(tmp_path: Path) -> None:
    """Transparent in places, or NaN, which would be observed in an inverted mask."""
    picture = Image.fromarray(half()).convert("RGBA")
    picture.putalpha(Image.fromarray(half()))
    picture.save(tmp_path / "mask.png")
    values = half().astype(np.float32) / 255
    values[0, 0] = np.nan
    for path in (tmp_path / "mask.png", save(tmp_path / "mask.tiff", values)):
        for invert in (False, True):
            with pytest.raises(vp.InputError, match="in places: save the mask in black and white"):
                read_mask(path, invert)


def test_a_colour_palette_is_its_colours(tmp_path: Path) -> None:
    """The indices of a palette are not its greys."""
    picture = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    picture.putpalette([255, 255, 255, 0, 0, 0])
    assert picture.mode == "P"
    picture.save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png", 1).tolist() == [[[1.0, -1.0]]]
    assert read_mask(tmp_path / "p.png").tolist() == [[[1.0, 0.0]]]


def test_bytes_become_minus_one_to_one(tmp_path: Path) -> None:
    """0, 127.5 and 255 are -1, 0 and 1, in every channel; so are 0, .5 and 1 in floats. Red is the first channel."""
    path = save(tmp_path / "x.png", np.array([[0, 51, 255]], dtype=np.uint8))
    image = read_image(path, 3)
    torch.testing.assert_close(image, torch.tensor([-1.0, -0.6, 1.0]).expand(3, 1, 3))
    deep = save(tmp_path / "x.tiff", np.array([[0, 0.2, 1]], dtype=np.float32))
    torch.testing.assert_close(read_image(deep, 3), image)
    colour = save(tmp_path / "c.png", np.array([[[255, 0, 51]]], dtype=np.uint8))
    torch.testing.assert_close(read_image(colour, 3).flatten(), torch.tensor([1.0, -1.0, -0.6]))


def test_pictures_are_turned_as_the_camera_says(tmp_path: Path) -> None:
    """The EXIF orientation of a photograph is applied, as picture viewers do."""
    picture = Image.fromarray(np.array([[0, 255], [0, 255], [0, 255]], dtype=np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6  # to be shown after a quarter turn clockwise
    picture.save(tmp_path / "x.png", exif=exif)
    assert read_image(tmp_path / "x.png", 1)[0].tolist() == [[-1.0] * 3, [1.0] * 3]


@pytest.mark.parametrize("size", [(8, 8), (21, 10), (30, 30), (47, 33)])
def test_resizing_keeps_hidden_pixels_out_of_observed_ones(tmp_path: Path, size: tuple[int, int]) -> None:
    """Pictures that differ in the hole alone are equal on the observed pixels of the resized mask."""
    mask = rotated_window(30, seed=4)[0, 0].numpy().astype(bool)
    generator = np.random.default_rng(0)
    observed, hole = (generator.integers(0, 256, (30, 30), dtype=np.uint8) for _ in range(2))
    save(tmp_path / "mask.png", mask.astype(np.uint8) * 255)
    save(tmp_path / "a.png", observed)
    save(tmp_path / "b.png", np.where(mask, observed, hole))
    a, b = (read_image(tmp_path / name, 1, size) for name in ("a.png", "b.png"))
    seen = read_mask(tmp_path / "mask.png", size=size).bool()
    assert 0.25 < seen.float().mean() < 0.75
    assert torch.equal(a[seen], b[seen]) and not torch.equal(a, b)
    inverse = read_mask(tmp_path / "mask.png", invert=True, size=size).bool()
    assert not (seen & inverse).any()


def truncated(path: Path) -> None:
    content = save(path, np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def with_value(value: float) -> Callable[[Path], Any]:
    """A picture on [0, 1] but for one pixel."""
    pixels = ramp().astype(np.float32) / 255
    pixels[3, 2] = value
    return lambda path: save(path, pixels)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a text": (lambda path: path.write_text("not a picture"), "cannot be read as a picture"),
    "truncated": (truncated, "cannot be read as a picture"),
    "missing": (lambda path: None, "does not exist"),
    "below zero": (with_value(-0.5), "has pixels from -0.5 to"),
    "too large": (with_value(1e6), r"has pixels from 0 to 1e\+06"),
}


@pytest.mark.parametrize(("make", "message"), BROKEN.values(), ids=BROKEN)
def test_files_that_are_no_pictures(tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
    path = tmp_path / "x.tiff"
    if make is truncated:
        path = path.with_suffix(".png")
    make(path)
    for read in (lambda: read_image(path, 1), lambda: read_mask(path)):
        with pytest.raises(vp.InputError, match=message):
            read()
