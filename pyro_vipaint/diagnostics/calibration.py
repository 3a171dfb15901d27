r"""Simulation-based calibration: a test of a posterior *on average over the prior's own data*.

Draw theta from the prior and y from the model, then L draws theta_1 … theta_L of the posterior given y. If they come
from the exact posterior, theta and the draws are exchangeable given y, so for every test quantity f(theta, y)

.. math:: r = \#\{l : f(\theta_l, y) < f(\theta, y)\} \sim U\{0, …, L\}

(Talts, Betancourt, Simpson, Vehtari & Gelman 2018), and the data-averaged posterior is the prior. Ranks concentrate at
both ends if the posterior is too narrow, in the middle if it is too wide, and on one side if it is shifted. The test
does not show errors that cancel over data sets, errors on data that the prior does not produce, or errors that no test
quantity measures. A sampler that ignores the data and returns the prior passes for every quantity of theta alone
(Modrák et al. 2023): use a quantity of the data as well, such as :func:`log_likelihood`.

VSBC (Yao, Vehtari, Simpson & Gelman, *Yes, but did it work?*, ICML 2018) tests the marginals of a variational
approximation by p_j = P(theta < theta_j) per dimension. The guide is too low if p is mostly above 1/2. A symmetric p
with the wrong spread shows in the uniformity only; dependence between dimensions shows in neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import gradients, seeded, widest
from pyro_vipaint.diagnostics.uniformity import chi_square_test, ecdf_test, symmetry_test
from pyro_vipaint.errors import numbers, whole
from pyro_vipaint.sampling import sample

if TYPE_CHECKING:
    import pandas as pd

Quantity = Callable[[Tensor, Tensor], Tensor]
"""``f(theta, y)``: ``(..., N, *event)`` and ``(N, *observation)`` to ``(..., N)``."""


@dataclass(frozen=True, eq=False)
class SBC:
    """Test quantities of N simulations, by name.

    Attributes:
        truth: f(theta, y), ``(N,)``.
        draws: f(theta_l, y), ``(L, N)``.
        ranks: draws below the truth, 0 … L, ties broken at random, ``(N,)``.
    """

    truth: dict[str, Tensor]
    draws: dict[str, Tensor]
    ranks: dict[str, Tensor]

    __repr__, _repr_html_ = compact, as_html

    @property
    def num_draws(self) -> int:
        """L."""
        return len(next(iter(self.draws.values())))

    def uniformity(self) -> pd.DataFrame:
        """p-values of uniform ranks by ``quantity``: ``ecdf`` (exact, simultaneous) and ``chi_square``.

        With Q quantities compare with a level divided by Q. :mod:`uniformity` has a histogram and a band for plots.
        """
        import pandas as pd

        ranks = torch.stack(list(self.ranks.values()), -1)
        ecdf, chi_square = (test(ranks, self.num_draws).tolist() for test in (ecdf_test, chi_square_test))
        return pd.DataFrame({"quantity": list(self.ranks), "ecdf": ecdf, "chi_square": chi_square})

    def data_averaged(self) -> pd.DataFrame:
        """The data-averaged posterior against the prior, by ``quantity``, as paired z-scores.

        Columns ``mean_z`` and ``square_z``: the average over data sets of E[g given y] - g(theta), in its standard
        errors, for g = f and g = f squared about the prior's mean; ``square_z`` is negative for a posterior that is too
        narrow. For an exact posterior and many simulations they are standard normal. The prior itself passes.

        Raises:
            InputError: a single simulation, which has no standard error.
        """
        import pandas as pd

        whole("the number of simulations", len(next(iter(self.truth.values()))), least=2)  # of a standard error
        rows = []
        for name, truth in self.truth.items():
            f, draws = truth - truth.mean(), self.draws[name] - truth.mean()
            rows.append((name, _paired_z(draws.mean(0) - f), _paired_z((draws**2).mean(0) - f**2)))
        return pd.DataFrame(rows, columns=["quantity", "mean_z", "square_z"])


def _paired_z(differences: Tensor) -> float:
    return float(differences.mean() / differences.std() * math.sqrt(len(differences)))


def rank_statistics(truth: Tensor, draws: Tensor) -> Tensor:
    """The number of ``draws`` ``(L, ...)`` below ``truth`` ``(...)``, 0 … L, with ties broken at random.

    Raises:
        InputError: there is no draw, the shapes do not fit, or a value is infinite or NaN, which has no rank.
    """
    numbers("truth", truth)
    numbers("draws", draws, ("L", *truth.shape), least=1)
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    return below + (torch.rand(equal.shape, device=equal.device) * (equal + 1)).long().clamp(max=equal)


def sbc(
    draw_prior_and_data: Callable[[int], tuple[Tensor, Tensor]],
    posterior_sampler: Callable[[Tensor, int], Tensor],
    quantities: Mapping[str, Quantity],
    num_simulations: int = 200,
    num_draws: int = 99,
    *,
    seed: int | None = None,
) -> SBC:
    """Ranks of test quantities over data sets from the prior, all data sets at once.

    Args:
        draw_prior_and_data: ``N -> (theta (N, *event), y (N, *observation))``, drawn jointly.
        posterior_sampler: ``(y, L) -> (L, N, *event)``, independent draws for each of the N data sets.
        quantities: functions of (theta, y) by name; see :func:`coordinates` and :func:`log_likelihood`.
        num_simulations: N.
        num_draws: L; 99 gives 100 ranks, which many numbers of bins divide.
        seed: seed of all random numbers; ``None`` continues the global generator.

    Raises:
        InputError: a number is less than 1, there is no quantity, or an error of :func:`rank_statistics`.
    """
    whole("num_simulations", num_simulations)
    whole("num_draws", num_draws)
    whole("the number of quantities", len(quantities))
    with seeded(seed), torch.no_grad():
        theta, y = draw_prior_and_data(num_simulations)
        with gradients():
            samples = posterior_sampler(y, num_draws).detach()
        truth = {name: quantity(theta, y) for name, quantity in quantities.items()}
        draws = {name: quantity(samples, y) for name, quantity in quantities.items()}
        ranks = {name: rank_statistics(truth[name], draws[name]) for name in quantities}
    return SBC(truth, draws, ranks)


def sbc_of_guide(
    model: Any,
    guide_factory: Callable[[Any, Tensor], Any],
    fit: Callable[[Any, Any, Tensor], Any],
    quantities: Mapping[str, Quantity],
    num_simulations: int = 200,
    num_draws: int = 99,
    *,
    seed: int | None = None,
) -> SBC:
    """Calibration of a guide family and its fit, on z_Ts of the K-level model: one fit of N images in one plate.

    Args:
        model: a :class:`DiffusionModel`; its conditions, if any, are for ``num_simulations`` images.
        guide_factory: ``(model, y) -> guide``, unfitted.
        fit: ``(model, guide, y)``; fits the guide in place, for instance by :func:`pyro_vipaint.fit`.
        quantities, num_simulations, num_draws, seed: as for :func:`sbc`; the quantities are functions of (z_Ts, y).

    The truth comes from the model's own chain: the test judges the *guide* as an approximation of the K-level model's
    posterior, not the prior as a description of images.
    """

    def posterior_sampler(y: Tensor, count: int) -> Tensor:
        guide = guide_factory(model, y)
        fit(model, guide, y)
        return sample(guide, y, count)

    simulator = partial(draw_latent_and_data, model)
    return sbc(simulator, posterior_sampler, quantities, num_simulations, num_draws, seed=seed)


@torch.no_grad()
def draw_latent_and_data(model: Any, num_images: int) -> tuple[Tensor, Tensor]:
    """z_Ts ``(N, *event)`` and y ``(N, *observation)`` from the model, with y zero where it is not observed.

    The program also draws the hidden elements; a guide's initial value must not depend on them.

    Raises:
        InputError: ``num_images`` is less than 1.
    """
    whole("num_images", num_images)
    trace = poutine.trace(model).get_trace(num_images=num_images)
    z, y = (trace.nodes[name]["value"] for name in (model.levels[-1].name, "y"))
    observed = getattr(model.likelihood, "observed", torch.ones_like)(y)
    return z, torch.where(observed != 0, y, torch.zeros_like(y))


def coordinates(indices: range | list[int], event_dim: int) -> dict[str, Quantity]:
    """Elements of theta as test quantities, by their index in the flattened event."""
    return {f"theta[{i}]": lambda theta, y, i=i: theta.flatten(theta.ndim - event_dim)[..., i] for i in indices}


def log_likelihood(model: Any) -> Quantity:
    """log p(y | z_Ts) as a test quantity, which depends on the data: one network call per draw.

    Calibration needs observations drawn from the likelihood; :class:`Perceptual` draws them without its LPIPS factor,
    so that ranks under it are not uniform even for an exact posterior.
    """

    def quantity(z: Tensor, y: Tensor) -> Tensor:
        leading = z.ndim - model.prior.event_dim
        terms = model.likelihood(model.reconstruct(z)).log_prob(y)
        return terms.flatten(leading).sum(-1) if terms.ndim > leading else terms

    return quantity


class VSBC(NamedTuple):
    """Marginal calibration by dimension.

    Attributes:
        p: P(theta < theta_true) under the approximation, ``(N, *event)``, in (0, 1).
        symmetry: exact p-values that p is symmetric about 1/2, ``(*event)``: is the point estimate unbiased?
        uniformity: exact p-values that p is uniform, ``(*event)``: is the marginal right on average?
    """

    p: Tensor
    symmetry: Tensor
    uniformity: Tensor

    __repr__, _repr_html_ = compact, as_html


def vsbc(truth: Tensor, draws: Tensor, *, seed: int | None = None) -> VSBC:
    """VSBC from simulations: true values ``(N, *event)`` and draws of the approximation ``(L, N, *event)``.

    p is (r + u) / (L + 1) with rank r and uniform u, so that an exact marginal gives a continuous uniform p for any L.
    With D dimensions compare with a level divided by D. ``seed`` is the seed of u and of ties. Errors are those of
    :func:`rank_statistics`; a single true value is enough, but the smallest p-values are then 1.
    """
    with seeded(seed):
        ranks = rank_statistics(truth, draws)
        p = (ranks + torch.rand(ranks.shape, dtype=widest(ranks.device), device=ranks.device)) / (len(draws) + 1)
    return VSBC(p, symmetry_test(p), ecdf_test(ranks, len(draws)))
