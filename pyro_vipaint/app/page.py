"""The page: what happens when a part of it is used. What it computes stands in the other modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
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
from pyro_vipaint.app import views
from pyro_vipaint.app.job import OF_THE_PRESET, Job, check_source, prior_names
from pyro_vipaint.app.layout import (
    ANY,
    MORE,
    RED,
    SENTENCE,
    TITLE,
    Hole,
    Picture,
    Results,
    Run,
    lay_hole,
    lay_picture,
    lay_results,
    lay_run,
)
from pyro_vipaint.app.pictures import enlarged, held_out_pictures, mask_of, middle_hidden, painted, read_upload, zoom
from pyro_vipaint.app.run import State, load, run, turn
from pyro_vipaint.cli.options import told
from pyro_vipaint.errors import InputError, choice
from pyro_vipaint.settings import PRESETS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HELD_OUT = 12  # pictures to choose from
QUEUE = 8  # runs and questions that may wait
KEPT = 3600  # seconds for which a result is kept
PHASES = {"fit": "Fitting the guide", "refine": "Refining the samples"}
WORDS = {
    "waiting": "Waiting for another run to end …",
    "loading": "Loading the prior …",
    "cancelled": "Cancelled.",
    "done": "Drawing the results …",
}
NO_PICTURE = "There is no picture yet: choose one, or upload one."


@dataclass(frozen=True, eq=False)
class Chosen:
    """The picture of a session: ``(C, H, W)`` in [-1, 1], the prior it was made for, and whether its hole is known."""

    image: Tensor
    prior: str
    is_whole: bool = False


@dataclass(frozen=True, eq=False)
class Done:
    """A job with its result, and the seeds of the draws that were added."""

    job: Job
    result: vp.Result
    added: tuple[int, ...] = ()

    def more(self) -> Done:
        """With ``MORE`` draws from the same fit."""
        seed = self.job.seed + 1 + len(self.added)
        samples = torch.cat([self.result.samples, self.result.sample(MORE, seed=seed).samples])
        return Done(self.job, replace(self.result, samples=samples, latents=None), (*self.added, seed))

    def lines(self) -> str:
        """Python that repeats the run, and the draws that were added."""
        parts = "".join(f", result.sample({MORE}, seed={seed}).samples" for seed in self.added)
        return self.job.lines(f"samples = torch.cat([result.samples{parts}])\n" if parts else "")


@dataclass(eq=False)
class Sessions:
    """The run of each session, so that a cancel button ends no other session's."""

    events: dict[str, Event] = field(default_factory=dict)

    def begin(self, request: gr.Request) -> None:
        """A run of a session is asked for; an earlier one that still goes ends."""
        self.cancel(request)
        self.events[str(request.session_hash)] = Event()

    def of(self, request: gr.Request) -> Event:
        """The event that cancels the run of a session, whether it goes or waits for its turn."""
        return self.events.setdefault(str(request.session_hash), Event())

    def cancel(self, request: gr.Request) -> None:
        """Ends the run of a session between two network calls."""
        self.of(request).set()

    def end(self, request: gr.Request) -> None:
        """The page of a session was closed."""
        self.cancel(request)
        del self.events[str(request.session_hash)]


