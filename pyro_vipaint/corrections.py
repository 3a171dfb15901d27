r"""Corrections: how a prediction of x moves towards an observation at one step of a sampler.

A Markov sampler draws z_s from the prior's transition with the corrected prediction,

.. math:: z_s \sim N(a\, z_t + b\, (\hat x + c), v), \qquad \hat x = E[x \mid z_t],

and methods differ in c. With A the operator, :math:`r = y - A \hat x`, the noise :math:`\sigma_y` of y, and
:math:`C_t = (\sigma_t^2 / \alpha_t)\, \partial \hat x / \partial z_t`, the covariance of x given z_t (Efron 2011),

.. math::
    \text{DPS} \quad & c = -\zeta\, c_t c_s / b \; \nabla_{z_t} |r| \\
    \text{Pi-GDM} \quad & c = C_t A^\top (r_t^2 A A^\top + \sigma_y^2)^{-1} r \\
    \text{MMPS} \quad & c = C_t A^\top (A C_t A^\top + \sigma_y^2)^{-1} r \\
    \text{TMPD} \quad & c = C_t A^\top \mathrm{diag}(A C_t A^\top 1 + \sigma_y^2)^{-1} r \\
    \text{optimal covariance} \quad & c = c_t A^\top (A c_t A^\top + \sigma_y^2)^{-1} r \\
    \text{DDNM} \quad & c = \lambda A^+ r, \qquad \lambda = \min(1, \sigma_s / (\alpha_s \sigma_y)) \\
    \text{DiffPIR} \quad & c = (A^\top A + \rho)^{-1} A^\top r, \quad \rho = \lambda (\sigma_y \alpha_t / \sigma_t)^2 \\
    \text{Wiener} \quad & c = \bar C_t A^\top (A \bar C_t A^\top + \sigma_y^2)^{-1} r, \quad
        \bar C_t = (\Sigma^{-1} + \alpha_t^2 / \sigma_t^2)^{-1}.

The first four take gradients of the network, :math:`C_t v = (\sigma_t^2 / \alpha_t) J^\top v`, which the prediction's
one call has made possible; the others take none. c_t is the diagonal of C_t, and Wiener's :math:`\Sigma` the
covariance of the images (:mod:`pyro_vipaint.models.priors.covariance`). :class:`ByLevel` is one correction at high
noise and another below it.

On a :class:`pyro_vipaint.models.MatchedPrior` the noise of a step has the variance of x given z_t and y in it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vipaint.distributions import low_rank_normal
from pyro_vipaint.errors import InputError, instance, number, whole
from pyro_vipaint.guides.base import gaussian
from pyro_vipaint.guides.twisted import Prediction
from pyro_vipaint.models.measurements.likelihoods import weighted
from pyro_vipaint.models.measurements.linalg import CGLS_STEPS
from pyro_vipaint.models.measurements.operators import Broadcasting, adjoint, apply, placed, pseudo_inverse
from pyro_vipaint.models.measurements.predictive import is_mask, mean_shift, noise_like, precision, remaining_variance
from pyro_vipaint.models.priors.covariance import DataCovariance
from pyro_vipaint.models.priors.kernels import bridge_coefficients, expand_event
from pyro_vipaint.models.priors.matched import MatchedPrior, matched_variance
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.models.priors.schedules import as_time

LEAST_NOISE = 0.001  # of sigma_y in DiffPIR
WIENER_STEPS = 60  # of conjugate gradients, whose matrix has a condition of about the data's variance over the noise's


class Move(NamedTuple):
    """z_s ~ N(mean + shift, std^2): the mean without the observation, what the observation adds, the noise.

    ``std`` is a number, or on a :class:`pyro_vipaint.models.MatchedPrior` a tensor that broadcasts to z_s. Where x
    given z_t has a covariance, the noise has ``columns`` as well, ``(N, r, *event)``, each times a number of its own.
    """

    mean: Tensor
    shift: Tensor
    std: float | Tensor
    columns: Tensor | None = None

    def law(self, tau: Tensor, event_dim: int) -> TorchDistribution:
        """N(mean + shift, (tau noise)^2)."""
        mean = self.mean + self.shift
        if self.columns is None:
            return gaussian(mean, tau * self.std, event_dim)
        return low_rank_normal(mean, tau * self.columns, (tau * self.std) ** 2, event_dim)

    def draw(self) -> Tensor:
        """z_s."""
        z = (self.mean + self.shift).detach() + self.std * torch.randn_like(self.shift)
        if self.columns is None:
            return z
        first = self.columns.ndim - (z.ndim - 2) - 1
        numbers = torch.randn(*z.shape[:2], self.columns.shape[first]).to(z)
        return z + torch.einsum(
            "snr,nr...->sn...", numbers, self.columns.expand(z.shape[1], *self.columns.shape[first:])
        )


class Correction(ABC):
    """A method's c, and its step from t to s; :meth:`move` is that of DDIM (Song, Meng & Ermon 2021) with ``std``.

    ``takes_gradients`` says whether c needs the gradient of the network.
    """

    takes_gradients: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, at: Prediction) -> Tensor:
        """c, of the shape of x_hat."""

    def check(self, prior: DiffusionPrior) -> None:
        """Refuses a prior that it cannot serve: one of latents, in which A is not linear."""
        if prior.is_latent:
            raise InputError(f"{type(self).__name__} needs a pixel prior, since A must be linear; use psld or dps.")

    def at_level(self, noise_level: float) -> Correction:
        """The correction at a noise level in units of ``sigma_data``: itself, but for :class:`ByLevel`."""
        return self

    def std(self, at: Prediction) -> float:
        """The standard deviation of the noise of a step, at most sigma_s; that of the prior's transition."""
        return at.step_std

    def move(self, at: Prediction, c: Tensor) -> Move:
        r"""The mean :math:`a z_t + b (\hat x + c)` with :math:`a = \sqrt{\sigma_s^2 - std^2} / \sigma_t`."""
        std = self.std(at)
        a = max(at.sigma_s**2 - std**2, 0.0) ** 0.5 / at.sigma_t
        b = at.alpha_s - at.alpha_t * a
        return Move(a * at.z + b * at.x_hat, b * c, *propagated(at, std, b))


