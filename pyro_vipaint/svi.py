"""Phase 1: fitting a guide by stochastic variational inference (section 4.2 of the paper)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pyro.poutine.guide import GuideMessenger
from torch import Tensor, nn

from pyro_vipaint.averaging import ParameterAverage
from pyro_vipaint.calls import count_calls
from pyro_vipaint.errors import InputError, NonFiniteError
from pyro_vipaint.gradients import gradients
from pyro_vipaint.resuming import FitState
from pyro_vipaint.saving import FilePair
from pyro_vipaint.seeding import seeded

if TYPE_CHECKING:
    from arviz import InferenceData

# mu, tau and gamma were tuned on fashion32. The others were not: a factor is a spread relative to sigma, and a weight
# a logit, so they move like tau and gamma; flow is 1e-3, Adam's own default, for the weights of its networks.
DEFAULT_LR: Mapping[str, float] = {
    "mu": 0.3,
    "tau": 0.05,
    "gamma": 0.05,
    "factor": 0.05,
    "weight": 0.05,
    "flow": 1e-3,
}
OTHER_LR = 0.05  # kinds of Pyro's own guides and of users' guides; that of tau
FILES = FilePair("fit.json", "fit.safetensors")


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
        state: where it stopped, for ``fit(..., resume=…)``.

    After a resumed fit all of this is about both parts together.
    """

    losses: list[float]
    terms: dict[str, Tensor]
    calls: int
    evaluations: int
    seconds: float
    state: FitState | None = None

    @property
    def bounds(self) -> Tensor:
        """The true (beta = 1) bound on log p(y) at each step, one Monte-Carlo estimate each, ``(steps, N)``, nats.

        Two are none: :class:`DeltaGuide` has no entropy, and :class:`RenyiELBO` with an estimated marginal is
        optimistic (:mod:`pyro_vipaint.elbos.renyi`).

        Raises:
            InputError: the objective did not report its terms, as Pyro's own do not.
        """
        if not self.terms:
            raise InputError(
                "the objective reported no terms: estimate the bound by pyro_vipaint.diagnostics.log_weights."
            )
        return -torch.stack(list(self.terms.values())).sum(0)

    def final_terms(self, last: int = 10) -> dict[str, Tensor]:
        """The terms averaged over the ``last`` steps, ``(N,)`` each: less noisy than one step, no further calls."""
        return {name: values[-last:].mean(0) for name, values in self.terms.items()}

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes ``fit.json`` and ``fit.safetensors`` into ``folder``: the record, and the state if there is one."""
        record: dict[str, Any] = {name: getattr(self, name) for name in ("losses", "calls", "evaluations", "seconds")}
        record |= {"terms": list(self.terms), "rates": None if self.state is None else dict(self.state.rates)}
        tensors = {f"terms/{name}": value for name, value in self.terms.items()}
        FILES.write(folder, "Fit", record, tensors | dict(self.state.tensors if self.state else {}))

    @classmethod
    def load(cls, folder: str | Path) -> Fit:
        """The fit that was saved in ``folder``, exactly.

        Raises:
            InputError: the folder holds something else or broken files.
        """
        record, tensors = FILES.read(folder, "Fit")
        try:
            terms = {name: tensors.pop(f"terms/{name}") for name in record["terms"]}
            state = None if record["rates"] is None else FitState(tensors, record["rates"])
            return cls(record["losses"], terms, record["calls"], record["evaluations"], record["seconds"], state)
        except (KeyError, TypeError) as error:
            raise InputError(f"{Path(folder) / FILES.record} does not describe a fit.") from error

    def to_arviz(
        self, guide: Any, y: Tensor, num_samples: int = 1000, *, seed: int | None = None, batch_size: int | None = None
    ) -> InferenceData:
        """Draws of ``guide`` on the model it was built on, with their weights and this fit's losses.

        See :func:`pyro_vipaint.diagnostics.to_arviz`, which also takes guides that are plain programs.
        """
        from pyro_vipaint.diagnostics.arviz import to_arviz

        return to_arviz(guide.model, guide, y, num_samples, losses=self.losses, seed=seed, batch_size=batch_size)

    def _followed_by(self, later: Fit) -> Fit:
        """Both parts as one record; terms are those that both report."""
        terms = {name: torch.cat([self.terms[name], later.terms[name]]) for name in self.terms if name in later.terms}
        return Fit(
            self.losses + later.losses,
            terms,
            self.calls + later.calls,
            self.evaluations + later.evaluations,
            self.seconds + later.seconds,
            later.state,
        )


def fit(
    model: Callable[..., Any],
    guide: nn.Module,
    y: Tensor,
    elbo: Any,
    steps: int = 100,
    lr: float | Mapping[str, float] | None = None,
    *,
    final_lr: float = 1.0,
    average: int = 0,
    seed: int | None = None,
    resume: Fit | None = None,
    callback: Callable[[int, float], None] | None = None,
) -> Fit:
    """Minimises ``elbo`` over the parameters of ``guide`` with Adam, betas (0.9, 0.99) as in the authors' code.

    ``resume`` continues an earlier fit step for step: the guide's parameters, Adam's moments, the rates, the random
    state and the step that a schedule of beta has come to are those at which it stopped. 30 steps and 30 more are 60
    steps, bit for bit, with the same model, observation and objective, on the same machine. A fit that is interrupted
    leaves the guide with the parameters that it had reached, and no state: long fits are best made in parts.

    A guide that makes its parameters when it first runs, as Pyro's own do, is run once before the first step, and its
    network calls count. Gradients are on inside, also below ``torch.no_grad()``.

    Args:
        model: the Pyro program, called as ``model(y)``.
        guide: the Pyro guide; its parameters change in place.
        y: observations ``(N, *observation)``.
        elbo: any Pyro ELBO; those of :mod:`pyro_vipaint.elbos` report their terms.
        steps: SVI steps, K + 1 network calls each for a K-level model.
        lr: learning rate, one for all or one by kind, the part of a parameter's name before ``_``: mu, tau, gamma
            (the latter two act on the unconstrained value) and those that single guides add. If not given,
            ``DEFAULT_LR`` (mu, tau and gamma tuned on fashion32; ``OTHER_LR`` for kinds that it does not name), or with
            ``resume`` where the earlier fit left them.
        final_lr: factor that the rate has fallen to, geometrically, after the last step of this call. A fit knows its
            own steps only, so factors of resumed fits multiply: after 0.1 and 0.1 the rate is 0.01 of the first.
        average: the guide ends with the mean of its parameters over so many last steps of this call
            (:mod:`pyro_vipaint.averaging`); with 0 as the last step left it, from which a resumed fit always goes on.
        seed: seed of this fit; ``None`` goes on with the global generator.
        resume: the earlier fit; the guide is set to where it stopped. The global generator is left as it was.
        callback: called as ``callback(step, loss)`` after each step; ``step`` counts from 0 in each call.

    Raises:
        InputError: a rate is negative or not finite; the guide was built on another model or for another number of
            images, does not fit the one of ``resume``, or ``seed`` is given with it; ``torch.inference_mode()`` is on.
        NonFiniteError: the objective became infinite or NaN; the message names the term.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}.")
    if not 0 <= average <= steps:
        raise ValueError(f"average must be between 0 and the {steps} steps, not {average}.")
    check_rates(lr, final_lr)
    _check_model(model, guide)
    earlier = None if resume is None else _earlier_state(resume, seed)
    losses: list[float] = []
    history: list[dict[str, Tensor]] = []
    begun = time.perf_counter()
    with gradients(), count_calls() as count:
        _create_parameters(guide, y, seed, resumed=resume is not None)
        if lr is None:
            kinds = (_kind(name) for name, _ in guide.named_parameters())
            lr = {kind: DEFAULT_LR.get(kind, OTHER_LR) for kind in kinds} if earlier is None else earlier.rates
        optimizer = torch.optim.Adam(_parameter_groups(guide, lr), betas=(0.9, 0.99))
        if earlier is not None:
            earlier.restore(guide, optimizer)
        if hasattr(elbo, "step"):
            elbo.step = 0 if resume is None else len(resume.losses)
        randomness: AbstractContextManager[None] = seeded(seed) if earlier is None else earlier.randomness(guide)
        decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, final_lr ** (1 / steps))
        mean = ParameterAverage(guide)
        with randomness:
            for step in range(steps):
                optimizer.zero_grad()
                losses.append(elbo.loss_and_grads(model, guide, y))
                history.append(dict(getattr(elbo, "terms", {})))
                _check_finite(step, losses[-1], history[-1])
                optimizer.step()
                decay.step()
                if step >= steps - average:
                    mean.add()
                if callback is not None:
                    callback(step, losses[-1])
            state = FitState.capture(guide, optimizer)
    mean.apply()
    terms = {name: torch.stack([record[name] for record in history]).cpu() for name in history[0]}
    done = Fit(losses, terms, count.calls, count.evaluations, time.perf_counter() - begun, state)
    return done if resume is None else resume._followed_by(done)


