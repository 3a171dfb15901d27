"""Pictures: figures by matplotlib, animations by Pillow, a widget for notebooks.

- ``pictures.py``: images as bytes, sheets of them, scales of colour;
- ``figures.py``: the contact sheet of a result, the course of a fit, a comparison;
- ``animation.py``: a fit over its steps, the samples of a result one after the other, as GIF or HTML;
- ``browser.py``, ``browser.js``: the samples in a notebook, with quantiles and a brush for the mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_vipaint.errors import InputError
from pyro_vipaint.plotting.animation import Animation, fit_animation, samples_animation
from pyro_vipaint.plotting.figures import comparison_figure, contact_sheet, fit_figure
from pyro_vipaint.plotting.pictures import HIDDEN, pictures_html, to_picture

if TYPE_CHECKING:
    from pyro_vipaint.plotting.browser import Browser
    from pyro_vipaint.results import Result

__all__ = [
    "HIDDEN",
    "Animation",
    "browse",
    "comparison_figure",
    "contact_sheet",
    "fit_animation",
    "fit_figure",
    "pictures_html",
    "samples_animation",
    "to_picture",
]


def browse(result: Result, image: int = 0) -> Browser:
    """The widget of :mod:`pyro_vipaint.plotting.browser`, at one image of a result.

    Raises:
        InputError: anywidget is not installed, there is no such image, or the samples are no pictures.
    """
    try:
        import anywidget  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise InputError("browse needs anywidget: pip install 'pyro-vipaint[notebooks]'.") from error
    from pyro_vipaint.plotting.browser import Browser

    return Browser(result, image)
