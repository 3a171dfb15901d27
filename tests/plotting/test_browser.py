"""The browser of samples: what Python draws and reads, and the page in a real browser."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pyro_vipaint as vp
from pyro_vipaint.plotting import to_picture
from tests.plotting.results import result_of

pytest.importorskip("anywidget")
CHROMIUM = Path("/usr/bin/chromium")
HEIGHT, WIDTH = 6, 8


def browser(channels: int = 1, samples: int = 7) -> Any:
    drawn = torch.rand(samples, 2, channels, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return result_of(drawn, mask=torch.ones(1, 1, HEIGHT, WIDTH)).browse(1), drawn[:, 1]


def _pixels(widget: Any) -> np.ndarray:
    return np.frombuffer(widget.picture, np.uint8).reshape(HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("q", [0.0, 0.05, 0.5, 0.731, 1.0])
def test_the_slider_shows_torchs_quantile(channels: int, q: float) -> None:
    widget, samples = browser(channels)
    widget.view, widget.quantile = "quantile", q
    assert torch.equal(widget.shown, torch.quantile(samples, q, dim=0))
    assert np.array_equal(_pixels(widget), to_picture(torch.quantile(samples, q, dim=0)))


def test_the_other_views_are_the_mean_the_samples_and_the_deviation() -> None:
    widget, samples = browser()
    assert np.array_equal(_pixels(widget), to_picture(samples.mean(0)))
    widget.view = "sample"
    for i in range(7):
        widget.sample = i
        assert np.array_equal(_pixels(widget), to_picture(samples[i]))
    widget.sample = 99
    assert widget.sample == 6
    widget.view = "std"
    assert torch.equal(widget.shown, samples.std(0))
    brightness = _pixels(widget).astype(int).sum(-1).ravel()
    order = samples.std(0).ravel().argsort()
    assert (np.diff(brightness[order.numpy()]) >= -3).all(), "brighter where the samples differ more"


def test_a_painted_mask_comes_back_as_a_tensor() -> None:
    widget, _ = browser()
    assert torch.equal(widget.mask, torch.ones(1, HEIGHT, WIDTH))
    mask = (torch.rand(1, HEIGHT, WIDTH) > 0.4).float()
    widget.mask = mask
    assert torch.equal(widget.mask, mask)
    painted = bytearray(HEIGHT * WIDTH)
    painted[2 * WIDTH + 3] = 1
    widget.painted = bytes(painted)  # as a page sends it
    expected = torch.ones(1, HEIGHT, WIDTH)
    expected[0, 2, 3] = 0
    assert torch.equal(widget.mask, expected)
    for broken in (b"", bytes(HEIGHT * WIDTH + 1)):
        with pytest.raises(Exception, match="one byte per pixel"):
            widget.painted = broken
    assert torch.equal(widget.mask, expected)


def test_what_cannot_be_browsed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    result = result_of(torch.zeros(3, 1, 1, HEIGHT, WIDTH))
    with pytest.raises(vp.InputError, match="image must be at most 0"):
        result.browse(1)
    with pytest.raises(vp.InputError, match="grey and colour"):
        result_of(torch.zeros(3, 1, 2, HEIGHT, WIDTH), mask=torch.ones(1, 1, HEIGHT, WIDTH)).browse()
    with pytest.raises(vp.InputError, match="mask"):
        result.browse().mask = torch.ones(1, 3, 3)
    found = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "anywidget":
            raise ImportError(name)
        return found(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(vp.InputError, match=r"pip install 'pyro-vipaint\[notebooks\]'"):
        result.browse()


PAGE = """<!doctype html><meta charset=utf-8><body><div id=root></div><script type=module>
const source = SOURCE;
const { default: widget } = await import(URL.createObjectURL(new Blob([source], {type: "text/javascript"})));
const state = STATE;
for (const name of ["picture", "painted"]) state[name] = new DataView(new Uint8Array(state[name]).buffer);
const listeners = {};
window.saved = [];
const model = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; for (const f of listeners["change:" + name] ?? []) f(); },
  on: (name, f) => (listeners[name] ??= []).push(f),
  save_changes: () => window.saved.push({view: state.view, quantile: state.quantile, sample: state.sample,
    painted: Array.from(new Uint8Array(state.painted.buffer))}),
};
widget.render({ model, el: document.getElementById("root") });
window.ready = true;
</script>"""


@pytest.mark.slow
def test_the_page_paints_and_slides_in_a_real_browser(tmp_path: Path) -> None:
    """The script is loaded as it is, over a model that remembers; nothing asks a server, and no error is raised."""
    if not CHROMIUM.exists():
        pytest.skip("there is no Chromium here")
    playwright = pytest.importorskip("playwright.sync_api")
    widget, _ = browser()
    widget.mask = torch.ones(1, HEIGHT, WIDTH)
    names = ("picture", "painted", "size", "count", "view", "quantile", "sample", "largest")
    state = {name: getattr(widget, name) for name in names}
    state |= {name: list(state[name]) for name in ("picture", "painted", "size")}
    source = Path(vp.__file__).with_name("plotting") / "browser.js"
    page_file = tmp_path / "page.html"
    page_file.write_text(
        PAGE.replace("SOURCE", json.dumps(source.read_text())).replace("STATE", json.dumps(state)), "utf-8"
    )
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = chromium.new_page()
        errors: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        page.wait_for_function("window.ready")
        drawn = page.evaluate(
            "Array.from(document.querySelector('canvas').getContext('2d').getImageData(0, 0, 8, 6).data)"
        )
        assert np.array_equal(np.array(drawn).reshape(HEIGHT, WIDTH, 4)[..., :3], _pixels(widget))
        box = page.locator(".vipaint-picture").bounding_box()
        assert box is not None and box["width"] / box["height"] == pytest.approx(WIDTH / HEIGHT)
        step = box["width"] / WIDTH

        def at(row: int, column: int) -> tuple[float, float]:
            return box["x"] + (column + 0.5) * step, box["y"] + (row + 0.5) * step

        page.locator("input[type=range]").nth(2).fill("1")  # the brush
        page.mouse.move(*at(1, 2))
        page.mouse.down()
        page.mouse.move(*at(1, 5), steps=12)
        page.mouse.up()
        saved = page.evaluate("window.saved")
        assert len(saved) == 1, "Python is told once a stroke"
        widget.painted = bytes(saved[0]["painted"])
        expected = torch.ones(1, HEIGHT, WIDTH)
        expected[0, 1, 2:6] = 0
        assert torch.equal(widget.mask, expected)

        page.locator(".vipaint-erase").check()
        page.mouse.click(*at(1, 3))
        page.locator(".vipaint-quantile").fill("0.9")
        page.locator(".vipaint-sample").fill("4")
        page.locator(".vipaint-view").select_option("std")
        *_, erased, slid, sampled, chosen = page.evaluate("window.saved")
        assert erased["painted"][WIDTH + 3] == 0 and sum(erased["painted"]) == 3
        assert (slid["view"], slid["quantile"]) == ("quantile", 0.9)
        assert (sampled["view"], sampled["sample"]) == ("sample", 4) and chosen["view"] == "std"
        page.locator(".vipaint-clear").click()
        assert sum(page.evaluate("window.saved").pop()["painted"]) == 0
        page.screenshot(path=str(tmp_path / "browser.png"))
        assert not errors and all(url.startswith(("file:", "blob:")) for url in asked)
        chromium.close()