@dataclass(frozen=True, eq=False)
class Answers:
    """What the page answers to each event.

    Attributes:
        folder: where downloads are made.
        offered: names and folders of priors.
        device: of the runs.
        own_folders: whether a visitor may name further folders of this machine.
    """

    folder: Path
    offered: Sequence[str]
    device: str = "auto"
    own_folders: bool = True
    sessions: Sessions = field(default_factory=Sessions)

    def source(self, prior: Any) -> str:
        """The prior, refused unless a visitor may use it."""
        if not self.own_folders:
            choice("prior", prior, self.offered)
        check_source(prior)
        return str(prior)

    def prior(self, name: str) -> tuple[Any, ...]:
        """A prior was chosen: its held-out pictures and its classes; the picture of another prior goes."""
        loaded = load(self.source(name), self.device)
        pictures, _ = held_out_pictures(name, HELD_OUT)
        shelf = gr.Gallery([enlarged(x) for x in pictures] or None, visible=len(pictures) > 0)
        classes = gr.Dropdown([("any", ANY), *loaded.class_names], value=ANY, visible=len(loaded.class_names) > 0)
        prompt = gr.Textbox(visible=loaded.encode_text is not None)
        note = "" if len(pictures) else "No held-out pictures ship with this prior: upload one."
        return shelf, classes, prompt, None, None, note

    def shelf(self, name: str, event: gr.SelectData) -> tuple[Any, ...]:
        """A held-out picture was chosen, whose class is known."""
        pictures, labels = held_out_pictures(self.source(name), HELD_OUT)
        image = pictures[event.index]
        names = load(name, self.device).class_names
        label = ANY if labels is None or not names else names[int(labels[event.index])]
        return Chosen(image, name, True), enlarged(image), label, "A held-out picture: the prior was not trained on it."

    def upload(self, path: str, name: str, grey: bool) -> tuple[Any, ...]:
        """A picture was uploaded."""
        image, note = read_upload(path, load(self.source(name), self.device).image_shape, grey)
        return Chosen(image, name), enlarged(image), ANY, note

    def middle(self, picture: Chosen | None) -> dict[str, Any]:
        """The middle shall be hidden."""
        if picture is None:
            raise InputError(NO_PICTURE)
        return _with_strokes(picture.image, middle_hidden(picture.image))

    def job(self, picture: Chosen | None, canvas: Any, softness: float, prior: str, *rest: Any) -> Job:
        """The job that the values of the page state."""
        if picture is None or picture.prior != prior:
            raise InputError(NO_PICTURE)
        label, prompt, preset, samples, guide, objective, beta, particles, levels, steps, correction, refine, seed = (
            rest
        )
        return Job(
            picture.image, mask_of(painted(canvas, picture.image.shape[1:]), softness), self.source(prior),
            truth=picture.image if picture.is_whole else None, label=label or None, prompt=prompt or None,
            levels=int(levels), num_samples=int(samples), preset=preset, guide=guide, objective=objective, beta=beta,
            num_particles=int(particles), correction=correction, steps=int(steps) or None,
            refine_steps=int(refine) or None, seed=int(seed),
        )  # fmt: skip

    def states(self, request: gr.Request, *asked: Any) -> Iterator[State]:
        """The states of the run that the values of the page ask for, and its result in the last one."""
        yield from run(self.job(*asked), self.sessions.of(request), self.device)

    def finished(self, done: Done | None) -> Done:
        """A result, refused where there is none."""
        if done is None:
            raise InputError("There is no result yet: run first.")
        return done

    def archive(self, done: Done) -> str:
        """The path of the download."""
        prior, folder = load(done.job.prior, self.device), Path(mkdtemp(dir=self.folder))
        return str(views.download(done.job, done.result, prior, folder, done.lines()))

    def more(self, done: Done | None) -> Done:
        """More samples were asked for."""
        with turn():
            return self.finished(done).more()

    def interval(self, done: Done | None, percent: float) -> tuple[Any, ...]:
        """The ends of the interval at a level, or why there are none."""
        if done is None:
            return None, None, None, None, ""
        average = enlarged(done.result.mean[0])
        try:
            low, high = views.pixel_interval(done.result, percent / 100)
        except InputError as error:
            return None, average, None, None, _error(error)
        return enlarged(low), average, enlarged(high), views.width_figure(low, high), "Click a pixel of the mean."

    def pixel(self, done: Done | None, percent: float, event: gr.SelectData) -> str:
        """A pixel of the mean was clicked."""
        result = self.finished(done).result
        column, line = (int(value) // zoom(result.mean.shape[-2:]) for value in event.index)
        ends = views.pixel_interval(result, percent / 100)
        return views.pixel_sentence(result, *ends, percent / 100, (line, column))

    def probability(self, done: Done | None, canvas: Any, threshold: float) -> str:
        """The question of a painted region."""
        result = self.finished(done).result
        return views.probability_sentence(result, painted(canvas, result.mean.shape[-2:]) >= 0.5, threshold)


def page(folder: Path, priors: Sequence[str] = (), device: str = "auto", own_folders: bool = True) -> gr.Blocks:
    """The page.

    Args:
        folder: where downloads are made.
        priors: names and folders to offer first; the first is selected.
        device: of the runs.
        own_folders: whether a visitor may name further folders of this machine.
    """
    answers = Answers(folder, tuple(dict.fromkeys([*priors, *prior_names()])), device, own_folders)
    with gr.Blocks(title="VIPaint", analytics_enabled=False, delete_cache=(600, KEPT)) as blocks:
        chosen, done = gr.State(), gr.State(time_to_live=KEPT)
        gr.Markdown(f"# {TITLE}\n{SENTENCE}")
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320, elem_classes="step"):
                picture = lay_picture(answers.offered, own_folders)
            with gr.Column(scale=5, min_width=320, elem_classes="step"):
                hole = lay_hole()
            with gr.Column(scale=4, min_width=320, elem_classes="step"):
                running = lay_run()
        results = lay_results()
        _wire_picture(blocks, answers, chosen, picture, hole, running)
        _wire_run(blocks, answers, (chosen, done), picture, hole, running, results)
    return blocks