def check_rates(lr: float | Mapping[str, float] | None, final_lr: float) -> None:
    """Refuses rates with which a fit would go nowhere, or uphill."""
    rates = () if lr is None else lr.values() if isinstance(lr, Mapping) else (lr,)
    if not all(isinstance(rate, Real) and 0 <= rate < math.inf for rate in rates):
        raise InputError(f"lr must be finite and not negative, not {lr}.")
    if not 0 < final_lr < math.inf:
        raise InputError(f"final_lr must be positive and finite, not {final_lr}.")


def _check_model(model: Callable[..., Any], guide: nn.Module) -> None:
    """A messenger runs the model that it was built on, whatever the objective is given. Wrapped models pass."""
    own = getattr(guide, "model", None)
    if isinstance(guide, GuideMessenger) and own is not model and type(own) is type(model):
        raise InputError("the guide was built on another model, which it would run: build it on this one.")


@torch.no_grad()
def _create_parameters(guide: nn.Module, y: Tensor, seed: int | None, resumed: bool) -> None:
    """Runs a guide that has none yet; for one that is ``resumed``, whose state replaces them, from any seed."""
    if next(guide.parameters(), None) is None:
        with seeded(0 if resumed else seed):
            guide(y)


def _earlier_state(resume: Fit, seed: int | None) -> FitState:
    """Where the earlier fit stopped."""
    if seed is not None:
        raise InputError("seed and resume exclude each other: a resumed fit goes on with its own random numbers.")
    if resume.state is None:
        raise InputError("this fit cannot be resumed: it holds no state.")
    return resume.state


