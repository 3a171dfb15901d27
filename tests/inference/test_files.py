"""Files: whole or not there at all, and what pictures mean."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pyro_vipaint as vp
from pyro_vipaint._files import read_image, read_mask, write_whole
from pyro_vipaint.models.measurements.masks import rotated_window
from tests.pictures import half, ramp, save


def interrupt(*arguments: Any, **named: Any) -> None:
    raise KeyboardInterrupt


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


@pytest.mark.parametrize("mode", ["JPEG", "smoothed", "enlarged"])
def test_grey_along_the_edges_of_a_mask_is_no_grey_area(tmp_path: Path, mode: str) -> None:
    pixels = (rotated_window(64, seed=4)[0, 0].numpy() * 255).astype(np.uint8)
    picture = Image.fromarray(pixels)
    if mode == "JPEG":
        picture.save(tmp_path / "mask.png", "JPEG", quality=50)
    else:
        size = (48, 48) if mode == "smoothed" else (128, 128)
        picture.resize(size, Image.Resampling.BILINEAR).save(tmp_path / "mask.png")
    assert 0.3 < read_mask(tmp_path / "mask.png").mean() < 0.7


@pytest.mark.parametrize("mode", ["L", "F"])
def test_a_photograph_is_no_mask(tmp_path: Path, mode: str) -> None:
    """Nor is a mask with a grey area, in any depth."""
    area = half()
    area[2:4] = 128
    for number, pixels in enumerate((ramp(32), area)):
        path = tmp_path / f"{number}.tiff"
        save(path, pixels if mode == "L" else pixels.astype(np.float32) / 255)
        with pytest.raises(vp.InputError, match="has grey areas, as a photograph has: save the mask in black"):
            read_mask(path)


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
