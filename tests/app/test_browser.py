"""The app in a browser, as a visitor meets it: from an upload by a painted hole to samples and answers.

The server is the command itself in another process. Every request of the browser is recorded, and none may leave this
machine. ``make test-browser`` runs these tests; without a Chromium they are skipped, which the last lines say.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pyro_vipaint._files import read_image
from pyro_vipaint.app.job import FILE
from pyro_vipaint.demo import held_out_images

pytestmark = pytest.mark.browser
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 60  # from the button to samples, on two cores
PATIENCE = 120_000  # milliseconds, for whatever a loaded machine does
SAMPLES = 10
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of ``vipaint app``; at the end nothing of its temporary files is left."""
    pytest.importorskip("gradio")
    if CHROMIUM is None:
        pytest.skip("the browser tests were left out: no Chromium is installed (Debian: apt-get install chromium)")
    temporary = tmp_path_factory.mktemp("temporary")
    command = [sys.executable, "-m", "pyro_vipaint.cli.main", "app", "--no-open", "--port", "0", "--device", "cpu"]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert server.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
        assert found is not None
        assert list(temporary.glob("vipaint-app-*"))
        yield found[0]
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 143
        assert not list(temporary.glob("vipaint-app-*"))
    finally:
        server.kill()
        server.communicate()


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests were left out: no Playwright")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any, address: str, tmp_path: Path) -> Iterator[Any]:
    """Opens the page; at the end no request has left the machine and no script has failed."""
    requests: list[str] = []
    faults: list[str] = []
    contexts: list[Any] = []

    def opened(size: dict[str, int]) -> Any:
        contexts.append(browser.new_context(viewport=size, accept_downloads=True))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#shelf img")
        return page

    yield opened
    elsewhere = [url for url in requests if not url.startswith((address, "data:", "blob:"))]
    assert len(requests) > 20 and elsewhere == [] and faults == []
    for context in contexts:
        context.close()


def upload(page: Any, path: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator("#upload").click()
    chooser.value.set_files(path)


def paint(page: Any, canvas: str) -> None:
    """One stroke through the middle of a canvas."""
    target = page.locator(f"#{canvas} canvas").first
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 60, y)
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=12)
    page.mouse.up()
    page.wait_for_timeout(1000)  # the editor sends its strokes a little later


def shown(page: Any, place: str, pattern: str) -> str:
    """The text of a place, once it has the pattern."""
    page.locator(place).filter(has_text=re.compile(pattern)).wait_for()
    return page.locator(place).inner_text()


def open_tab(page: Any, name: str) -> None:
    page.locator("#results").get_by_role("tab", name=name, exact=True).click()
    page.wait_for_timeout(500)