def _wire_picture(
    blocks: gr.Blocks, answers: Answers, chosen: gr.State, picture: Picture, hole: Hole, running: Run
) -> None:
    """The first two steps."""
    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    of_prior = [picture.shelf, running.label, running.prompt, chosen, hole.editor, picture.note]
    of_picture = [chosen, hole.editor, running.label, picture.note]
    gr.on([blocks.load, picture.prior.change], _one_line(answers.prior), picture.prior, of_prior, **quick)
    picture.shelf.select(_one_line(answers.shelf), picture.prior, of_picture, **quick)
    uploaded = [picture.upload, picture.prior, picture.grey]
    picture.upload.upload(_one_line(answers.upload), uploaded, of_picture, **quick)
    hole.middle.click(_one_line(answers.middle), chosen, hole.editor, **quick)
    guide = running.method.guide
    guide.change(lambda family: PRESETS[family != OF_THE_PRESET], guide, running.preset, **quick)  # one fits, one not


@dataclass(frozen=True, eq=False)
class Shown:
    """What the page shows of a run: when it begins, while it goes, and when it is done."""

    answers: Answers
    running: Run
    results: Results
    done: gr.State

    def begin(self, request: gr.Request) -> dict[Any, Any]:
        """A new run takes the place of the last one."""
        running = self.running
        self.answers.sessions.begin(request)
        return {
            running.start: gr.Button(interactive=False), running.cancel: gr.Button(interactive=True),
            running.preview: gr.Image(visible=False), running.bound: gr.Plot(visible=False),
            running.status: "Starting …",
        }  # fmt: skip

    def follow(self, request: gr.Request, *asked: Any) -> Iterator[dict[Any, Any]]:
        """Each state of the run; last, an error or none, and the buttons as they were."""
        running, drawn = self.running, 1
        over: dict[Any, Any] = {
            running.start: gr.Button(interactive=True), running.cancel: gr.Button(interactive=False),
        }  # fmt: skip
        try:
            for state in self.answers.states(request, *asked):
                yield self._update(state, drawn, asked)
                drawn = max(drawn, len(state.bounds))
        except Exception as error:
            over[running.status] = _error(error)
        yield over

    def _update(self, state: State, drawn: int, asked: Sequence[Any]) -> dict[Any, Any]:
        """What has changed where ``drawn`` steps of the fit are in the curve."""
        update: dict[Any, Any] = {self.running.status: _sentence(state)}
        if state.pictures is not None:
            update[self.running.preview] = gr.Image(views.row(state.pictures), visible=True)
        if len(state.bounds) > drawn:
            update[self.running.bound] = gr.Plot(views.bound_figure(state.bounds), visible=True)
        if state.result is not None:
            update[self.done] = Done(self.answers.job(*asked), state.result)
        return update

    def show(self, finished: Done | None, status: str) -> dict[Any, Any]:
        """The tabs, of a run that was not cancelled."""
        results = self.results
        if finished is None or status != WORDS["done"]:
            return {results.tabs: gr.skip()}
        job, result = finished.job, finished.result
        figure, text = _parts(job, result)
        return {
            results.tabs: gr.Tabs(visible=True), self.running.status: views.summary(result),
            results.samples: views.gallery(result), results.mean: enlarged(result.mean[0]),
            results.spread: views.spread_figure(result), results.region: enlarged(result.mean[0]), results.answer: "",
            results.parts: gr.Plot(figure, visible=figure is not None), results.parts_text: text,
            results.lines: finished.lines(), results.files: self.answers.archive(finished),
        }  # fmt: skip


