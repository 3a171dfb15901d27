"""Phase 1: fitting a guide by stochastic variational inference (section 4.2 of the paper)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vipaint.calls import count_calls
from pyro_vipaint.errors import NonFiniteError
from pyro_vipaint.seeding import seeded

DEFAULT_LR: Mapping[str, float] = {"mu": 0.3, "tau": 0.05, "gamma": 0.05}


@dataclass(frozen=True, eq=False)
class Fit:
    """What a fit did.

    Attributes:
        losses: the objective at each step, summed over images, in nats.
        terms: by site, the *unweighted* terms of the bound on -log p(y), shape ``(steps, N)``, in nats; empty for
            objectives that do not report them.
        calls: network calls made.
        evaluations: images passed through the network.
        seconds: wall time.
    """

    losses: list[float]
    terms: dict[str, Tensor]
    calls: int
    evaluations: int
    seconds: float

    @property
    def bounds(self) -> Tensor:
        """The true (beta = 1) bound on log p(y) at each step, one Monte-Carlo estimate each, ``(steps, N)``, nats."""
        return -torch.stack(list(self.terms.values())).sum(0)

    def final_terms(self, last: int = 10) -> dict[str, Tensor]:
        """The terms averaged over the ``last`` steps, ``(N,)`` each: less noisy than one step, no further calls."""
        return {name: values[-last:].mean(0) for name, values in self.terms.items()}


def fit(
    model: Callable[..., Any],
    guide: nn.Module,
    y: Tensor,
    elbo: Any,
    steps: int = 100,
    lr: float | Mapping[str, float] = DEFAULT_LR,
    *,
    final_lr: float = 1.0,
    seed: int | None = None,
    callback: Callable[[int, float], None] | None = None,
) -> Fit:
    """Minimises ``elbo`` over the parameters of ``guide`` with Adam, betas (0.9, 0.99) as in the authors' code.

    Args:
        model: the Pyro program, called as ``model(y)``.
        guide: the Pyro guide; its parameters change in place.
        y: observations ``(N, *observation)``.
        elbo: any Pyro ELBO; those of :mod:`pyro_vipaint.elbos` report their terms.
        steps: SVI steps, K + 1 network calls each for a K-level model.
        lr: learning rate, one for all or one by kind, the part of a parameter's name before ``_``: mu, tau, gamma
            (the latter two act on the unconstrained value). The defaults were tuned on fashion32.
        final_lr: factor that the rate has reached, geometrically, at the last step.
        seed: seed of this fit; ``None`` goes on with the global generator.
        callback: called as ``callback(step, loss)`` after each step.

    Raises:
        NonFiniteError: the objective became infinite or NaN; the message names the term.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}.")
    optimizer = torch.optim.Adam(_parameter_groups(guide, lr), betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, final_lr ** (1 / steps))
    losses: list[float] = []
    history: list[dict[str, Tensor]] = []
    begun = time.perf_counter()
    with seeded(seed), count_calls() as count:
        for step in range(steps):
            loss = elbo.differentiable_loss(model, guide, y)
            losses.append(float(loss.detach()))
            history.append(dict(getattr(elbo, "terms", {})))
            _check_finite(step, losses[-1], history[-1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
            if callback is not None:
                callback(step, losses[-1])
    terms = {name: torch.stack([record[name] for record in history]).cpu() for name in history[0]}
    return Fit(losses, terms, count.calls, count.evaluations, time.perf_counter() - begun)


def _parameter_groups(guide: nn.Module, lr: float | Mapping[str, float]) -> list[dict[str, Any]]:
    """Optimiser groups by kind; a mapping must name every kind that the guide has."""
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in guide.named_parameters():
        groups.setdefault(name.split("_")[0].split(".")[-1], []).append(parameter)
    if not groups:
        raise ValueError("the guide has no parameters to fit.")
    if not isinstance(lr, Mapping):
        lr = dict.fromkeys(groups, lr)
    if missing := groups.keys() - lr.keys():
        raise ValueError(f"lr names no rate for {', '.join(sorted(missing))}; give one number or all kinds.")
    return [{"params": parameters, "lr": lr[kind]} for kind, parameters in groups.items()]


def _check_finite(step: int, loss: float, terms: Mapping[str, Tensor]) -> None:
    if torch.tensor(loss).isfinite():
        return
    broken = [name for name, value in terms.items() if not value.isfinite().all()]
    where = f"the term of {', '.join(broken)}" if broken else "the objective"
    raise NonFiniteError(f"The fit became non-finite at step {step + 1} in {where}: try a lower learning rate.")