def _parameter_groups(guide: nn.Module, lr: float | Mapping[str, float]) -> list[dict[str, Any]]:
    """Optimiser groups by kind; a mapping must name every kind that the guide has."""
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in guide.named_parameters():
        groups.setdefault(_kind(name), []).append(parameter)
    if not groups:
        raise ValueError("the guide has no parameters to fit.")
    if not isinstance(lr, Mapping):
        lr = dict.fromkeys(groups, lr)
    if missing := groups.keys() - lr.keys():
        raise ValueError(f"lr names no rate for {', '.join(sorted(missing))}; give one number or all kinds.")
    return [{"params": parameters, "lr": lr[kind], "kind": kind} for kind, parameters in groups.items()]


def _kind(parameter: str) -> str:
    """``tau`` of ``tau_3_unconstrained``, also below a module's name."""
    return parameter.split("_")[0].split(".")[-1]


def _check_finite(step: int, loss: float, terms: Mapping[str, Tensor]) -> None:
    if torch.tensor(loss).isfinite():
        return
    broken = [name for name, value in terms.items() if not value.isfinite().all()]
    where = f"the term of {', '.join(broken)}" if broken else "the objective"
    raise NonFiniteError(f"The fit became non-finite at step {step + 1} in {where}: try a lower learning rate.")
