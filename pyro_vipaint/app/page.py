"""The page: three steps (picture, hole, run) and the tabs of a result. What it computes stands in the other modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from tempfile import mkdtemp
from threading import Event
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint.app import job as jobs
from pyro_vipaint.app import views
from pyro_vipaint.app.job import OF_THE_PRESET, Job
from pyro_vipaint.app.pictures import (
    SOFTEST,
    enlarged,
    held_out_pictures,
    mask_of,
    middle_hidden,
    painted,
    read_upload,
    zoom,
)
from pyro_vipaint.app.run import State, load, run, turn
from pyro_vipaint.cli.options import told
from pyro_vipaint.errors import InputError, choice
from pyro_vipaint.models import embedded_priors
from pyro_vipaint.settings import PRESETS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "VIPaint: paint a hole, draw what could be there"
SENTENCE = (
    "A diffusion prior and the pixels that you leave visible make a posterior over pictures. "
    "The page draws from it, and says how sure it is."
)
HELD_OUT = 12  # pictures to choose from
QUEUE = 8  # runs and questions that may wait
MOST_SAMPLES = 64
MORE = 10  # samples that the button adds
PHASES = {"fit": "Fitting the guide", "refine": "Refining the samples"}
RED = "#d64545"
CSS = """
.gradio-container {max-width: 1280px !important; margin: 0 auto !important}
.step h3 {margin: 0 0 .3rem 0}
.pixels img, .pixels canvas {image-rendering: pixelated}
#status {min-height: 1.6rem}
footer {display: none !important}
"""


@dataclass(frozen=True, eq=False)
class Chosen:
    """The picture of a session: ``(C, H, W)`` in [-1, 1], the prior it was made for, and what is known of it."""

    image: Tensor
    prior: str
    is_whole: bool = False  # a held-out picture: its hidden pixels are the truth


@dataclass(frozen=True, eq=False)
class Done:
    """A job with its result, and the seeds of the draws that were added."""

    job: Job
    result: vp.Result
    added: tuple[int, ...] = ()

    def more(self) -> Done:
        """With ``MORE`` draws from the same fit."""
        seed = self.job.seed + 1 + len(self.added)
        drawn = self.result.sample(MORE, seed=seed)
        samples = torch.cat([self.result.samples, drawn.samples])
        return Done(self.job, replace(self.result, samples=samples), (*self.added, seed))

    def lines(self) -> str:
        """Python that repeats the run, and the draws that were added."""
        parts = "".join(f", result.sample({MORE}, seed={seed}).samples" for seed in self.added)
        return self.job.lines(f"samples = torch.cat([result.samples{parts}])\n" if parts else "")


@dataclass(eq=False)
class Sessions:
    """The run of each session, so that a cancel button ends no other session's."""

    events: dict[str, Event] = field(default_factory=dict)

    def begin(self, request: gr.Request) -> Event:
        """The event that cancels the next run of a session."""
        event = self.events[str(request.session_hash)] = Event()
        return event

    def cancel(self, request: gr.Request) -> None:
        """Ends the run of a session between two network calls."""
        event = self.events.pop(str(request.session_hash), None)
        if event is not None:
            event.set()


