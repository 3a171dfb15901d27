"""What the names in a plan stand for: methods, tasks, images and scores.

The authors' settings of a method are made for the authors' number of steps. At a budget, DPS has a zeta that was tuned
(``docs/tuning.md``): 1 on fashion32, 2.5 there with fewer than 40 steps, 4 on cats64. RePaint and CoPaint-TT jump back
over shorter stretches at a budget, since one of the authors' stretches would take most of it. DAPS, DING and MGDM have
one call or one gradient step per level at a budget, and DAPS an r that suits an exact draw: on 16 images that no table
shows these were better at 25 calls than the authors' numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pyro_vipaint import baselines, plugins
from pyro_vipaint.bench.grid import Cell
from pyro_vipaint.bench.methods import Baseline, Method, VIPaint
from pyro_vipaint.bench.scores import Score, image_scores
from pyro_vipaint.bench.tasks import TASKS, Task
from pyro_vipaint.bench.trials import Trial, load_trial
from pyro_vipaint.bench.warm_start import Control, warm_start, warm_start_calls


class Methods(dict[str, Method]):
    """The methods of this library, and by their names those of plug-ins, which no loop over them meets.

    A plug-in is loaded when it is looked up (:mod:`pyro_vipaint.plugins`), so that a broken one fails alone, and a
    comparison of all methods has the same methods wherever it runs.
    """

    def __missing__(self, name: str) -> Method:
        if name not in self:
            raise KeyError(name)
        method = plugins.load("baselines", name)
        if not all(hasattr(method, name) for name in ("applies", "numbers", "__call__")):
            raise plugins.unusable("baselines", name, method, "a Baseline of pyro_vipaint.bench, or a Method")
        return method

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self.plugged_in

    @property
    def plugged_in(self) -> list[str]:
        """The names of plug-ins."""
        return [*plugins.found("baselines")]


METHODS = Methods({
    "VIPaint-2": VIPaint(2),
    "VIPaint-4": VIPaint(4),
    "VIPaint-2, pictures": VIPaint(2, "pictures"),
    "VIPaint-4, pictures": VIPaint(4, "pictures"),
    "Warm start": Control(warm_start, warm_start_calls, latents=True),
    "Blended": Baseline(baselines.blended, baselines.blended_calls, latents=True, only_inpainting=True),
    "RePaint": Baseline(
        baselines.repaint,
        baselines.repaint_calls,
        only_inpainting=True,
        options={"jump_length": 5, "resamples": 4},
    ),
    "DPS": Baseline(
        baselines.dps,
        baselines.dps_calls,
        latents=True,
        options={"zeta": 1.0},
        short_options={"zeta": 2.5},
        latent_options={"zeta": 4.0},
    ),
    "PiGDM": Baseline(baselines.pi_gdm, baselines.pi_gdm_calls),
    "MMPS": Baseline(baselines.mmps, baselines.mmps_calls),
    "DDNM": Baseline(baselines.ddnm, baselines.ddnm_calls),
    "DiffPIR": Baseline(baselines.diffpir, baselines.diffpir_calls),
    "DAPS": Baseline(baselines.daps, baselines.daps_calls, options={"ode_steps": 1, "spread": 0.2}),
    "DDSMC": Baseline(baselines.ddsmc, baselines.ddsmc_calls, only_inpainting=True),
    "DING": Baseline(baselines.ding, baselines.ding_calls, only_inpainting=True, options={"delayed": True}),
    "MGDM": Baseline(baselines.mgdm, baselines.mgdm_calls, options={"gradient_steps": 1, "lr": 0.1}),
    "CoPaint": Baseline(baselines.copaint, baselines.copaint_calls),
    "CoPaint-TT": Baseline(baselines.copaint_tt, baselines.copaint_tt_calls, options={"tau": 5}),
    "RED-Diff": Baseline(baselines.red_diff, baselines.red_diff_calls, latents=True),
    "PSLD": Baseline(baselines.psld, baselines.psld_calls, pixels=False, latents=True),
    "ReSample": Baseline(baselines.resample, baselines.resample_calls, pixels=False, latents=True),
})  # fmt: skip


@dataclass(frozen=True, eq=False)
class Suite:
    """What a plan chooses from; everything in it travels to the workers, so that it must be picklable.

    Attributes:
        methods: by name.
        tasks: by name.
        load: ``(cell, task, device) -> trial``. The true images depend on the cell's prior, folder and numbers and on
            how the task draws them, on nothing else.
        scores: what is measured of the samples of a cell. One with several rows per image makes the table as long.
    """

    methods: Mapping[str, Method] = field(default_factory=lambda: METHODS)
    tasks: Mapping[str, Task] = field(default_factory=lambda: TASKS)
    load: Callable[[Cell, Task, str], Trial] = load_trial
    scores: tuple[Score, ...] = (image_scores,)

    def keeping(self, folder: Path) -> Suite:
        """The suite, whose tasks keep in ``folder`` what they draw."""
        tasks = {name: task.keeping(folder) for name, task in self.tasks.items()}
        return self if tasks == self.tasks else replace(self, tasks=tasks)

    def trial(self, cell: Cell, device: str) -> Trial:
        """What the method of the cell is tried on."""
        return replace(self.load(cell, self.tasks[cell.task], device), start=cell.start)


SUITE = Suite()
