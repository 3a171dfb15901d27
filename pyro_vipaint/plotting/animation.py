"""Animations without ffmpeg: frames of bytes that Pillow writes as a GIF, which a page of HTML may hold."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vipaint._files import write_whole
from pyro_vipaint._repr import compact
from pyro_vipaint.errors import InputError
from pyro_vipaint.plotting.pictures import are_pictures, enlarged, observations, pictures, sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyro_vipaint.results import Result
    from pyro_vipaint.svi import Fit

SIDE = 128  # least pixels of a picture's side
ROWS = 4  # images that are shown
STEP_MS, HOLD_MS, FADE_MS, END_MS = 120, 700, 60, 1500
FADE = 5  # frames between two samples
DPI = 100


@dataclass(frozen=True, eq=False)
class Animation:
    """Frames ``(H, W, 3)`` of bytes, and how many milliseconds each is seen. A notebook shows it as it is.

    Attributes:
        frames: all of one size.
        milliseconds: one number per frame.
        title: what is seen.
    """

    frames: Sequence[np.ndarray] = field(repr=False)
    milliseconds: Sequence[int]
    title: str

    __repr__ = compact

    def save(self, path: str | Path) -> None:
        """Writes a GIF, or a page of HTML that holds it, by the ending of ``path``.

        Raises:
            InputError: the ending is another, or the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() not in (".gif", ".html"):
            raise InputError(f"an animation is written as .gif or .html, not as {path.name!r}.")
        gif = path.suffix.lower() == ".gif"
        content = self.gif() if gif else f"<!doctype html><meta charset=utf-8>{self._repr_html_()}".encode()
        try:
            write_whole(path, content)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}.") from error

    def gif(self) -> bytes:
        """The animation as a GIF that repeats; each frame has at most 256 colours of its own."""
        from PIL import Image

        first, *others = (Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE) for frame in self.frames)
        buffer = BytesIO()
        first.save(
            buffer, "GIF", save_all=True, append_images=others, duration=list(self.milliseconds), loop=0, disposal=1
        )
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        link = base64.b64encode(self.gif()).decode()
        title = escape(self.title)
        return (
            f'<figure><img src="data:image/gif;base64,{link}" alt="{title}"><figcaption>{title}</figcaption></figure>'
        )


def fit_animation(fit: Fit) -> Animation:
    """The images that the model predicted at the kept steps of a fit, beside the bound up to that step.

    Up to four images, one below the other. No network call.

    Raises:
        InputError: the fit kept no images, or its model predicts something else than pictures.
    """
    if fit.images is None or not are_pictures(fit.images):
        raise InputError("the fit kept no pictures: fit a DiffusionModel of images with keep=24 or more.")
    kept = fit.images[:, :ROWS].float() / 127.5 - 1
    columns = [[enlarged(picture, SIDE) for picture in pictures(images)] for images in kept]
    frames = list(_beside_the_bound(fit, [sheet([column])[0] for column in columns]))
    title = f"The prediction during {len(fit.losses)} steps of the fit, and the bound on log p(y)"
    return Animation(frames, [*[STEP_MS] * (len(frames) - 1), END_MS], title)


def samples_animation(result: Result) -> Animation:
    """The samples of a result one after the other, each fading into the next, beside what was observed.

    What moves is what the posterior leaves open. Up to four images, one below the other. No network call.

    Raises:
        InputError: the samples are no grey or colour images.
    """
    if not are_pictures(result.samples):
        raise InputError("only grey and colour images can be animated.")
    still = [observations(result)] if are_pictures(result.observation) and result.observation.ndim == 4 else []
    frames, milliseconds = [], []
    count = len(result.samples)
    for i in range(count):
        now, following = (result.samples[j % count] for j in (i, i + 1))
        for k in range(FADE + 1 if count > 1 else 1):
            column = pictures(now + k / (FADE + 1) * (following - now))
            shown = [[enlarged(picture, SIDE) for picture in part[:ROWS]] for part in (*still, column)]
            frames.append(sheet(shown)[0])
            milliseconds.append(FADE_MS if k else HOLD_MS)
    return Animation(frames, milliseconds, f"{count} posterior samples" + (", beside the observation" if still else ""))


def _beside_the_bound(fit: Fit, sheets: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Frames of one figure: the sheet of a step, and the curve of the bound with a dot there."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = sheets[0].shape[:2]
    curve = max(320, width)
    total = (width + curve, max(height, 220))
    figure: Figure = Figure(figsize=(total[0] / DPI, total[1] / DPI), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    left = figure.add_axes((0, 1 - height / total[1], width / total[0], height / total[1]))
    left.set_axis_off()
    shown = left.imshow(sheets[0], interpolation="nearest", aspect="auto")
    axes = figure.add_axes((
        (width + 70) / total[0], 45 / total[1], (curve - 85) / total[0], (total[1] - 60) / total[1],
    ))  # fmt: skip
    values = fit.bounds.double().sum(1).numpy() if fit.terms else -np.asarray(fit.losses)
    steps = np.arange(1, len(values) + 1)
    _set_limits(axes, values)
    axes.plot(steps, values, color="0.8", linewidth=1)
    (line,) = axes.plot([], [], color="C0", linewidth=1.2)
    (dot,) = axes.plot([], [], "o", color="C0", clip_on=False)
    axes.set_xlabel("step", fontsize=8)
    axes.set_ylabel("log p(y), all images, nats" if fit.terms else "-objective", fontsize=8)
    axes.tick_params(labelsize=7)
    for step, picture in zip(fit.image_steps, sheets, strict=True):
        shown.set_data(picture)
        line.set_data(steps[:step], values[:step])
        low, high = axes.get_ylim()
        dot.set_data([step], [min(max(values[step - 1], low), high)])
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _set_limits(axes: Any, values: np.ndarray) -> None:
    """Those of most steps."""
    from pyro_vipaint.plotting.figures import robust_limits

    low, high = robust_limits(values)
    pad = 0.05 * (high - low) or 1.0
    axes.set_ylim(low - pad, high + pad)
    axes.set_xlim(0.5, len(values) + 0.5)