@dataclass(frozen=True)
class DPS(Correction):
    """Chung et al. 2023: the gradient of the residual's norm. ``zeta`` is .5 in the paper for inpainting."""

    zeta: float = 0.5

    def __post_init__(self) -> None:
        number("zeta", self.zeta)

    def __call__(self, at: Prediction) -> Tensor:
        """c; one gradient."""
        c_t, c_s = math.hypot(at.alpha_t, at.sigma_t), math.hypot(at.alpha_s, at.sigma_s)
        (slope,) = torch.autograd.grad(
            residual_norm(at.likelihood, at.prior.decode(at.x_hat), at.y).sum(),
            at.x_hat,
            retain_graph=True,
            create_graph=at.differentiable,
        )
        return -self.zeta * c_t * c_s / at.b * at.pull_back(slope)


@dataclass(frozen=True)
class PiGDM(Correction):
    """Song et al. 2023, with r_t^2 = s^2 sigma_t^2 / (alpha_t^2 s^2 + sigma_t^2), s the prior's ``sigma_data``.

    ``eta`` is the share of the noise of the prior's transition: 1, the ancestral chain, in the paper's experiments.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        number("eta", self.eta, most=1.0)

    def std(self, at: Prediction) -> float:
        """eta times that of the prior's transition."""
        return self.eta * at.step_std

    def __call__(self, at: Prediction) -> Tensor:
        """c; one gradient."""
        variance = pixel_variance(at.prior.sigma_data, at.alpha_t, at.sigma_t)
        operator, residual = at.likelihood.operator, at.residual()
        if is_mask(operator):
            return at.covariance(adjoint(operator, residual / (variance + noise_of(at) ** 2)))
        return at.covariance(pseudo_inverse(operator, weighted(at.likelihood, residual), at.leading) / variance)


@dataclass(frozen=True)
class TMPD(Correction):
    """Boys et al. 2023: the covariance of y given z_t by its row sums."""

    def __call__(self, at: Prediction) -> Tensor:
        """c; two gradients."""
        operator, residual = at.likelihood.operator, at.residual()
        rows = apply(operator, at.covariance(adjoint(operator, torch.ones_like(residual), at.leading)))
        scale = rows.clamp(min=0) + noise_of(at) ** 2
        return at.covariance(adjoint(operator, residual / scale, at.leading))


