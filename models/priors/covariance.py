r"""The covariance of images, and that of an image given a noisy version of it, for Gaussian algebra without a network.

.. math::
    \Sigma = U \mathrm{diag}(\lambda) U^\top + \rho (I - U U^\top), \qquad
    C_t = \big(\Sigma^{-1} + (\alpha_t / \sigma_t)^2 I\big)^{-1}

with r orthonormal directions U. If images were Gaussian with the covariance :math:`\Sigma`, x given z_t would have the
covariance C_t. At high noise this is nearly so for any images: on ``fashion32`` the trace of C_t is within a fifth of
the denoising error above a noise level of 7.5 in units of ``sigma_data``, and twice as large at 2.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vipaint._repr import as_html, compact
from pyro_vipaint._torch import double, moved, widest
from pyro_vipaint.errors import instance, number, numbers, whole

ORTHONORMAL = 1e-3  # largest error of an inner product
ROUNDING = 1e-6  # relative, of variances that equal the rest
RANK = 128  # directions of shipped covariances; docs/tuning.md has others


@dataclass(frozen=True, eq=False)
class DataCovariance:
    r"""A covariance of images: ``vectors`` ``(r, *event)``, orthonormal, with ``variances`` ``(r,)``; ``rest`` outside.

    No variance is less than ``rest``. Units are those of the clean latents, squared.

    Raises:
        InputError: the shapes do not fit, the vectors are not orthonormal, a variance is less than ``rest``, or
            ``rest`` is not positive.
    """

    vectors: Tensor
    variances: Tensor
    rest: float

    __repr__, _repr_html_ = compact, as_html

    def __post_init__(self) -> None:
        number("rest", self.rest, positive=True)
        numbers("vectors", self.vectors, ("r", ...), least=1)
        flat = self.vectors.flatten(1)
        orthonormal = torch.allclose(flat @ flat.mT, torch.eye(len(flat)).to(flat), atol=ORTHONORMAL)
        instance("vectors", self.vectors, orthonormal, "orthonormal")
        numbers("variances", self.variances, (len(self.vectors),), low=self.rest * (1 - ROUNDING))

    @classmethod
    def of(cls, images: Tensor, labels: Tensor | None = None, rank: int = RANK) -> DataCovariance:
        """That of latents ``(N, *event)`` around their mean, or around the mean of their class.

        Args:
            images: such as the training images of a prior, or draws from it; many more than ``rank``.
            labels: whole numbers ``(N,)``.
            rank: number of directions, those of largest variance; at most that of the elements, less one.

        Raises:
            InputError: there are fewer than two images, they are not finite, or the labels do not fit them.
        """
        numbers("images", images, ("N", ...), least=2)
        flat = double(images.flatten(1)).clone()
        whole("rank", rank, most=flat.shape[1] - 1)
        if labels is not None:
            numbers("labels", labels, (len(images),), integers=True)
        groups = torch.zeros(len(flat)).long() if labels is None else labels.to(flat.device)
        for label in groups.unique():
            flat[groups == label] -= flat[groups == label].mean(0)
        variances, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
        rest = float(variances[:-rank].mean().clamp(min=1e-6 * float(variances[-1])))
        top = vectors[:, -rank:].T.reshape(rank, *images.shape[1:])
        return cls(top.float(), variances[-rank:].clamp(min=rest).float(), rest)

    def given(self, noise_level: float) -> DataCovariance:
        """C_t, at the noise level sigma_t / alpha_t > 0."""
        level = noise_level**2
        rest = self.rest * level / (self.rest + level)
        variances = self.variances * level / (self.variances + level)
        return self._with(variances=variances.clamp(min=rest), rest=rest)  # rounding may have made them less

    @property
    def columns(self) -> Tensor:
        """F ``(r, *event)`` with covariance = F F^T + rest I."""
        return self.vectors * (self.variances - self.rest).clamp(min=0).sqrt()[(..., *[None] * (self.vectors.ndim - 1))]

    def mean(self) -> Tensor:
        """The mean variance of an element."""
        elements = self.vectors[0].numel()
        return (self.variances.sum() + (elements - len(self.variances)) * self.rest) / elements

    def to(self, device: torch.device) -> DataCovariance:
        """The same on a device."""
        return self._with(vectors=self.vectors.to(device), variances=self.variances.to(device))

    def root(self, x: Tensor) -> Tensor:
        """The symmetric square root of the covariance times ``x``, ``(…, *event)``."""
        flat, vectors = self._flat(x)
        along = flat @ vectors.T * (moved(self.variances, x.device, x.dtype).sqrt() - self.rest**0.5)
        return (along @ vectors + self.rest**0.5 * flat).reshape(x.shape)

    def posterior_mean(self, weight: Tensor, b: Tensor) -> Tensor:
        r"""(covariance^{-1} + diag(weight))^{-1} b, by Woodbury's identity: r × r systems in float64.

        Args:
            weight: precision with which each element is seen, ``(N, *event)`` or what broadcasts to it, nonnegative.
            b: ``(…, N, *event)``.
        """
        left, scaled, inner = self._woodbury(weight)
        first = left * self._flat(b.to(left))[0]
        along = torch.linalg.solve_ex(inner, (first @ scaled.T).unsqueeze(-1)).result.squeeze(-1)
        return (first + left * (along @ scaled)).to(b.dtype).reshape(b.shape)

    def posterior(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """v ``(N, *event)`` and F ``(N, r, *event)`` with (covariance^{-1} + diag(weight))^{-1} = F F^T + diag(v).

        The arguments are those of :meth:`posterior_mean`, and ``weight`` has all dimensions of an event.
        """
        left, scaled, inner = self._woodbury(weight)
        root = torch.linalg.inv_ex(torch.linalg.cholesky_ex(inner).L).inverse
        columns, event = (root @ scaled) * left.unsqueeze(-2), self.vectors.shape[1:]
        return left.unflatten(-1, event).to(weight.dtype), columns.unflatten(-1, event).to(weight.dtype)

    def _with(self, **values: Any) -> DataCovariance:
        """The same with other values, which need no check: a check makes the host wait for the device."""
        new = copy(self)
        for name, value in values.items():
            object.__setattr__(new, name, value)
        return new

    def _woodbury(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """D^{-1}, S and I - S D^{-1} S^T of the precision D - S^T S, in float64."""
        dtype = widest(weight.device)
        event = self.vectors.shape[1:]
        weight, vectors = self._flat(weight.to(dtype).expand(*weight.shape[: max(0, weight.ndim - len(event))], *event))
        left = 1 / (1 / self.rest + weight)
        gain = (1 / self.rest - 1 / moved(self.variances, weight.device, dtype)).clamp(min=0).sqrt()
        scaled = gain[:, None] * vectors
        inner = torch.eye(len(gain), dtype=dtype, device=weight.device) - (scaled * left.unsqueeze(-2)) @ scaled.T
        return left, scaled, inner

    def _flat(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` with events of one dimension, and the directions likewise, on its device in its dtype."""
        vectors = moved(self.vectors, x.device, x.dtype).flatten(1)
        return x.reshape(*x.shape[: x.ndim - (self.vectors.ndim - 1)], vectors.shape[1]), vectors


def check_covariance(covariance: object, event_shape: torch.Size | tuple[int, ...]) -> None:
    """Refuses what is no covariance of such events."""
    if covariance is not None:
        fits = isinstance(covariance, DataCovariance) and covariance.vectors.shape[1:] == torch.Size(event_shape)
        instance("data_covariance", covariance, fits, f"a DataCovariance of events {tuple(event_shape)}")
