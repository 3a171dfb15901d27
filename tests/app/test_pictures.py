"""Uploads, brush strokes and what the page says of a result, against independent computations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.app import pictures, views
from pyro_vipaint.app.job import Job
from pyro_vipaint.cats.parts import shipped_layers
from pyro_vipaint.errors import InputError
from pyro_vipaint.models.measurements.operators import Inpainting
from tests.app.conftest import SHAPE
from tests.pictures import ramp, save

COLOURS = np.stack([ramp(16), 255 - ramp(16), ramp(16)], -1)


def test_an_upload_is_cut_and_averaged(tmp_path: Path) -> None:
    """Each new pixel is the mean of the old ones that it covers, of the largest square around the middle."""
    wide = np.tile(ramp(16), 2)  # 16 × 32
    image, note = pictures.read_upload(save(tmp_path / "wide.png", wide), SHAPE)
    blocks = wide[:, 8:24].reshape(8, 2, 8, 2).mean((1, 3))
    assert torch.allclose(image[0], torch.from_numpy(blocks / 127.5 - 1).float(), atol=1e-6)
    assert note == "wide.png: 32 × 16 pixels, cut to its middle, resized to 8 × 8."


def test_colour_is_refused_or_turned_grey_when_told_so(tmp_path: Path) -> None:
    """One line for a grey prior; the prior in colour takes it as it is."""
    path = save(tmp_path / "colours.png", COLOURS)
    with pytest.raises(InputError, match=r"colours\.png has colours and the prior is grey: tick"):
        pictures.read_upload(path, SHAPE)
    assert pictures.read_upload(path, SHAPE, grey=True)[0].shape == SHAPE
    assert (
        pictures.read_upload(path, (3, 16, 16))[0]
        .permute(1, 2, 0)
        .mul(127.5)
        .add(127.5)
        .round()
        .byte()
        .equal(torch.from_numpy(COLOURS))
    )


def test_uploads_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many bytes, too many pixels (before they are decoded) and what is no picture: one line each."""
    bomb = tmp_path / "bomb.png"
    Image.new("1", (6000, 6000)).save(bomb)
    (tmp_path / "text.png").write_text("no picture")
    path = save(tmp_path / "ramp.png", ramp(64))
    (tmp_path / "cut.png").write_bytes(path.read_bytes()[:200])
    decoded: list[Path] = []
    original = pictures.read_image
    monkeypatch.setattr(pictures, "read_image", lambda path, n: decoded.append(path) or original(path, n))
    for name, message in {
        "bomb.png": "has 6000 × 6000 pixels; at most 25 million", "text.png": "cannot be read as a picture",
        "no.png": "does not exist|No such file",
    }.items():  # fmt: skip
        with pytest.raises((InputError, OSError), match=message) as caught:
            pictures.read_upload(tmp_path / name, SHAPE)
        assert "\n" not in str(caught.value)
    assert decoded == []
    with pytest.raises(InputError, match="cannot be read as a picture"):
        pictures.read_upload(tmp_path / "cut.png", SHAPE)
    monkeypatch.setattr(pictures, "MAX_BYTES", 10)
    with pytest.raises(InputError, match="at most 10 are read"):
        pictures.read_upload(path, SHAPE)


def strokes(*blocks: tuple[slice, slice], size: int = 80) -> dict[str, list[np.ndarray]]:
    """The value of an image editor of 80 × 80 with opaque rectangles."""
    layer = np.zeros((size, size, 4), np.uint8)
    for block in blocks:
        layer[block] = 255
    return {"layers": [layer]}


def test_strokes_hide_the_pixels_that_they_cover_by_half() -> None:
    """Ten canvas pixels to a side: a stroke over six of them hides a pixel, one over four does not."""
    share = pictures.painted(strokes((slice(0, 10), slice(0, 6)), (slice(20, 30), slice(0, 4))), (8, 8))
    mask = pictures.mask_of(share)
    assert torch.allclose(share[0, :3, 0], torch.tensor([0.6, 0.0, 0.4]))
    assert mask[0, 0, 0] == 0 and mask.sum() == 63
    for value in ({"layers": []}, None, strokes((slice(0, 80), slice(0, 80)))):
        with pytest.raises(InputError, match="There is nothing to complete"):
            pictures.mask_of(pictures.painted(value, (8, 8)))