@dataclass(frozen=True)
class MMPS(Correction):
    """Rozet et al. 2024: moment matching, the linear system by ``iterations`` steps of GMRES (azula's default is 1).

    The Jacobian of a learnt denoiser is not symmetric, for which conjugate gradients can diverge; GMRES cannot.
    """

    iterations: int = 1

    def __post_init__(self) -> None:
        whole("iterations", self.iterations)

    def __call__(self, at: Prediction) -> Tensor:
        """c; ``iterations`` gradients, since C A^T u is a combination of those that the iterations have taken."""
        operator, residual = at.likelihood.operator, at.residual()
        images: list[Tensor] = []

        def covariance_of_y(v: Tensor) -> Tensor:
            images.append(at.covariance(adjoint(operator, v, at.leading)))
            return apply(operator, images[-1]) + noise_of(at) ** 2 * v

        weights = gmres(covariance_of_y, residual, self.iterations, at.leading)
        return torch.stack([expand_event(w, image) * image for w, image in zip(weights, images, strict=True)]).sum(0)


@dataclass(frozen=True)
class OptimalCovariance(Correction):
    """Peng et al. 2024, type II: x given z_t is N(x_hat, c_t), c_t the denoising error, without the network's Jacobian.

    c_t is that of a :class:`pyro_vipaint.models.MatchedPrior`; on another prior r_t^2 of Pi-GDM takes its place. The
    conditioning is exact for masks and a :class:`pyro_vipaint.models.Matrix`; other operators take ``steps`` of
    conjugate gradients.
    """

    takes_gradients: ClassVar[bool] = False
    steps: int = CGLS_STEPS

    def __post_init__(self) -> None:
        whole("steps", self.steps)

    def __call__(self, at: Prediction) -> Tensor:
        """c; no gradient."""
        r = pixel_variance(at.prior.sigma_data, at.alpha_t, at.sigma_t)
        variance: Any = at.variance
        instance("the variance", variance, not isinstance(variance, DataCovariance), "one by element: use Wiener()")
        c = at.x_hat.new_full((), r) if variance is None else placed(variance, at.x_hat)
        shift = mean_shift(at.likelihood, c, at.residual(), at.x_hat)
        if shift is not None:
            return shift
        root, noise = c.sqrt(), noise_of(at)
        coloured = _Coloured(at.likelihood.operator, root.mul, at.leading)
        return root * proximal(coloured, at.residual(), noise, self.steps, at.leading)