def _wire_run(
    blocks: gr.Blocks,
    answers: Answers,
    states: tuple[gr.State, gr.State],
    picture: Picture,
    hole: Hole,
    running: Run,
    results: Results,
) -> None:
    """The third step and the tabs: whatever uses the library goes one after another."""
    chosen, done = states
    page = Shown(answers, running, results, done)
    method = [getattr(running.method, each.name) for each in fields(running.method)]
    asked = [chosen, hole.editor, hole.softness, picture.prior, running.label, running.prompt, running.preset]
    seen = [running.start, running.cancel, running.status, running.preview, running.bound, done]
    shown = [
        results.tabs, running.status, results.samples, results.mean, results.spread, results.region, results.answer,
        results.parts, results.parts_text, results.lines, results.files,
    ]  # fmt: skip
    ends = [results.lower, results.average, results.upper, results.width, results.pixel]
    alone: dict[str, Any] = {
        "concurrency_id": "library", "concurrency_limit": 1, "show_progress": "hidden", "api_visibility": "private",
    }  # fmt: skip
    begun = running.start.click(page.begin, None, seen, queue=False)
    followed = begun.then(page.follow, [*asked, running.samples, *method], seen, **alone)
    followed.then(_one_line(page.show), [done, running.status], shown, **alone).then(
        _one_line(answers.interval), [done, results.level], ends, **alone
    )
    running.cancel.click(answers.sessions.cancel, None, None, queue=False)
    blocks.unload(answers.sessions.end)
    added = results.more.click(_one_line(answers.more), done, done, **{**alone, "show_progress": "minimal"})
    added.success(lambda: WORDS["done"], None, running.status, queue=False).success(
        _one_line(page.show), [done, running.status], shown, **alone
    ).success(_one_line(answers.interval), [done, results.level], ends, **alone)
    results.level.release(_one_line(answers.interval), [done, results.level], ends, **alone)
    results.average.select(_one_line(answers.pixel), [done, results.level], results.pixel, **alone)
    questioned = [done, results.region, results.threshold]
    results.ask.click(_one_line(answers.probability), questioned, results.answer, **alone)


def _with_strokes(image: Tensor, hidden: Tensor) -> dict[str, Any]:
    """The value of an image editor that shows ``image`` with the pixels of ``hidden`` ``(1, H, W)`` painted over."""
    background, side = enlarged(image), zoom(image.shape[-2:])
    alpha = hidden[0].numpy().astype(np.uint8).repeat(side, 0).repeat(side, 1)[..., None] * 255
    colour = np.array([int(RED[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.uint8)
    layer = np.concatenate([np.broadcast_to(colour, background.shape), alpha], -1)
    return {"background": background, "layers": [layer], "composite": np.where(alpha > 0, colour, background)}


def _sentence(state: State) -> str:
    """A state in words."""
    if state.phase not in PHASES:
        return WORDS[state.phase]
    bound = f", bound on log p(y) {state.bounds[-1]:.1f} nats" if state.bounds else ""
    return f"{PHASES[state.phase]}: step {state.step} of {state.total}{bound}"


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
    """An error in one line."""
    return f"**{' '.join(told(error)[0].split())}**"


def _one_line(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, whose errors the page shows in one line."""

    @wraps(function)
    def shown(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            raise gr.Error(" ".join(told(error)[0].split()), print_exception=False) from None

    return shown