def page(folder: Path, priors: Sequence[str] = (), device: str = "auto", own_folders: bool = True) -> gr.Blocks:
    """The page.

    Args:
        folder: where downloads are made.
        priors: names and folders to offer beside those that ship; the first is selected.
        device: of the runs.
        own_folders: whether a visitor may name further folders of this machine.
    """
    offered = list(dict.fromkeys([*priors, "fashion32", *embedded_priors()]))
    sessions = Sessions()

    def source(prior: Any) -> str:
        if not own_folders:
            choice("prior", prior, offered)
        jobs.check_source(prior)
        return str(prior)

    with gr.Blocks(title="VIPaint", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        chosen, done = gr.State(), gr.State(time_to_live=3600)
        gr.Markdown(f"# {TITLE}\n{SENTENCE}")
        with gr.Row(equal_height=False):
            with gr.Column(min_width=320, elem_classes="step"):
                gr.Markdown("### 1 · Picture")
                prior = gr.Dropdown(
                    offered, value=offered[0], label="Prior", allow_custom_value=own_folders, elem_id="prior",
                    info="What pictures look like. " + ("A name, or the folder of a prior." if own_folders else ""),
                )  # fmt: skip
                shelf = gr.Gallery(
                    label="Held-out pictures: choose one", columns=4, height=250, allow_preview=False, elem_id="shelf",
                    object_fit="contain", elem_classes="pixels", buttons=[], format="png",
                )  # fmt: skip
                upload = gr.UploadButton("Or upload a picture", file_types=["image"], size="sm", elem_id="upload")
                grey = gr.Checkbox(label="If it has colours and the prior is grey: turn it grey", elem_id="grey")
                note = gr.Markdown(elem_id="note")
            with gr.Column(min_width=320, elem_classes="step"):
                gr.Markdown("### 2 · Hole")
                editor = gr.ImageEditor(
                    label="Paint over what shall be hidden", sources=(), transforms=(), layers=False, format="png",
                    brush=gr.Brush(default_size=60, colors=[RED], color_mode="fixed"), elem_id="editor",
                    eraser=gr.Eraser(default_size=60), type="numpy", buttons=[], height=430, canvas_size=(512, 512),
                    placeholder="Choose a picture first", elem_classes="pixels",
                )  # fmt: skip
                middle_button = gr.Button("Or hide the middle", size="sm", elem_id="middle")
                soft = gr.Slider(
                    0, SOFTEST, 0, step=0.5, label="Softness of its edge, pixels", elem_id="soft",
                    info="0: a pixel is seen or not. More: pixels near the edge are seen with more noise.",
                )  # fmt: skip
            with gr.Column(min_width=320, elem_classes="step"):
                gr.Markdown("### 3 · Run")
                label = gr.Dropdown(
                    [("any", -1)], value=-1, label="Class", info="What the picture shows, if you know.", elem_id="label"
                )
                prompt = gr.Textbox(label="Prompt", visible=False)
                preset = gr.Radio(
                    list(PRESETS), value=PRESETS[0], label="Preset",
                    info="inference: draws whose spread is right. pictures: good looks, too alike.",
                )  # fmt: skip
                samples = gr.Slider(1, MOST_SAMPLES, 10, step=1, label="Samples", elem_id="samples")
                with gr.Accordion("Guide, objective, levels, refinement", open=False):
                    guide = gr.Dropdown([OF_THE_PRESET, *jobs.GUIDES], value=OF_THE_PRESET, label="Guide family")
                    objective = gr.Dropdown(
                        [OF_THE_PRESET, *jobs.OBJECTIVES], value=OF_THE_PRESET, label="Objective (ELBO)"
                    )
                    with gr.Row():
                        beta = gr.Number(1.0, label="β of the objective", minimum=0, min_width=120)
                        particles = gr.Slider(1, 16, 1, step=1, label="Draws per step", min_width=120)
                    with gr.Row():
                        levels = gr.Slider(1, 8, 4, step=1, label="Levels K", min_width=120)
                        steps = gr.Number(
                            0, label="Steps of the fit", precision=0, minimum=0, info="0: of the preset", min_width=120
                        )
                    correction = gr.Dropdown(
                        [OF_THE_PRESET, *jobs.CORRECTIONS], value=OF_THE_PRESET, label="Correction of the refinement"
                    )
                    with gr.Row():
                        refine_steps = gr.Number(
                            0, label="Steps of the refinement", precision=0, minimum=0, info="0: of the preset",
                            min_width=120,
                        )  # fmt: skip
                        seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=120)
                with gr.Row():
                    start = gr.Button("Run", variant="primary", elem_id="run", min_width=120)
                    cancel = gr.Button("Cancel", variant="stop", elem_id="cancel", interactive=False, min_width=120)
        status = gr.Markdown("Choose a picture, paint a hole, run.", elem_id="status")
        with gr.Row(visible=False) as live:
            bound = gr.Plot(label="Bound on log p(y)", min_width=320)
            preview = gr.Image(
                label="The network's prediction now", interactive=False, buttons=[], format="png", min_width=320,
                elem_id="preview", elem_classes="pixels",
            )  # fmt: skip
        with gr.Tabs(visible=False, elem_id="results") as results:
            with gr.Tab("Samples"):
                drawn = gr.Gallery(
                    columns=5, height="auto", object_fit="contain", show_label=False, elem_id="drawn", format="png",
                    elem_classes="pixels", buttons=["fullscreen"],
                )  # fmt: skip
                more = gr.Button(f"Draw {MORE} more from the same fit", size="sm", elem_id="more")
            with gr.Tab("Mean and spread"), gr.Row():
                mean = _picture("Mean of the samples")
                spread = gr.Plot(label="Standard deviation")
            with gr.Tab("Pixel intervals"):
                level = gr.Slider(50, 95, 80, step=1, label="Level of the interval, %", elem_id="level")
                with gr.Row():
                    lower, average, upper = (
                        _picture(name, 200) for name in ("Lower ends", "Mean: click a pixel", "Upper ends")
                    )
                    width = gr.Plot(label="Width", min_width=320)
                pixel = gr.Markdown("Click a pixel of the mean.", elem_id="pixel")
            with gr.Tab("A question"), gr.Row():
                region = gr.ImageEditor(
                    label="Paint a region", sources=(), transforms=(), layers=False, format="png", type="numpy",
                    brush=gr.Brush(default_size=50, colors=["#2b6cb0"], color_mode="fixed"), buttons=[], height=430,
                    canvas_size=(512, 512), elem_id="region", elem_classes="pixels",
                )  # fmt: skip
                with gr.Column(min_width=320):
                    threshold = gr.Slider(-1, 1, 0, step=0.05, label="Brighter than (−1 black, 1 white)")
                    ask = gr.Button("How probable is it?", variant="primary", elem_id="ask")
                    answer = gr.Markdown(elem_id="answer")
            with gr.Tab("Parts, exactly"):
                told_parts = gr.Markdown(elem_id="parts")
                parts = gr.Plot(show_label=False)
            with gr.Tab("Python"):
                gr.Markdown("These lines repeat the run bit for bit, beside the files of the download.")
                lines = gr.Code(language="python", interactive=False, show_label=False, elem_id="lines")
            with gr.Tab("Download"):
                gr.Markdown(
                    "What `vipaint inpaint` writes: contact sheet, samples as pictures and as numbers, report; and the "
                    "lines of Python."
                )
                files = gr.DownloadButton("Download the zip file", elem_id="download", variant="primary")

        def choose_prior(name: str) -> tuple[Any, ...]:
            loaded = load(source(name), device)
            named = [("any", -1), *((text, number) for number, text in enumerate(loaded.class_names))]
            pictures, _ = held_out_pictures(name, HELD_OUT)
            options = gr.Dropdown(named, value=-1, visible=len(named) > 1)
            shown = [enlarged(x) for x in pictures]
            text = gr.Textbox(visible=loaded.encode_text is not None)
            empty = "" if shown else "No held-out pictures ship with this prior: upload one."
            return gr.Gallery(shown or None, visible=bool(shown)), options, text, None, None, empty

        def choose_picture(name: str, event: gr.SelectData) -> tuple[Any, ...]:
            pictures, labels = held_out_pictures(source(name), HELD_OUT)
            image = pictures[event.index]
            known = -1 if labels is None else int(labels[event.index])
            return Chosen(image, name, True), enlarged(image), known, "A held-out picture of the prior."

        def take_upload(path: str, name: str, turn_grey: bool) -> tuple[Any, ...]:
            image, done_to_it = read_upload(path, load(source(name), device).image_shape, turn_grey)
            return Chosen(image, name), enlarged(image), -1, done_to_it

        def hide_middle(picture: Chosen | None) -> Any:
            if picture is None:
                raise InputError("There is no picture yet: choose one, or upload one.")
            return _with_strokes(picture.image, middle_hidden(picture.image))

        def ask_for(picture: Chosen | None, canvas: Any, softness: float, *numbers: Any) -> Job:
            name, number, text, kind, count, family, elbo, weight, draws, k, fits, by, refines, first = numbers
            if picture is None or picture.prior != name:
                raise InputError("There is no picture yet: choose one, or upload one.")
            mask = mask_of(painted(canvas, picture.image.shape[1:]), softness)
            return Job(
                picture.image, mask, source(name), picture.image if picture.is_whole else None,
                label=None if number is None or number < 0 else int(number), prompt=text or None, levels=int(k),
                num_samples=int(count), preset=kind, guide=family, objective=elbo, beta=weight,
                num_particles=int(draws), correction=by, steps=int(fits) or None, refine_steps=int(refines) or None,
                seed=int(first),
            )  # fmt: skip

        def follow(request: gr.Request, *asked: Any) -> Iterator[dict[Any, Any]]:
            event = sessions.begin(request)
            yield {start: gr.Button(interactive=False), cancel: gr.Button(interactive=True), status: "Starting …"}
            try:
                job = ask_for(*asked)
                drawn_bounds = 0
                for state in run(job, event, device):
                    update: dict[Any, Any] = {status: _sentence(state), live: gr.Row(visible=True)}
                    if len(state.bounds) > drawn_bounds:
                        drawn_bounds = len(state.bounds)
                        update[bound] = views.bound_figure(state.bounds)
                    if state.pictures is not None:
                        update[preview] = views.row(state.pictures)
                    yield update
                    if state.result is not None:
                        yield show(Done(job, state.result))
            finally:
                sessions.cancel(request)

        def follow_safely(request: gr.Request, *asked: Any) -> Iterator[dict[Any, Any]]:
            ended = {start: gr.Button(interactive=True), cancel: gr.Button(interactive=False)}
            try:
                yield from follow(request, *asked)
            except Exception as error:
                yield {status: _error(error), **ended}
            else:
                yield ended

        def show(finished: Done) -> dict[Any, Any]:
            job, result = finished.job, finished.result
            with turn():
                made = Path(mkdtemp(dir=folder))
                archive = views.download(job, result, load(job.prior, device), made, finished.lines())
            drawing, sentence = _parts(job, result)
            return {
                done: finished, results: gr.Tabs(visible=True), live: gr.Row(visible=False),
                status: views.summary(job, result), drawn: views.gallery(result), mean: enlarged(result.mean[0]),
                spread: views.spread_figure(result), region: enlarged(result.mean[0]), answer: "",
                parts: drawing, told_parts: sentence, lines: finished.lines(), files: str(archive),
            }  # fmt: skip

        def draw_more(finished: Done | None) -> dict[Any, Any]:
            with turn():
                finished = _finished(finished).more()
            return show(finished)

        def show_interval(finished: Done | None, percent: float) -> tuple[Any, ...]:
            if finished is None:
                return None, None, None, None, ""
            try:
                low, high = views.pixel_interval(finished.result, percent / 100)
            except InputError as error:
                return None, None, None, None, _error(error)
            average = enlarged(finished.result.mean[0])
            return enlarged(low), average, enlarged(high), views.width_figure(low, high), "Click a pixel of the mean."

        def show_pixel(finished: Done | None, percent: float, event: gr.SelectData) -> str:
            result = _finished(finished).result
            side = zoom(result.mean.shape[-2:])
            column, line = (int(value) // side for value in event.index)
            ends = views.pixel_interval(result, percent / 100)
            return views.pixel_sentence(result, *ends, percent / 100, (line, column))

        def how_probable(finished: Done | None, canvas: Any, above: float) -> str:
            result = _finished(finished).result
            return views.probability_sentence(result, painted(canvas, result.mean.shape[-2:]) >= 0.5, above)

        asked = [
            chosen, editor, soft, prior, label, prompt, preset, samples, guide, objective, beta, particles, levels,
            steps, correction, refine_steps, seed,
        ]  # fmt: skip
        told_of = [
            start, cancel, status, live, bound, preview, done, results, drawn, mean, spread, region, answer, parts,
            told_parts, lines, files,
        ]  # fmt: skip
        alone: dict[str, Any] = {"concurrency_id": "library", "concurrency_limit": 1, "show_progress": "hidden"}
        quick: dict[str, Any] = {"show_progress": "hidden"}
        of_picture = [chosen, editor, label, note]
        on_prior = [shelf, label, prompt, chosen, editor, note]
        gr.on([blocks.load, prior.change], _one_line(choose_prior), prior, on_prior, **quick)
        shelf.select(_one_line(choose_picture), prior, of_picture, **quick)
        upload.upload(_one_line(take_upload), [upload, prior, grey], of_picture, **quick)
        middle_button.click(_one_line(hide_middle), chosen, editor, **quick)
        guide.change(lambda family: PRESETS[family != OF_THE_PRESET], guide, preset, **quick)
        running = start.click(follow_safely, asked, told_of, **alone)
        cancel.click(_cancelled(sessions), None, [start, cancel, status], cancels=[running], queue=False)
        blocks.unload(sessions.cancel)
        adding = more.click(_one_line(draw_more), done, told_of, **{**alone, "show_progress": "minimal"})
        interval = [lower, average, upper, width, pixel]
        for then in (running.then, adding.then, level.release):
            then(_one_line(show_interval), [done, level], interval, **alone)
        average.select(_one_line(show_pixel), [done, level], pixel, **alone)
        ask.click(_one_line(how_probable), [done, region, threshold], answer, **alone)
    return blocks


def _picture(label: str, least: int = 320) -> gr.Image:
    return gr.Image(
        label=label, interactive=False, buttons=[], format="png", min_width=least, elem_classes="pixels", type="numpy"
    )


def _with_strokes(image: Tensor, hidden: Tensor) -> dict[str, Any]:
    """The value of an image editor that shows ``image`` with the pixels of ``hidden`` ``(1, H, W)`` painted over."""
    background = enlarged(image)
    side = zoom(image.shape[-2:])
    alpha = hidden[0].numpy().astype(np.uint8).repeat(side, 0).repeat(side, 1) * 255
    colour = np.array([int(RED[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.uint8)
    layer = np.concatenate([np.broadcast_to(colour, (*alpha.shape, 3)), alpha[..., None]], -1)
    composite = np.where(alpha[..., None] > 0, colour, background)
    return {"background": background, "layers": [layer], "composite": composite}


def _finished(done: Done | None) -> Done:
    if done is None:
        raise InputError("There is no result yet: run first.")
    return done


def _sentence(state: State) -> str:
    """A state in words."""
    if state.phase in PHASES:
        bound = f", bound on log p(y) {state.bounds[-1]:.1f} nats" if state.bounds else ""
        return f"{PHASES[state.phase]}: step {state.step} of {state.total}{bound}"
    return {
        "waiting": "Waiting for another run to end …", "loading": "Loading the prior …", "cancelled": "Cancelled.",
        "done": "Drawing the results …",
    }[state.phase]  # fmt: skip


def _parts(job: Job, result: vp.Result) -> tuple[Figure | None, str]:
    """The figure and the text of the parts."""
    try:
        found = views.exact_parts(job, result)
    except InputError as error:
        return None, _error(error)
    if found is None:
        return None, "The pictures of this prior are not painted from parts: choose faces32 or cats64."
    return views.parts_figure(found), views.parts_sentence(found)


def _error(error: Exception) -> str:
    return f"**{' '.join(told(error)[0].split())}**"


def _one_line(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, whose errors the page shows in one line."""

    @wraps(function)
    def shown(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except Exception as error:
            raise gr.Error(" ".join(told(error)[0].split()), print_exception=False) from None

    return shown


def _cancelled(sessions: Sessions) -> Callable[[gr.Request], tuple[Any, ...]]:
    def cancel(request: gr.Request) -> tuple[Any, ...]:
        sessions.cancel(request)
        return gr.Button(interactive=True), gr.Button(interactive=False), "Cancelled."

    return cancel