@dataclass(frozen=True, eq=False)
class _Coloured(Broadcasting):
    """A C^(1/2), so that white images have the observations of images of covariance C; ``root`` is C^(1/2)."""

    operator: Any
    root: Callable[[Tensor], Tensor]
    leading: int

    def A(self, x: Tensor) -> Tensor:
        return apply(self.operator, self.root(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.root(adjoint(self.operator, y, self.leading))


@dataclass(frozen=True)
class DDNM(Correction):
    r"""Wang et al. 2023 (DDNM+): what A sees of x_hat is replaced by y, no further than the step's noise allows.

    .. math:: z_s = \alpha_s (\hat x + c) + \sigma_s (\sqrt{1 - \eta^2}\, \hat\epsilon + \eta\, \epsilon)

    with the network's own :math:`\hat\epsilon`. ``eta`` is .85 in the authors' code. The noise that y brings is not
    taken out of the step's noise as theirs is, but for the limit on c.
    """

    takes_gradients: ClassVar[bool] = False
    eta: float = 0.85

    def __post_init__(self) -> None:
        number("eta", self.eta, most=1.0)

    def std(self, at: Prediction) -> float:
        """eta sigma_s."""
        return self.eta * at.sigma_s

    def move(self, at: Prediction, c: Tensor) -> Move:
        """The correction moves x_hat alone, not the direction back to z_t."""
        return super().move(at, c)._replace(shift=at.alpha_s * c)

    def __call__(self, at: Prediction) -> Tensor:
        """c; no gradient."""
        share = (at.sigma_s / (at.alpha_s * noise_of(at)).clamp(min=1e-20)).clamp(max=1.0)
        return pseudo_inverse(at.likelihood.operator, share * at.residual(), at.leading)


@dataclass(frozen=True)
class DiffPIR(Correction):
    r"""Zhu et al. 2023: a proximal step, by ``steps`` of conjugate gradients (the first is exact for a mask).

    .. math:: z_s = \alpha_s (\hat x + c) + \sigma_s (\sqrt{1 - \zeta}\, \hat\epsilon + \sqrt\zeta\, \epsilon)

    with :math:`\hat\epsilon` the direction from the corrected prediction to z_t. ``lam`` and ``zeta`` are 1 in the
    authors' code for inpainting (zeta .1 for restoration), and sigma_y is at least .001.
    """

    takes_gradients: ClassVar[bool] = False
    lam: float = 1.0
    zeta: float = 1.0
    steps: int = CGLS_STEPS

    def __post_init__(self) -> None:
        number("lam", self.lam, positive=True)
        number("zeta", self.zeta, most=1.0)
        whole("steps", self.steps)

    def std(self, at: Prediction) -> float:
        """sqrt(zeta) sigma_s."""
        return self.zeta**0.5 * at.sigma_s

    def __call__(self, at: Prediction) -> Tensor:
        """c; no gradient."""
        scale = at.alpha_t / at.sigma_t * self.lam**0.5 * noise_of(at).clamp(min=LEAST_NOISE)
        return proximal(at.likelihood.operator, at.residual(), scale, self.steps, at.leading)


@dataclass(frozen=True, eq=False)
class Wiener(Correction):
    r"""The linear estimate of x - x_hat from y, for images of a known covariance: the gain of Wiener and of Kalman.

    It takes no gradient, and it sees correlations that the Jacobian of a network does not show at high noise, where
    :math:`\sigma_t^2` multiplies the errors of J. Where images are Gaussian it is exact; far below the noise level at
    which their modes part it is not.

    ``covariance`` is the prior's own if not given. For other operators than masks the linear system is solved by
    ``steps`` of conjugate gradients.
    """

    takes_gradients: ClassVar[bool] = False
    covariance: DataCovariance | None = None
    steps: int = WIENER_STEPS

    def __post_init__(self) -> None:
        whole("steps", self.steps)

    def check(self, prior: DiffusionPrior) -> None:
        """Refuses a prior of latents, and one of which no covariance is known."""
        super().check(prior)
        self._of(prior)

    def _of(self, prior: DiffusionPrior) -> DataCovariance:
        errors = prior.errors if isinstance(prior, MatchedPrior) else None
        own = errors if isinstance(errors, DataCovariance) else prior.data_covariance
        covariance = self.covariance or own
        if covariance is None:
            raise InputError("Wiener needs a covariance: Wiener(DataCovariance.of(images)), or one of the prior.")
        return covariance

    def __call__(self, at: Prediction) -> Tensor:
        """c; no gradient."""
        given = self._of(at.prior).given(at.sigma_t / at.alpha_t)
        operator, noise = at.likelihood.operator, noise_of(at)
        if is_mask(operator):
            return given.posterior_mean(precision(at.likelihood, at.x_hat), adjoint(operator, at.residual() / noise**2))
        coloured = _Coloured(operator, given.root, at.leading)
        return given.root(proximal(coloured, at.residual(), noise, self.steps, at.leading))


@dataclass(frozen=True, eq=False)
class ByLevel(Correction):
    """``high`` above a noise ``level``, sigma_t / alpha_t in units of the prior's ``sigma_data``, else ``low``.

    Where gradients are dear, ``ByLevel(Wiener(), PiGDM(), level)`` takes them only below ``level``.
    """

    high: Correction
    low: Correction
    level: float

    def __post_init__(self) -> None:
        for name in ("high", "low"):
            instance(name, getattr(self, name), isinstance(getattr(self, name), Correction), "a Correction: PiGDM()")
        number("level", self.level)

    @property
    def takes_gradients(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether either takes them."""
        return self.high.takes_gradients or self.low.takes_gradients

    def check(self, prior: DiffusionPrior) -> None:
        """Refuses a prior that either cannot serve."""
        self.high.check(prior)
        self.low.check(prior)

    def at_level(self, noise_level: float) -> Correction:
        """``high`` or ``low``."""
        return (self.high if noise_level > self.level else self.low).at_level(noise_level)

    def __call__(self, at: Prediction) -> Tensor:
        """That of the level."""
        return self._here(at)(at)

    def std(self, at: Prediction) -> float:
        """That of the level."""
        return self._here(at).std(at)

    def move(self, at: Prediction, c: Tensor) -> Move:
        """That of the level."""
        return self._here(at).move(at, c)

    def _here(self, at: Prediction) -> Correction:
        return self.at_level(at.sigma_t / at.alpha_t / at.prior.sigma_data)


def noise_of(at: Prediction) -> Tensor:
    """The standard deviation of the noise of y, a tensor that broadcasts to it."""
    return noise_like(at.likelihood, at.x_hat)


def propagated(at: Prediction, std: float, b: float) -> tuple[Tensor | float, Tensor | None]:
    """The noise of a step where x given z_t has the variance c_t: that of y's law for x, brought to z_s, is added."""
    if at.variance is None:
        return std, None
    if isinstance(at.variance, DataCovariance):
        variance, columns = at.variance.posterior(precision(at.likelihood, at.x_hat))
        return (std**2 + b**2 * variance).sqrt(), b * columns
    left = remaining_variance(at.likelihood, placed(at.variance, at.x_hat), at.x_hat)
    return (std**2 + b**2 * left).sqrt(), None


def pixel_variance(sigma_data: float, alpha: float, sigma: float) -> float:
    """r_t^2, the variance of x given z_t for independent pixels of standard deviation ``sigma_data``."""
    return (sigma_data * sigma) ** 2 / ((alpha * sigma_data) ** 2 + sigma**2)


def predict(
    prior: DiffusionPrior, likelihood: Any, y: Tensor, z: Tensor, t: float, s: float, condition: Mapping[str, Any]
) -> Prediction:
    """The prediction at z_t on the way to s: one network call, with its gradient if gradients are on."""
    z = z.detach().requires_grad_(torch.is_grad_enabled())
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (map(float, prior.schedule(as_time(time))) for time in (t, s))
    step_std = float(bridge_coefficients(prior.schedule, t, s)[2].sqrt())
    x_hat = prior.denoise(z, t, **condition)
    variance = matched_variance(prior, t)
    return Prediction(prior, likelihood, y, z, x_hat, alpha_t, sigma_t, alpha_s, sigma_s, step_std, variance=variance)


def proximal(operator: Any, r: Tensor, scale: Tensor | float, steps: int, leading: int) -> Tensor:
    r"""The d that minimises :math:`|A d - r|^2 / scale^2 + |d|^2`, by conjugate gradients on each leading entry.

    One step is exact for a mask, whose :math:`I + A^\top A / scale^2` has one eigenvalue on the range of A^T.
    """
    r = adjoint(operator, r / scale**2, leading)
    d, direction, squared = torch.zeros_like(r), r, _inner(r, r, leading)
    for _ in range(steps):
        image = direction + adjoint(operator, apply(operator, direction) / scale**2, leading)
        length = squared / _inner(direction, image, leading).clamp(min=1e-30)
        d, r = d + expand_event(length, d) * direction, r - expand_event(length, r) * image
        squared, before = _inner(r, r, leading), squared
        direction = r + expand_event(squared / before.clamp(min=1e-30), r) * direction
    return d


def residual_norm(likelihood: Any, x: Tensor, y: Tensor) -> Tensor:
    """|y - A(x)| of each sample by itself, ``(S, N)`` for images ``(S, N, C, H, W)``; never a mean over the batch.

    Where the noise is a map, each element counts as :func:`weighted` says.
    """
    residual = weighted(likelihood, likelihood.residual(x, y))
    return residual.flatten(residual.ndim - y.ndim + 1).square().sum(-1).clamp(min=1e-20).sqrt()


def _inner(a: Tensor, b: Tensor, leading: int) -> Tensor:
    return (a * b).flatten(leading).sum(-1)


def _polar(w: Tensor, leading: int) -> tuple[Tensor, Tensor]:
    """Length and direction of w. Where w is zero both are zero and without a gradient: a Krylov space is exhausted."""
    squared = _inner(w, w, leading)
    some = squared > 0
    length = torch.where(some, squared, 1.0).sqrt()
    return length * some, w / expand_event(length, w) * expand_event(some, w)


def gmres(apply_to: Callable[[Tensor], Tensor], r: Tensor, iterations: int, leading: int) -> list[Tensor]:
    """Coordinates of the least-residual u of M u = r in the Krylov basis v_1 … v_m, each of the ``leading`` shape.

    ``apply_to`` is called with v_1 … v_m in this order (Saad & Schultz 1986; Arnoldi by modified Gram-Schmidt), for
    each leading entry by itself.
    """
    length, v = _polar(r, leading)
    basis, columns = [v], []
    for _ in range(iterations):
        w, column = apply_to(basis[-1]), []
        for v in basis:
            column.append(_inner(w, v, leading))
            w = w - expand_event(column[-1], w) * v
        length_w, v = _polar(w, leading)
        basis.append(v)
        columns.append([*column, length_w])
    zero = torch.zeros_like(length)
    rows = [[column[i] if i < len(column) else zero for column in columns] for i in range(iterations + 1)]
    hessenberg = torch.stack([torch.stack(row, -1) for row in rows], -2)
    target = torch.stack([length, *[zero] * iterations], -1).unsqueeze(-1)
    return list((torch.linalg.pinv(hessenberg) @ target).squeeze(-1).unbind(-1))