def test_a_canvas_shows_each_pixel_as_a_square_that_paints_it() -> None:
    """What is enlarged for the canvas comes back as the pixels that were meant."""
    image = torch.linspace(-1, 1, 32 * 32).reshape(1, 32, 32)
    assert pictures.enlarged(image).shape == (512, 512, 3) and pictures.zoom((32, 32)) == 16
    hidden = pictures.middle_hidden(image)
    layer = hidden[0].numpy().astype(np.uint8).repeat(16, 0).repeat(16, 1)[..., None].repeat(4, 2) * 255
    assert torch.equal(pictures.mask_of(pictures.painted({"layers": [layer]}, (32, 32))), 1 - hidden)
    assert hidden.sum() == 16 * 16


def test_softness_is_a_gaussian_blur() -> None:
    """Equal to SciPy's with the edge repeated, but for what is nearly 0 or 1."""
    share = pictures.middle_hidden(torch.zeros(1, 32, 32))
    soft = pictures.mask_of(share, 1.5)[0].numpy()
    blurred = gaussian_filter(1 - share[0].numpy(), 1.5, mode="nearest", radius=5)
    assert np.abs(soft - blurred).max() <= pictures.TRACE + 1e-5
    between = (blurred > pictures.TRACE) & (blurred < 1 - pictures.TRACE)
    assert np.allclose(soft[between], blurred[between], atol=1e-5) and 0 < between.sum() < between.size


def of_samples(samples: Tensor, mask: Tensor) -> vp.Result:
    """A result that has samples alone."""
    picture, fit = samples[0], vp.Fit([], {}, 0, 0, 0.0)
    return vp.Result(samples, picture, Inpainting(mask), fit, None, 0, 0, 0.0, picture)  # type: ignore[arg-type]


def test_the_probability_of_a_region_is_a_share_of_samples() -> None:
    """It equals the share by hand, for the pixels of the region alone; an empty region is refused."""
    samples = torch.randn(200, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    region = torch.zeros(1, 8, 8, dtype=torch.bool)
    region[0, 2:4, 5] = True
    share = (samples[:, 0, :, 2:4, 5].mean((1, 2)) > 0.3).float().mean()
    assert views.brighter(region, 0.3)(samples).shape == (200, 1)
    sentence = views.probability_sentence(of_samples(samples, torch.ones(1, 8, 8)), region, 0.3)
    assert f"P(mean of 2 painted pixels > +0.30) = **{share:.2f}**" in sentence
    with pytest.raises(InputError, match="No region is painted"):
        views.brighter(region & False, 0.3)


def test_the_interval_of_a_pixel() -> None:
    """Its ends are Weibull quantiles of that pixel's samples; ten samples cannot carry 95 %."""
    samples = torch.rand(19, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    result = of_samples(samples, torch.ones(1, 8, 8))
    ends = views.pixel_interval(result, 0.8)
    low, high = np.quantile(samples[:, 0, 0, 6, 2].numpy(), [0.1, 0.9], method="weibull")
    sentence = views.pixel_sentence(result, *ends, 0.8, (6, 2))
    assert sentence.startswith("Row 6, column 2 (observed)") and f"80% interval {low:+.2f} to {high:+.2f}." in sentence
    with pytest.raises(InputError, match="samples"):
        views.pixel_interval(of_samples(samples[:10], torch.ones(1, 8, 8)), 0.95)


def test_parts_of_exact_pictures() -> None:
    """With nothing hidden but a corner the posterior is sure of the parts, and the classifier reads them in samples."""
    layers = shipped_layers("faces32")
    index = torch.tensor([[1, 2, 3, 3, 1, 40]])
    image, mask = layers.compose(index)[0], torch.ones(1, 32, 32)
    mask[:, :2, :2] = 0
    asked = Job(image, mask, "faces32")
    parts = views.exact_parts(asked, of_samples(image.expand(3, 1, 3, 32, 32), mask[None]))
    assert parts is not None
    truth = {slot: int(layers.classes[slot][number]) for slot, number in zip(layers.parts, index[0], strict=True)}
    assert all(parts.exact[slot].sum() == pytest.approx(1, abs=1e-5) for slot in truth)
    sure = {slot: int(p.argmax()) for slot, p in parts.exact.items() if p.max() > views.DECIDED}
    assert sure and sure == {slot: truth[slot] for slot in sure}
    assert all(int(parts.sampled[slot].argmax()) == number for slot, number in sure.items())
    assert "What is visible decides" in views.parts_sentence(parts)
    with pytest.raises(InputError, match="sharp edge"):
        views.exact_parts(Job(image, mask * 0.5, "faces32"), of_samples(image[None, None], mask[None]))
    assert views.exact_parts(Job(image[:1], mask, "fashion32"), of_samples(image[None, None, :1], mask[None])) is None
