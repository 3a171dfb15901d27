"""The result of one run of VIPaint, and what one can ask it; the answers are in the modules beside this one."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import JUDGING, SEEDS, child_seed, seeded
from pyro_vipaint.calls import count_calls
from pyro_vipaint.checks import as_tensor, check_truth
from pyro_vipaint.diagnostics.draws import weighted_draws
from pyro_vipaint.errors import InputError, whole
from pyro_vipaint.models.measurements.operators import Operator, observation_mask
from pyro_vipaint.progress import Callback
from pyro_vipaint.results import questions
from pyro_vipaint.results.approximation import Approximation
from pyro_vipaint.results.questions import Estimate, Function
from pyro_vipaint.settings import Settings
from pyro_vipaint.svi import Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyro_vipaint.guides import LatentGuide
    from pyro_vipaint.models import DiffusionModel, DiffusionPrior
    from pyro_vipaint.plotting import Animation
    from pyro_vipaint.plotting.browser import Browser


@dataclass(frozen=True, eq=False)
class Result:
    """The result of :func:`pyro_vipaint.inpaint` and :func:`pyro_vipaint.restore`; images in [-1, 1], on the CPU.

    Questions are answered by the samples, in which observed pixels are as uncertain as the noise of y leaves them: they
    are not pasted in. Errors are those of the number of samples; whether the guide is right is another question
    (docs/truth.md, :func:`pyro_vipaint.diagnostics.conformalize`).

    Attributes:
        samples: posterior samples, ``(S, N, C, H, W)``; observed pixels are not pasted into them.
        observation: y, ``(N, *observation)``, zero where hidden; for a mask m ⊙ image.
        operator: A.
        fit: losses, terms and cost of phase 1.
        settings: the numbers of this run.
        calls: network calls of both phases; of :meth:`sample`, those of the new samples.
        nfe: images passed through the network in them.
        seconds: wall time.
        picture: y in the units of images, zero where hidden; that is y itself, but for counts.
        gradients: images whose gradient was taken through the network.
        approximation: the fitted guide with its model, on the device of the run.
        latents: the guide's draws behind the samples by site, ``(S, N, *event)``; None for guides of Pyro.
    """

    samples: Tensor
    observation: Tensor
    operator: Operator
    fit: Fit
    settings: Settings
    calls: int
    nfe: int
    seconds: float
    picture: Tensor | None = None
    gradients: int = 0
    approximation: Approximation | None = None
    latents: dict[str, Tensor] | None = None

    __repr__, _repr_html_ = compact, as_html

    def _picture_html(self) -> str:
        from pyro_vipaint.plotting import pictures_html

        return pictures_html(self)

    @property
    def mask(self) -> Tensor | None:
        """1 where the observation was observed, ``(N, …)``, broadcasts against it; None where all of it was."""
        mask = observation_mask(self.operator)
        if mask is None:
            return None
        mask = mask.cpu().float()
        mask = mask.reshape((1,) * (self.observation.ndim - mask.ndim) + mask.shape)
        return mask.expand(len(self.observation), *mask.shape[1:])

    @property
    def mean(self) -> Tensor:
        """Mean over samples, ``(N, C, H, W)``."""
        return self.samples.mean(0)

    @property
    def std(self) -> Tensor:
        """Standard deviation over samples, ``(N, C, H, W)``; zero for a single sample."""
        return self.samples.std(0, correction=1 if len(self.samples) > 1 else 0)

    @property
    def guide(self) -> Any:
        """The fitted guide, on the device of the run."""
        return self._fitted.guide

    @property
    def model(self) -> DiffusionModel:
        """The model that the guide approximates: prior, likelihood, keypoints and conditions."""
        return self._fitted.model

    @property
    def _fitted(self) -> Approximation:
        if self.approximation is None:
            raise InputError("This result has samples alone, and no guide to draw from: run inpaint or restore again.")
        return self.approximation

    def sample(self, num_samples: int = 10, *, seed: int | None = None, callback: Callback | None = None) -> Result:
        """New samples of the same fit: the guide's K - 1 network calls and those of the refinement, no new fit.

        Args:
            num_samples: S of the new result; the old samples are not in it.
            seed: of the new samples, which differ from those of the run with the same seed; the same call gives the
                same bits on one machine. ``None`` continues the global generator.
            callback: as for :func:`pyro_vipaint.restore`; phase ``refine`` alone.

        Raises:
            InputError: ``num_samples`` or ``seed`` is not a whole number in its range.
        """
        whole("num_samples", num_samples)
        child = None if seed is None else child_seed(whole("seed", seed, *SEEDS), JUDGING)
        begun = time.perf_counter()
        with seeded(child), count_calls() as count:
            samples, latents = self._fitted.draw(num_samples, callback)
        cost = {"calls": count.calls, "nfe": count.nfe, "gradients": count.gradients}
        return replace(self, samples=samples, latents=latents, seconds=time.perf_counter() - begun, **cost)

    def quantile(self, q: float, f: Function | None = None) -> Tensor:
        """The quantile of each pixel, ``(N, C, H, W)``, in [-1, 1]; or that of ``f``, ``(N,)``.

        Observed pixels are included.

        Args:
            q: in (0, 1), at position (S + 1) q of the ordered samples (Weibull).
            f: images ``(S, N, C, H, W)`` -> numbers ``(S, N)``.

        Raises:
            InputError: there are too few samples for ``q``; the message says how many it needs.
        """
        return questions.quantile(self.samples, q, f)

    def interval(self, level: float = 0.9, f: Function | None = None) -> tuple[Tensor, Tensor]:
        """Lower and upper end of the central credible interval of each pixel, ``(N, C, H, W)``; or of ``f``, ``(N,)``.

        Observed pixels are included. It covers the truth with probability ``level`` where the guide is exact;
        :func:`pyro_vipaint.diagnostics.conformalize` makes one that covers it where the guide is not.

        Args:
            level: in (0, 1); .9 needs 19 samples.
            f: images ``(S, N, C, H, W)`` -> numbers ``(S, N)``.

        Raises:
            InputError: S < 2 / (1 - level) - 1; the message says how many samples it needs.
        """
        return questions.interval(self.samples, level, f)

    def expectation(self, f: Function) -> Estimate:
        """E[f(x) given y] with its standard error, ``(N,)`` each, in the units of ``f``.

        Args:
            f: images ``(S, N, C, H, W)``, observed pixels included, -> numbers ``(S, N)``.

        Raises:
            InputError: ``f`` returns something else.
        """
        return questions.expectation(self.samples, f)

    def probability(self, f: Function) -> Estimate:
        """P(f(x) given y) with its standard error, ``(N,)`` each; the error is that of Jeffreys' prior, never zero.

        Args:
            f: images ``(S, N, C, H, W)``, observed pixels included, -> booleans ``(S, N)``.

        Raises:
            InputError: ``f`` returns something else.
        """
        return questions.probability(self.samples, f)

    def log_weights(self, *, seed: int | None = None, batch_size: int | None = None) -> Tensor:
        """log p(z, y) - log q(z) of the latents behind the samples, ``(S, N)``, in nats: S × N × (K + 1) NFE.

        On models that begin at t = 1, as with the default for pixels, it is S × N × K.
        With ``settings.spare`` the samples are a choice, and the mean of their weights estimates no evidence: for that
        :func:`pyro_vipaint.diagnostics.log_weights` draws from ``guide`` anew.

        Args:
            seed: of the estimate of log p(z_Te) where it is not exact; ``None`` continues the global generator.
            batch_size: samples in one pass; all if not given.

        Raises:
            InputError: the guide is one of Pyro, or has no density (:func:`pyro_vipaint.diagnostics.weighted_draws`).
        """
        if self.latents is None:
            raise InputError("These samples have no latents of a guide of this library: use diagnostics.log_weights.")
        fitted, count = self._fitted, len(self.samples)
        at = {name: value.to(fitted.y.device) for name, value in self.latents.items()}
        draws = weighted_draws(fitted.model, fitted.guide, fitted.y, count, seed=seed, batch_size=batch_size, at=at)
        return draws.log_weights.cpu()

    def to_arviz(self, *, latents: bool = False, seed: int | None = None) -> Any:
        """The samples for ArviZ: ``DataTree`` from ArviZ 1 on, ``InferenceData`` before.

        The weights cost as much as :meth:`log_weights`. Groups: ``posterior`` with the images ``x`` as one chain
        (observed pixels included), and with ``latents`` the sites of the guide; ``posterior_predictive`` with ``y``,
        A(x) and noise, zero where hidden; ``observed_data``; ``sample_stats`` with ``log_weight``
        (:meth:`log_weights`, omitted for guides without one), in nats; ``log_likelihood`` of y given x, one value per
        image, in nats, where the likelihood is normalised.

        Args:
            latents: whether to include them.
            seed: of the predictive noise and the estimate of the weights.

        Raises:
            InputError: ArviZ is not installed.
        """
        from pyro_vipaint.results.export import to_arviz

        return to_arviz(self, latents, seed)

    def save(self, folder: str | Path, *, without: Collection[str] = ()) -> None:
        """Writes all of this into ``folder``, as safetensors and JSON; :meth:`load` reads it.

        The prior is kept by its name, folder or hub id, as :func:`pyro_vipaint.models.load_prior` took it. Operators,
        likelihoods, corrections and guides are those of this library.

        Args:
            folder: new, empty, or with an earlier result, which is replaced as a whole.
            without: ``prior``, ``likelihood`` or both, which :meth:`load` is then given: for those that are objects of
                your own.

        Raises:
            InputError: the folder holds something else, or a part cannot be saved; nothing is written then.
        """
        from pyro_vipaint.results.saving import save

        save(self, Path(folder), without)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        prior: DiffusionPrior | None = None,
        likelihood: Any = None,
        guide: type[LatentGuide] | None = None,
        device: str = "auto",
    ) -> Result:
        """The result that was saved in ``folder``: the same samples, and the same new ones from the same seed.

        Args:
            folder: of :meth:`save`.
            prior, likelihood: those that were saved without; in the place of the saved ones otherwise.
            guide: the class of a guide that is your own.
            device: of the guide and the prior, as for :func:`pyro_vipaint.restore`.

        Raises:
            InputError: the folder holds something else or broken files, or lacks a part.
        """
        from pyro_vipaint.results.saving import load

        return load(Path(folder), prior, likelihood, guide, device)

    def plot(self, truth: Any = None) -> Figure:
        """The contact sheet, one row per image: truth where known, observation, mean, standard deviation, samples.

        Raises:
            InputError: the truth has another shape than the images; one truth may serve all of them.
        """
        from pyro_vipaint.plotting import contact_sheet

        if truth is not None:
            truth = as_tensor("truth", truth)
            check_truth(truth, self.mean.shape)
        return contact_sheet(self, truth)

    def animate(self) -> Animation:
        """The samples one after the other, each fading into the next; ``.save("samples.gif")``, or ``.html``.

        Raises:
            InputError: the samples are no grey or colour images.
        """
        from pyro_vipaint.plotting import samples_animation

        return samples_animation(self)

    def browse(self, image: int = 0) -> Browser:
        """A widget for notebooks: the samples, their quantiles by a slider, and a brush whose ``.mask`` Python reads.

        Args:
            image: which one.

        Raises:
            InputError: anywidget is not installed, there is no such image, or the samples are no pictures.
        """
        from pyro_vipaint.plotting import browse

        return browse(self, image)
