"""What the page asks for: one call of :func:`pyro_vipaint.inpaint`, and the lines of Python that repeat it.

The names on the page are names of the library. Each of them stands for an expression, which the lines show, and for
what the expression evaluates to, which the call takes: the tests run the lines and compare the samples bit for bit.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint import corrections, plugins
from pyro_vipaint.checks import guide_names
from pyro_vipaint.errors import InputError, choice
from pyro_vipaint.models import DiffusionPrior, embedded_priors
from pyro_vipaint.progress import Callback

OF_THE_PRESET = "of the preset"
FIT_STEPS = 30  # of an annealed objective, whose weights need their number: the default of the preset for pictures
ANNEALED_FROM = 10.0  # beta of an annealed objective at its first step
OBJECTIVES = ("BetaELBO", "SampledELBO", "StickingTheLandingELBO", "RenyiELBO", "AnnealedELBO")
CORRECTIONS = ("DPS", "PiGDM", "MMPS", "TMPD", "DDNM", "DiffPIR", "OptimalCovariance", "Wiener")
FILE = "problem.safetensors"  # of the download: the image, which is zero where it is hidden, and the mask


@dataclass(frozen=True, eq=False)
class Job:
    """One run.

    Attributes:
        image: ``(C, H, W)`` in [-1, 1]; hidden pixels have no influence.
        mask: ``(1, H, W)``, 1 = observed, 0 = hidden, soft between them.
        prior: the name of a shipped prior, or a folder.
        truth: the undamaged picture, where it is known.
        label: the name of a class, or None.
        guide, objective, correction: one of ``guide_names()``, ``OBJECTIVES``, ``CORRECTIONS``, or ``OF_THE_PRESET``.
        beta, num_particles: of an objective that is not of the preset; RenyiELBO, which is importance weighted, and
            AnnealedELBO, which ends at 1, have no beta.
        levels, num_samples, prompt, preset, steps, refine_steps, seed: as for :func:`pyro_vipaint.inpaint`.

    Raises:
        InputError: a name is unknown, or the prior is neither shipped nor a folder.
    """

    image: Tensor
    mask: Tensor
    prior: str
    truth: Tensor | None = None
    label: str | None = None
    prompt: str | None = None
    levels: int = 4
    num_samples: int = 10
    preset: str = "inference"
    guide: str = OF_THE_PRESET
    objective: str = OF_THE_PRESET
    beta: float = 1.0
    num_particles: int = 1
    correction: str = OF_THE_PRESET
    steps: int | None = None
    refine_steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_source(self.prior)
        choice("guide", self.guide, (OF_THE_PRESET, *guide_names()))
        choice("objective", self.objective, (OF_THE_PRESET, *OBJECTIVES))
        choice("correction", self.correction, (OF_THE_PRESET, *CORRECTIONS))
        twisted = self.guide == OF_THE_PRESET and self.preset == "inference"
        if self.objective == "StickingTheLandingELBO" and twisted:
            raise InputError("StickingTheLandingELBO needs a guide of its own: choose one, such as HierarchicalGuide.")

    def call(self, prior: DiffusionPrior, callback: Callback | None = None, device: str = "auto") -> vp.Result:
        """Runs it with the loaded ``prior``."""
        values = {name: value for name, (_, value) in self._arguments().items()}
        return vp.inpaint(self.problem["image"], self.mask, prior, device=device, callback=callback, **values)

    @property
    def problem(self) -> dict[str, Tensor]:
        """The tensors that ``FILE`` holds: nothing of what is hidden."""
        return {"image": torch.where(self.mask > 0, self.image, 0.0), "mask": self.mask}

    def lines(self, questions: str = "") -> str:
        """Python that repeats the run beside the files of the download, and then asks ``questions``."""
        given = "".join(f"    {name}={text},\n" for name, (text, _) in self._arguments().items())
        imports = "from pyro_vipaint import corrections\n" if "corrections." in given else ""
        torch_too = "import torch\n" if "torch." in questions else ""
        return (
            f"{torch_too}from safetensors.torch import load_file\n\n"
            f"import pyro_vipaint as vp\n{imports}\n"
            f'problem = load_file("{FILE}")  # of the download\n'
            "result = vp.inpaint(\n"
            f'    problem["image"], problem["mask"], {_text(self.prior)},\n{given})\n{questions}'
        )

    def _arguments(self) -> dict[str, tuple[str, Any]]:
        """The keyword arguments that are not defaults, each as an expression and as its value."""
        entries: dict[str, Any] = {
            "levels": self.levels, "num_samples": self.num_samples, "label": self.label, "prompt": self.prompt,
            "preset": self.preset, "steps": self._steps(), "refine_steps": self.refine_steps,
        }  # fmt: skip
        arguments = {name: (_text(value), value) for name, value in entries.items() if value is not None}
        if self.guide != OF_THE_PRESET:
            arguments["guide"] = (_text(self.guide), self.guide)
        if self.objective != OF_THE_PRESET:
            arguments["elbo"] = self._elbo()
        if self.correction != OF_THE_PRESET:
            arguments["correction"] = (f"corrections.{self.correction}()", getattr(corrections, self.correction)())
        return arguments | {"seed": (repr(self.seed), self.seed)}

    def _steps(self) -> int | None:
        return FIT_STEPS if self.steps is None and self.objective == "AnnealedELBO" else self.steps

    def _elbo(self) -> tuple[str, Any]:
        """The objective as an expression and as its value."""
        given: dict[str, Any] = {"num_particles": self.num_particles}
        if self.objective == "AnnealedELBO":
            given |= {"start": ANNEALED_FROM, "steps": self._steps()}
        elif self.objective != "RenyiELBO":
            given |= {"beta": self.beta}
        text = ", ".join(f"{name}={value!r}" for name, value in given.items())
        return f"vp.{self.objective}({text})", getattr(vp, self.objective)(**given)


def prior_names() -> list[str]:
    """The names of priors, shipped and of plug-ins, the first of which the page begins with."""
    return list(dict.fromkeys(["fashion32", *embedded_priors(), *plugins.found("priors")]))


def _text(value: Any) -> str:
    """A number or a text as Python writes it, a text in double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def check_source(prior: Any) -> None:
    """Refuses what is neither the name of a prior nor a folder: the page asks no hub.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(prior, str) or not (prior in prior_names() or os.path.isdir(prior)):
        names = ", ".join(prior_names())
        raise InputError(
            f"There is no prior {str(prior)!r:.80}: choose {names}, or the folder of a prior on this machine."
        )