def test_from_an_upload_to_answers(visit: Any, tmp_path: Path) -> None:
    """A picture is uploaded, painted on, completed, questioned and downloaded."""
    picture = tmp_path / "boot.png"
    image = ((held_out_images()[0][0, 0] + 1) * 127.5).round().byte()
    Image.fromarray(np.kron(image.numpy(), np.ones((4, 4), np.uint8))).save(picture)  # 128 × 128
    page = visit(DESKTOP)
    upload(page, picture)
    shown(page, "#note", r"boot\.png: 128 × 128 pixels, resized to 32 × 32")
    page.wait_for_timeout(1500)
    paint(page, "hole")
    page.screenshot(path=tmp_path / "1-painted.png", full_page=True)
    begun = time.monotonic()
    page.locator("#run").click()
    shown(page, "#status", "Refining the samples: step")
    page.screenshot(path=tmp_path / "2-running.png", full_page=True)
    summary = shown(page, "#status", f"{SAMPLES} samples in .* nats. .* network calls")
    page.wait_for_selector("#drawn img")
    seconds = time.monotonic() - begun
    page.screenshot(path=tmp_path / "3-samples.png", full_page=True)
    assert page.locator("#drawn img").count() == SAMPLES
    assert seconds < SECONDS * max(1.0, os.getloadavg()[0] / 2), summary  # a loaded machine gets its share more

    open_tab(page, "Spread")
    page.locator("#spread img").wait_for()
    page.screenshot(path=tmp_path / "4-spread.png", full_page=True)
    open_tab(page, "Intervals")
    average = page.locator("#average img")
    average.wait_for()
    average.click(position={"x": average.bounding_box()["width"] / 2, "y": average.bounding_box()["height"] / 2})
    shown(page, "#pixel", r"Row 1[56], column 1[56] \(hidden\): mean .*; 80% interval")
    page.screenshot(path=tmp_path / "5-intervals.png", full_page=True)
    open_tab(page, "Question")
    page.wait_for_timeout(1500)
    paint(page, "region")
    page.locator("#ask").click()
    shown(page, "#answer", r"P\(mean of \d+ painted pixels > [+−-]0\.00\) = \d\.\d\d ± \d\.\d\d")
    page.screenshot(path=tmp_path / "6-question.png", full_page=True)
    open_tab(page, "Python")
    shown(page, "#lines", "result = vp.inpaint")
    open_tab(page, "Files")
    with page.expect_download() as download:
        page.locator("#download").click()
    check_download(Path(download.value.path()), picture)

    open_tab(page, "Samples")
    page.locator("#more").click()
    page.wait_for_function(f"document.querySelectorAll('#drawn img').length == {2 * SAMPLES}")


def check_download(path: Path, picture: Path) -> None:
    """The painted stroke is the hole, and what is visible is the uploaded picture."""
    folder = path.parent / "unpacked"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    problem, saved = load_file(folder / FILE), load_file(folder / "samples.safetensors")
    mask = problem["mask"]
    assert mask.shape == (1, 32, 32) and mask[0, 16, 12:20].sum() == 0  # the stroke
    assert 0.5 < mask.mean() < 1 and mask[0, 0].min() == 1
    original = read_image(picture, 1, (32, 32))
    assert torch.allclose(problem["image"], original * mask, atol=2e-2)
    assert saved["samples"].shape == (SAMPLES, 1, 1, 32, 32)
    assert (folder / "repeat.py").read_text().count("vp.inpaint") == 1


def test_a_run_is_cancelled(visit: Any, tmp_path: Path) -> None:
    """The button ends a long run, after which another can begin; no result appears."""
    page = visit(PHONE)
    page.locator("#shelf .thumbnail-item").first.click()
    shown(page, "#note", "A held-out picture")
    page.wait_for_timeout(1500)
    page.locator("#middle").click()
    page.wait_for_timeout(1500)
    page.locator("#preset").get_by_label("pictures").check()
    page.locator("#run").click()
    shown(page, "#status", "Fitting the guide: step [2-9]")
    page.screenshot(path=tmp_path / "1-phone.png", full_page=True)
    page.locator("#cancel").click()
    shown(page, "#status", r"Cancelled\.")
    page.locator("#run:enabled").wait_for()
    page.wait_for_timeout(1500)
    assert page.locator("#status").inner_text().strip() == "Cancelled."
    assert page.locator("#drawn img").count() == 0
    page.locator("#run").click()
    shown(page, "#status", "Fitting the guide: step")
    page.locator("#cancel").click()


def test_what_cannot_be_used_is_one_line(visit: Any, tmp_path: Path) -> None:
    """A run without a picture, a hole that is not there, and an upload that is no picture."""
    page = visit(DESKTOP)
    page.locator("#run").click()
    shown(page, "#status", r"There is no picture yet: choose one, or upload one\.")
    (tmp_path / "text.png").write_text("no picture")
    upload(page, tmp_path / "text.png")
    toast = page.get_by_text("text.png cannot be read as a picture.")
    toast.first.wait_for()
    page.locator("#shelf .thumbnail-item").first.click()
    shown(page, "#note", "A held-out picture")
    page.wait_for_timeout(1500)
    page.locator("#run").click()
    shown(page, "#status", r"There is nothing to complete, no pixel is hidden: paint a hole\.")
    assert page.get_by_text("Traceback").count() == 0
