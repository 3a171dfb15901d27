"""What stands on the page, and where: each function lays out one part and returns its components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from pyro_vipaint.app.job import CORRECTIONS, OBJECTIVES, OF_THE_PRESET
from pyro_vipaint.app.pictures import SOFTEST
from pyro_vipaint.checks import guide_names
from pyro_vipaint.settings import PRESETS

TITLE = "VIPaint: paint a hole, draw what could be there"
SENTENCE = (
    "A diffusion prior and the pixels that you leave visible make a posterior over pictures. "
    "The page draws from it, and says how sure it is."
)
MOST_SAMPLES, MOST_LEVELS, MOST_PARTICLES = 64, 8, 16  # that the sliders offer
MORE = 10  # samples that the button adds
LEVEL = 80  # per cent; ten samples carry it
ANY = ""  # no class
RED, BLUE = "#d64545", "#2b6cb0"  # of the brushes
CANVAS = (512, 512)
CSS = """
.gradio-container {max-width: 1320px !important; margin: 0 auto !important}
.step h3 {margin: 0}
.pixels img, .pixels canvas {image-rendering: pixelated}
#shelf .grid-wrap, #drawn .grid-wrap {max-height: none; min-height: 0; height: auto !important}
#shelf .grid-container {grid-template-columns: repeat(4, minmax(0, 1fr)) !important; height: auto !important}
#drawn .grid-container {height: auto !important}
#drawn .grid-container {grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)) !important}
#shelf .thumbnail-item, #drawn .thumbnail-item {width: 100% !important; height: auto !important; aspect-ratio: 1}
#status {min-height: 1.6rem}
footer {display: none !important}
"""


@dataclass(frozen=True, eq=False)
class Picture:
    """The first step."""

    prior: gr.Dropdown
    shelf: gr.Gallery
    upload: gr.UploadButton
    grey: gr.Checkbox
    note: gr.Markdown


@dataclass(frozen=True, eq=False)
class Hole:
    """The second step."""

    editor: gr.ImageEditor
    middle: gr.Button
    softness: gr.Slider


@dataclass(frozen=True, eq=False)
class Method:
    """The numbers of a run that have good defaults."""

    guide: gr.Dropdown
    objective: gr.Dropdown
    beta: gr.Number
    num_particles: gr.Slider
    levels: gr.Slider
    steps: gr.Number
    correction: gr.Dropdown
    refine_steps: gr.Number
    seed: gr.Number


@dataclass(frozen=True, eq=False)
class Run:
    """The third step, and what is seen of a run."""

    label: gr.Dropdown
    prompt: gr.Textbox
    preset: gr.Radio
    samples: gr.Slider
    method: Method
    start: gr.Button
    cancel: gr.Button
    status: gr.Markdown
    preview: gr.Image
    bound: gr.Plot


@dataclass(frozen=True, eq=False)
class Results:
    """The tabs."""

    tabs: gr.Tabs
    samples: gr.Gallery
    more: gr.Button
    mean: gr.Image
    spread: gr.Plot
    level: gr.Slider
    lower: gr.Image
    average: gr.Image
    upper: gr.Image
    width: gr.Plot
    pixel: gr.Markdown
    region: gr.ImageEditor
    threshold: gr.Slider
    ask: gr.Button
    answer: gr.Markdown
    parts: gr.Plot
    parts_text: gr.Markdown
    lines: gr.Code
    files: gr.DownloadButton


def lay_picture(offered: Sequence[str], own_folders: bool) -> Picture:
    """The prior and the picture."""
    gr.Markdown("### 1 · Picture\nChoose one that the prior has not seen, or upload one.")
    prior = gr.Dropdown(
        list(offered), value=offered[0], label="Prior", allow_custom_value=own_folders, elem_id="prior",
        info="What pictures look like. " + ("A name, or the folder of a prior." if own_folders else ""),
    )  # fmt: skip
    shelf = gr.Gallery(
        label="Held-out pictures", show_label=False, columns=4, height="auto", allow_preview=False, elem_id="shelf",
        object_fit="contain", elem_classes="pixels", buttons=[], format="png",
    )  # fmt: skip
    upload = gr.UploadButton("Upload a picture", file_types=["image"], size="sm", elem_id="upload")
    grey = gr.Checkbox(label="Turn colours grey where the prior is grey", elem_id="grey")
    return Picture(prior, shelf, upload, grey, gr.Markdown(elem_id="note"))


def lay_hole() -> Hole:
    """The canvas."""
    gr.Markdown("### 2 · Hole\nPaint over what shall be hidden.")
    editor = _canvas("hole", RED, 60)
    middle = gr.Button("Hide the middle", size="sm", elem_id="middle")
    softness = gr.Slider(
        0, SOFTEST, 0, step=0.5, label="Softness of its edge, pixels", elem_id="softness",
        info="0: a pixel is seen or not. More: pixels near the edge are seen with more noise.",
    )  # fmt: skip
    return Hole(editor, middle, softness)


def lay_run() -> Run:
    """The numbers, the buttons and what is seen of a run."""
    gr.Markdown("### 3 · Run\nThe defaults are good.")
    label = gr.Dropdown(
        [("any", ANY)], value=ANY, label="Class", info="What the picture shows, if you know.", elem_id="label"
    )
    prompt = gr.Textbox(label="Prompt", visible=False)
    preset = gr.Radio(
        list(PRESETS), value=PRESETS[0], label="Preset", elem_id="preset",
        info="inference: draws whose spread is right. pictures: good looks, too alike.",
    )  # fmt: skip
    samples = gr.Slider(1, MOST_SAMPLES, 10, step=1, label="Samples", elem_id="samples")
    with gr.Accordion("Guide, objective, levels, refinement", open=False):
        method = _method()
    with gr.Row():
        start = gr.Button("Run", variant="primary", elem_id="run", min_width=120)
        cancel = gr.Button("Cancel", variant="stop", elem_id="cancel", interactive=False, min_width=120)
    status = gr.Markdown("Choose a picture, paint a hole, run.", elem_id="status")
    preview = gr.Image(
        label="The network's prediction now", interactive=False, buttons=[], format="png", elem_id="preview",
        elem_classes="pixels", visible=False, show_label=False,
    )  # fmt: skip
    bound = gr.Plot(show_label=False, visible=False, elem_id="bound")
    return Run(label, prompt, preset, samples, method, start, cancel, status, preview, bound)


def _method() -> Method:
    guide = gr.Dropdown([OF_THE_PRESET, *guide_names()], value=OF_THE_PRESET, label="Guide family", elem_id="guide")
    objective = gr.Dropdown([OF_THE_PRESET, *OBJECTIVES], value=OF_THE_PRESET, label="Objective (ELBO)")
    with gr.Row():
        beta = gr.Number(1.0, label="β of the objective", minimum=0, min_width=120)
        particles = gr.Slider(1, MOST_PARTICLES, 1, step=1, label="Draws per step", min_width=120)
    with gr.Row():
        levels = gr.Slider(1, MOST_LEVELS, 4, step=1, label="Levels K", min_width=120)
        steps = _steps("Steps of the fit")
    correction = gr.Dropdown([OF_THE_PRESET, *CORRECTIONS], value=OF_THE_PRESET, label="Correction of the refinement")
    with gr.Row():
        refine_steps = _steps("Steps of the refinement")
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=120, info="of all random numbers")
    return Method(guide, objective, beta, particles, levels, steps, correction, refine_steps, seed)


def lay_results() -> Results:
    """The tabs, which appear with a result."""
    with gr.Tabs(visible=False, elem_id="results") as tabs:
        with _tab("Samples"):
            samples = gr.Gallery(
                columns=5, height="auto", object_fit="contain", show_label=False, elem_id="drawn", format="png",
                elem_classes="pixels", buttons=["fullscreen"],
            )  # fmt: skip
            more = gr.Button(f"Draw {MORE} more from the same fit", size="sm", elem_id="more")
        with _tab("Spread"), gr.Row():
            mean, spread = _picture("Mean of the samples", 320), gr.Plot(show_label=False, elem_id="spread")
        with _tab("Intervals"):
            level = gr.Slider(50, 95, LEVEL, step=1, label="Level of the interval, %", elem_id="level")
            pixel = gr.Markdown(elem_id="pixel")
            with gr.Row():
                names = {"lower": "Lower ends", "average": "Mean: click a pixel", "upper": "Upper ends"}
                lower, average, upper = (_picture(text, 200, name) for name, text in names.items())
                width = gr.Plot(show_label=False, min_width=280)
        with _tab("Question"), gr.Row():
            with gr.Column(min_width=320):
                region = _canvas("region", BLUE, 50)
            with gr.Column(min_width=320):
                gr.Markdown("Paint a region on the mean of the samples. Is it brighter than this?")
                threshold = gr.Slider(-1, 1, 0, step=0.05, label="Threshold (−1 black, 1 white)", elem_id="threshold")
                ask = gr.Button("How probable is it?", variant="primary", elem_id="ask")
                answer = gr.Markdown(elem_id="answer")
        with _tab("Parts"):
            parts_text, parts = gr.Markdown(elem_id="parts"), gr.Plot(show_label=False)
        with _tab("Python"):
            gr.Markdown("These lines repeat the run bit for bit, beside the files of the download.")
            lines = gr.Code(language="python", interactive=False, show_label=False, elem_id="lines")
        with _tab("Files"):
            gr.Markdown("What `vipaint inpaint` writes, by the same code, with the problem and the lines of Python.")
            files = gr.DownloadButton("Download the zip file", elem_id="download", variant="primary")
    return Results(
        tabs, samples, more, mean, spread, level, lower, average, upper, width, pixel, region, threshold, ask, answer,
        parts, parts_text, lines, files,
    )  # fmt: skip


def _tab(name: str) -> gr.Tab:
    """A tab that takes values before it is opened."""
    return gr.Tab(name, render_children=True)


def _picture(label: str, least: int, name: str | None = None) -> gr.Image:
    return gr.Image(
        label=label, interactive=False, buttons=[], format="png", min_width=least, elem_classes="pixels", type="numpy",
        elem_id=name,
    )  # fmt: skip


def _canvas(name: str, colour: str, size: int) -> gr.ImageEditor:
    """An editor that has a brush and an eraser alone."""
    return gr.ImageEditor(
        show_label=False, sources=(), transforms=(), layers=False, format="png", type="numpy", buttons=[], height=430,
        brush=gr.Brush(default_size=size, colors=[colour], color_mode="fixed"), eraser=gr.Eraser(default_size=size),
        canvas_size=CANVAS, elem_id=name, elem_classes="pixels", placeholder="Choose a picture first",
    )  # fmt: skip


def _steps(label: str) -> gr.Number:
    return gr.Number(0, label=label, precision=0, minimum=0, info="0: of the preset", min_width=120)
