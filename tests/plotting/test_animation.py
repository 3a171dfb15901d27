"""An animation shows the images themselves, and costs no network call."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import pyro_vipaint as vp
from pyro_vipaint.guides import HierarchicalGuide
from pyro_vipaint.plotting import Animation, to_picture
from pyro_vipaint.plotting.animation import FADE, SIDE
from pyro_vipaint.plotting.pictures import enlarged
from pyro_vipaint.svi import _spread
from tests.plotting.results import fitted, problem, result_of


def test_the_kept_steps_are_spread_evenly_and_end_with_the_last() -> None:
    for steps in (1, 2, 7, 100):
        for keep in (0, 1, 2, 5, 24):
            kept = sorted(_spread(steps, keep))
            assert len(kept) == min(keep, steps) and (not kept or kept[-1] == steps)
            gaps = np.diff(kept)
            assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
            assert len(kept) < 2 or kept[0] == 1


def test_a_fit_keeps_what_its_model_predicted_and_no_call_is_made() -> None:
    """The bytes are those of the images that a callback is told; keeping changes nothing else."""
    model, y = problem()
    told: list[torch.Tensor] = []

    def run(keep: int) -> vp.Fit:
        guide = HierarchicalGuide(model, y)
        note = (lambda step: told.append(step.images)) if keep else None
        return vp.fit(model, guide, y, vp.BetaELBO(), 9, keep=keep, seed=0, callback=note)

    fit, bare = run(4), run(0)
    assert fit.losses == bare.losses and fit.calls == bare.calls and bare.images is None
    assert fit.images is not None and fit.images.shape == (4, *y.shape)
    for step, images in zip(fit.image_steps, fit.images, strict=True):
        expected = np.stack([to_picture(x)[..., 0] for x in told[step - 1]])
        assert np.array_equal(images[:, 0].numpy(), expected)
    with vp.count_calls() as count:
        fit.animate()
    assert count.calls == 0


def test_the_frames_of_a_fit_are_its_images() -> None:
    fit = fitted()
    animation = fit.animate()
    assert fit.images is not None and len(animation.frames) == len(fit.image_steps) == 4
    for frame, images in zip(animation.frames, fit.images, strict=True):
        for i, picture in enumerate(images):
            large = enlarged(picture[0].numpy()[..., None].repeat(3, 2), SIDE)
            height, width = large.shape[:2]
            top = i * (height + round(0.1 * width))
            assert np.array_equal(frame[top : top + height, :width], large)
    assert not np.array_equal(animation.frames[0][:, -300:], animation.frames[1][:, -300:]), "the dot moves"


def test_a_resumed_fit_shows_both_parts_and_a_saved_one_itself(tmp_path: Path) -> None:
    first = fitted(average=3)
    both = fitted(resume=first)
    assert both.image_steps == (*first.image_steps, *(step + 9 for step in first.image_steps))
    assert both.images is not None and len(both.images) == 8 and (first.average, both.average) == (3, 0)
    first.save_pretrained(tmp_path)
    loaded = vp.Fit.load(tmp_path)
    assert loaded.images is not None and first.images is not None and torch.equal(loaded.images, first.images)
    assert (loaded.image_steps, loaded.average) == (first.image_steps, 3)


def test_samples_fade_into_each_other_and_the_last_into_the_first() -> None:
    samples = torch.rand(3, 2, 1, 6, 8) * 2 - 1
    animation = result_of(samples).animate()
    assert len(animation.frames) == 3 * (FADE + 1)
    height, width = (side * 22 for side in (6, 8))  # 22 is the least factor that reaches 128
    gap = round(0.1 * width)

    def shown(frame: np.ndarray, image: int) -> np.ndarray:
        top = image * (height + gap)
        return frame[top : top + height, width + gap :][::22, ::22]

    for i in range(3):
        for image in range(2):
            at = i * (FADE + 1)
            assert np.array_equal(shown(animation.frames[at], image), to_picture(samples[i, image]))
            midway = (samples[i, image] + samples[(i + 1) % 3, image]) / 2
            assert np.array_equal(shown(animation.frames[at + (FADE + 1) // 2], image), to_picture(midway))


def test_one_sample_stands_still() -> None:
    assert len(result_of(torch.zeros(1, 1, 3, 6, 8), mask=torch.ones(1, 1, 6, 8)).animate().frames) == 1


@pytest.mark.parametrize("colour", [False, True])
def test_a_gif_holds_the_frames_and_their_times(colour: bool, tmp_path: Path) -> None:
    frames = [np.random.default_rng(i).integers(0, 256, (9, 11, 3), np.uint8) for i in range(3)]
    frames = frames if colour else [np.repeat(frame[..., :1], 3, 2) for frame in frames]
    animation = Animation(frames, [100, 200, 300], "<three>")
    animation.save(tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as gif:
        read = [(np.asarray(page.convert("RGB")), page.info["duration"]) for page in ImageSequence.Iterator(gif)]
    assert [duration for _, duration in read] == [100, 200, 300]
    for frame, (found, _) in zip(frames, read, strict=True):
        assert np.abs(found.astype(int) - frame).max() <= 1
    page = (animation.save(tmp_path / "a.html"), (tmp_path / "a.html").read_text())[1]
    assert "<script" not in page and "&lt;three&gt;" in page and "http" not in page


def test_what_cannot_be_animated_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(vp.InputError, match="kept no pictures"):
        fitted(keep=0).animate()
    with pytest.raises(vp.InputError, match="only grey and colour"):
        result_of(torch.zeros(2, 1, 2, 6, 8), mask=torch.ones(1, 1, 6, 8)).animate()
    animation = Animation([np.zeros((2, 2, 3), np.uint8)], [10], "")
    with pytest.raises(vp.InputError, match=r"as \.gif or \.html"):
        animation.save(tmp_path / "a.mp4")
    with pytest.raises(vp.InputError, match="cannot be written"):
        animation.save(tmp_path / "nowhere" / "a.gif")
    assert not list(tmp_path.iterdir())
    assert BytesIO(animation.gif()).getvalue()[:3] == b"GIF"
