r"""The samples of one image in a notebook: views, quantiles, and a brush.

The widget draws one *view*: the mean, the standard deviation, a sample, or the quantile q of each pixel,

.. math:: Q_q(x_i) = \inf\{v : \#\{s : x_i^{(s)} \le v\} / S \ge q\}

interpolated linearly between neighbouring samples as :func:`torch.quantile` does. Python computes the view and sends
its bytes; the page draws them and sends back what the brush has painted. ``browser.js`` beside this file asks no
server for anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import torch
import traitlets
from torch import Tensor

from pyro_vipaint.errors import InputError, choice, number, numbers, whole
from pyro_vipaint.plotting.pictures import are_pictures, deviations, to_picture

if TYPE_CHECKING:
    from pyro_vipaint.results import Result

VIEWS = ("quantile", "mean", "std", "sample")


class Browser(anywidget.AnyWidget):
    """A widget over the samples of one image of a result.

    Args:
        result: of :func:`pyro_vipaint.inpaint` or :func:`pyro_vipaint.restore`, with grey or colour images.
        image: which one.

    ``view`` (``quantile``, ``mean``, ``std`` or ``sample``), ``quantile`` (0 to 1) and ``sample`` (from 0) say what is
    drawn, from Python as well as in the page. :attr:`shown` is the image itself; :attr:`mask` what the brush left.

    Raises:
        InputError: there is no such image, or the samples are no pictures.
    """

    _esm = Path(__file__).with_name("browser.js")
    picture = traitlets.Bytes().tag(sync=True)
    painted = traitlets.Bytes().tag(sync=True)
    size = traitlets.Tuple(traitlets.Int(), traitlets.Int()).tag(sync=True)
    count = traitlets.Int().tag(sync=True)
    view = traitlets.Enum(VIEWS, "mean").tag(sync=True)
    quantile = traitlets.Float(0.5).tag(sync=True)
    sample = traitlets.Int(0).tag(sync=True)
    largest = traitlets.Float(1.0).tag(sync=True)

    def __init__(self, result: Result, image: int = 0) -> None:
        if not are_pictures(result.samples):
            raise InputError("only grey and colour images can be browsed.")
        whole("image", image, 0, result.samples.shape[1] - 1)
        self._samples = result.samples[:, image]
        spread, largest = deviations(result)
        self._spread = spread[image]
        height, width = self._samples.shape[-2:]
        super().__init__(size=(height, width), count=len(self._samples), largest=largest, painted=bytes(height * width))
        self.observe(self._draw, ["view", "quantile", "sample"])
        self._draw()

    @property
    def mask(self) -> Tensor:
        """1 = observed, 0 where the brush has painted, ``(1, H, W)`` floats: what :func:`pyro_vipaint.inpaint` takes.

        It may be set: a tensor of zeros and ones that broadcasts to ``(1, H, W)``.
        """
        hidden = torch.frombuffer(bytearray(self.painted), dtype=torch.uint8) != 0
        return (~hidden).float().reshape(1, *self.size)

    @mask.setter
    def mask(self, mask: Tensor) -> None:
        numbers("mask", mask.float(), (..., *self.size), low=0, high=1)
        if mask.numel() != self.size[0] * self.size[1]:
            raise InputError(f"the mask has shape {tuple(mask.shape)}, not (1, {self.size[0]}, {self.size[1]}).")
        self.painted = (mask.reshape(-1) < 0.5).to(torch.uint8).cpu().numpy().tobytes()

    @property
    def shown(self) -> Tensor:
        """The view as an image ``(C, H, W)``; of ``std`` the standard deviation."""
        if self.view == "quantile":
            return self._samples.quantile(self.quantile, dim=0)
        if self.view == "sample":
            return self._samples[self.sample]
        return self._samples.mean(0) if self.view == "mean" else self._std()

    @traitlets.validate("quantile")
    def _within(self, proposal: Any) -> float:
        return min(max(number("quantile", proposal["value"], signed=True), 0.0), 1.0)

    @traitlets.validate("sample")
    def _existing(self, proposal: Any) -> int:
        return min(max(proposal["value"], 0), max(self.count - 1, 0))

    @traitlets.validate("painted")
    def _whole_mask(self, proposal: Any) -> bytes:
        """What a page sends must be one byte per pixel, 0 or 1."""
        found = bytes(proposal["value"])
        if len(found) != self.size[0] * self.size[1]:
            raise traitlets.TraitError("a mask has one byte per pixel")
        return (np.frombuffer(found, np.uint8) != 0).astype(np.uint8).tobytes()

    def _std(self) -> Tensor:
        return self._samples.std(0, correction=1 if len(self._samples) > 1 else 0)

    def _draw(self, _change: Any = None) -> None:
        choice("view", self.view, VIEWS)
        picture = self._spread if self.view == "std" else to_picture(self.shown)
        self.picture = np.ascontiguousarray(picture).tobytes()
