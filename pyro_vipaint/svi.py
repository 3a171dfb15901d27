r"""Phase 1: a guide is fitted by stochastic variational inference (section 4.2 of the paper).

A guide may end with the mean of the last iterates (Polyak & Juditsky 1992). With gradients as noisy as those of one
draw of the guide, and rates that bring it close in thirty steps, an optimiser ends by circling around the minimum.
The mean of its last n positions,

.. math:: \bar\theta = \frac1n \sum_{k = K - n + 1}^{K} \theta_k,

is nearer to the minimum than any of them and needs no further gradient. Parameters are averaged where the optimiser
moves them, unconstrained: tau by its geometric mean, gamma by its logits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.guide import GuideMessenger
from torch import Tensor, nn

from pyro_vipaint._files import FilePair
from pyro_vipaint._repr import as_html, compact, sparkline
from pyro_vipaint._torch import gradients, preserved, random_state, seeded, set_random_state
from pyro_vipaint.calls import count_calls
from pyro_vipaint.elbos.base import check_objective
from pyro_vipaint.errors import MOST_RATE, MOST_STEPS, InputError, NonFiniteError, instance, number, whole
from pyro_vipaint.models.diffusion import DiffusionModel, predicted_images
from pyro_vipaint.progress import Callback, Progress, showing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyro_vipaint.plotting import Animation


# mu, tau and gamma were tuned on fashion32. The others were not: a factor is a spread relative to sigma, and a weight
# a logit, so they move like tau and gamma; flow is 1e-3, Adam's own default, for the weights of its networks; other is
# that of tau, for the kinds of Pyro's own guides and of users' guides.
DEFAULT_LR: Mapping[str, float] = {
    "mu": 0.3,
    "tau": 0.05,
    "gamma": 0.05,
    "factor": 0.05,
    "weight": 0.05,
    "flow": 1e-3,
    "other": 0.05,
}
FILES = FilePair("fit.json", "fit.safetensors")


@dataclass(frozen=True, eq=False)
class Fit:
    """The record of a fit; after a resumed fit, of both parts together.

    Attributes:
        losses: the objective at each step, summed over images, in nats.
        terms: by site, the *unweighted* terms of the bound on -log p(y), shape ``(steps, N)``, in nats; empty for
            objectives that do not report them.
        calls: network calls made.
        nfe: images passed through the network.
        seconds: wall time.
        state: where it stopped, for ``fit(..., resume=…)``.
        average: number of last steps over which the guide was averaged.
        images: what the model predicted at the steps ``image_steps`` (from 1), the mean over particles, bytes
            ``(F, N, C, H, W)``; None where the model is no :class:`DiffusionModel`, or none were kept.
    """

    losses: list[float]
    terms: dict[str, Tensor]
    calls: int
    nfe: int
    seconds: float
    state: FitState | None = None
    average: int = 0
    images: Tensor | None = None
    image_steps: tuple[int, ...] = ()

    __repr__, _repr_html_ = compact, as_html

    def _facts(self) -> dict[str, Any]:
        """What the fit prints; the bound is that of the last steps, each image's mean over them."""
        said: dict[str, Any] = {"steps": len(self.losses), "losses": self.losses}
        if self.terms:
            said["bound, mean of the last 10 steps"] = -torch.stack(list(self.final_terms().values())).sum(0)
            said["terms"] = self.terms
        return said | {"calls": self.calls, "nfe": self.nfe, "seconds": round(self.seconds, 2)}

    def _picture_html(self) -> str:
        values = self.bounds.sum(1) if self.terms else -torch.tensor(self.losses)
        return sparkline(values.tolist()) + ("bound on log p(y)" if self.terms else "-loss") + " over the steps"

    @property
    def bounds(self) -> Tensor:
        """The true (beta = 1) bound on log p(y) at each step, one Monte-Carlo estimate each, ``(steps, N)``, nats.

        Two combinations are not bounds: :class:`DeltaGuide` has no entropy, and :class:`RenyiELBO` with an estimated
        marginal is optimistic (:mod:`pyro_vipaint.elbos.renyi`).

        Raises:
            InputError: the objective did not report its terms, as Pyro's own do not.
        """
        if not self.terms:
            raise InputError("the objective reported no terms: use pyro_vipaint.diagnostics.log_weights.")
        return -torch.stack(list(self.terms.values())).sum(0)

    def final_terms(self, last: int = 10) -> dict[str, Tensor]:
        """The terms averaged over the ``last`` steps, ``(N,)`` each: less noisy than one step, no further calls."""
        return {name: values[-last:].mean(0) for name, values in self.terms.items()}

    def plot(self) -> Figure:
        """The bound on log p(y) and its terms over the steps; the steps of the average are shaded."""
        from pyro_vipaint.plotting import fit_figure

        return fit_figure(self)

    def animate(self) -> Animation:
        """The images that the model predicted during the fit, beside the bound; ``.save("fit.gif")``, or ``.html``.

        They are those that :func:`fit` kept on its way, so that no network call is made.

        Raises:
            InputError: the fit kept no pictures.
        """
        from pyro_vipaint.plotting import fit_animation

        return fit_animation(self)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes ``fit.json`` and ``fit.safetensors`` into ``folder``: the record, and the state if there is one."""
        record: dict[str, Any] = {name: getattr(self, name) for name in ("losses", "calls", "nfe", "seconds")}
        record |= {"terms": list(self.terms), "rates": None if self.state is None else dict(self.state.rates)}
        record |= {"average": self.average, "image_steps": list(self.image_steps)}
        tensors = {f"terms/{name}": value for name, value in self.terms.items()}
        tensors |= {} if self.images is None else {"images": self.images}
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
            losses = [number("a loss", value, signed=True) for value in record["losses"]]
            calls, nfe = (whole(name, record[name], 0) for name in ("calls", "nfe"))
            images, steps = tensors.pop("images", None), record.get("image_steps", [])
            if (0 if images is None or images.dtype != torch.uint8 else len(images)) != len(steps):
                raise ValueError("images that do not fit their steps")
            kept = whole("average", record.get("average", 0), 0), images, tuple(whole("a step", step) for step in steps)
            state = None if record["rates"] is None else FitState.of(tensors, record["rates"])
            return cls(losses, terms, calls, nfe, number("seconds", record["seconds"]), state, *kept)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{Path(folder) / FILES.record} does not describe a fit.") from error

    def to_arviz(
        self, guide: Any, y: Tensor, num_samples: int = 1000, *, seed: int | None = None, batch_size: int | None = None
    ) -> Any:
        """Draws of ``guide`` on the model it was built on, with their weights and this fit's losses.

        See :func:`pyro_vipaint.diagnostics.to_arviz`, which also takes guides that are plain programs.
        """
        from pyro_vipaint.diagnostics.arviz import to_arviz

        return to_arviz(guide.model, guide, y, num_samples, losses=self.losses, seed=seed, batch_size=batch_size)

    def _followed_by(self, later: Fit) -> Fit:
        """Both parts as one record; terms are those that both report."""
        terms = {name: torch.cat([self.terms[name], later.terms[name]]) for name in self.terms if name in later.terms}
        sums = {name: getattr(self, name) + getattr(later, name) for name in ("losses", "calls", "nfe", "seconds")}
        steps = (*self.image_steps, *(step + len(self.losses) for step in later.image_steps))
        kept = [part.images for part in (self, later) if part.images is not None]
        return replace(later, terms=terms, images=torch.cat(kept) if kept else None, image_steps=steps, **sums)


def fit(
    model: Callable[..., Any],
    guide: nn.Module,
    y: Tensor,
    elbo: Any,
    steps: int = 100,
    lr: float | Mapping[str, float] | None = None,
    *,
    lr_decay: float = 1.0,
    average: int = 0,
    seed: int | None = None,
    resume: Fit | None = None,
    keep: int = 24,
    callback: Callback | None = None,
    progress: bool = False,
) -> Fit:
    """Minimises ``elbo`` over the parameters of ``guide`` with Adam, betas (0.9, 0.99) as in the authors' code.

    ``resume`` continues an earlier fit step for step: the guide's parameters, Adam's moments, the rates, the random
    state and the step of a schedule of beta are those at which it stopped. 30 steps and 30 more are 60 steps, bit for
    bit, with the same model, observation and objective, on the same machine. An interrupted fit leaves the guide with
    the parameters that it had reached, and no state: long fits are best made in parts.

    A guide that makes its parameters when it first runs, as Pyro's own do, is run once before the first step, and its
    network calls count. Gradients are on inside, also below ``torch.no_grad()``.

    After its first step, in which Pyro and torch check the values at every site, a fit waits for a GPU once a step, to
    read the loss; once more where ``callback`` is told the bound. Pyro's own objectives read a number at every site.
    After a :class:`NonFiniteError` the guide holds the parameters of the step that failed: make a new guide.

    Args:
        model: the Pyro program, called as ``model(y)``.
        guide: the Pyro guide, a torch module; its parameters change in place. Fit a guide that is a plain function
            with ``pyro.infer.SVI``: its parameters are in Pyro's global store.
        y: observations ``(N, *observation)``.
        elbo: an ELBO of Pyro (``docs/elbos.md`` says which); those of :mod:`pyro_vipaint.elbos` report their terms.
        steps: SVI steps, K + 1 network calls each for a K-level model, K where it begins at t = 1.
        lr: learning rate, one for all or one by kind, the part of a parameter's name before ``_``: mu, tau, gamma
            (the latter two act on the unconstrained value) and those that single guides add; ``other`` is the rate of
            the kinds that are not named. Kinds of ``DEFAULT_LR`` that the guide does not have are ignored. If not
            given, ``DEFAULT_LR`` (mu, tau and gamma tuned on fashion32), or with
            ``resume`` where the earlier fit left them.
        lr_decay: the rate falls geometrically to this factor of itself until the end of this call. The factors of
            resumed fits multiply: after 0.1 and 0.1 the rate is 0.01 of the first.
        average: number of last steps of this call over which the guide's parameters are averaged in the end
            (:mod:`pyro_vipaint.svi`); 0 keeps those of the last step, from which a resumed fit always continues.
        seed: seed of this fit; ``None`` continues the global generator. The same call gives the same bits; with another
            batch the noise is other draws of the same law (docs/bound.md, "What a seed promises").
        resume: the earlier fit; the guide is set to where it stopped. The global generator is left as it was.
        keep: number of steps, spread evenly, whose predicted images :meth:`Fit.animate` shows; they are those of the
            step itself and cost no network call, and one byte per value in memory. 0 keeps none.
        callback: called after each step with its :class:`pyro_vipaint.progress.Progress`, phase ``fit``.
        progress: draw a bar, on a terminal or in a notebook.

    Raises:
        InputError: a number cannot be used, nor can ``y`` as observations of the :class:`DiffusionModel`; the model,
            the guide or the objective is something else, or a class; the guide was built on another model or for
            another number of images, or does not fit the one of ``resume``; ``lr`` names a kind that neither the guide
            nor ``DEFAULT_LR`` has; ``seed`` is given with ``resume``; ``torch.inference_mode()`` is on.
        NonFiniteError: the objective became infinite or NaN, and the message names the term; or a parameter is after
            the last step, and the message names it.
    """
    check_fit_numbers(steps, average, lr, lr_decay)
    check_objective(elbo)
    _check_programs(model, guide, elbo)
    if isinstance(model, DiffusionModel):
        model.check(y)
    shown_at = _spread(steps, whole("keep", keep, 0))
    earlier = None if resume is None else _earlier_state(resume, seed)
    losses: list[float] = []
    history: list[dict[str, Tensor]] = []
    images: dict[int, Tensor] = {}
    begun = time.perf_counter()
    with gradients(), count_calls() as count, showing(progress, callback) as callback, predicted_images() as predicted:
        if next(guide.parameters(), None) is None:
            with torch.no_grad(), seeded(seed if earlier is None else 0):  # the earlier state replaces what is drawn
                guide(y)
        optimizer = torch.optim.Adam(_parameter_groups(guide, lr, earlier), betas=(0.9, 0.99))
        decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, lr_decay ** (1 / steps))
        if earlier is not None:
            earlier.restore(guide, optimizer)
        if hasattr(elbo, "step"):
            elbo.step = 0 if resume is None else len(resume.losses)
        means: list[Tensor] = []
        with seeded(seed) if earlier is None else earlier.randomness(guide):
            for step in range(1, steps + 1):
                optimizer.zero_grad()
                with _checking(step == 1):
                    losses.append(elbo.loss_and_grads(model, guide, y))
                history.append(dict(getattr(elbo, "terms", {})))
                if not math.isfinite(losses[-1]):
                    raise _not_finite(step, history[-1])
                optimizer.step()
                decay.step()
                if step > steps - average:
                    means = _including(guide, means, step - steps + average)
                image = predicted[0] if predicted else None
                if image is not None and step in shown_at:
                    images[step] = ((image.clamp(-1, 1) + 1) * 127.5).round().byte()
                if callback is not None:
                    bound = float(torch.stack(list(history[-1].values())).sum(0).sum()) if history[-1] else None
                    callback(Progress("fit", step, steps, losses[-1], bound, images=image))
            state = FitState.capture(guide, optimizer)
    with torch.no_grad():
        for parameter, mean in zip(guide.parameters(), means, strict=average > 0):
            parameter.copy_(mean)
    _check_parameters(guide)
    terms = {name: torch.stack([record[name] for record in history]).cpu() for name in history[0]}
    kept = torch.stack(list(images.values())).cpu() if images else None
    seconds = time.perf_counter() - begun
    done = Fit(losses, terms, count.calls, count.nfe, seconds, state, average, kept, tuple(images))
    return done if resume is None else resume._followed_by(done)


@contextmanager
def _checking(everything: bool) -> Iterator[None]:
    """Pyro's and torch's checks of the values at every site, each of which makes a GPU wait; a fit needs them once.

    After its first step the loss alone is read, one number a step, and must be finite.
    """
    names = () if everything else ("validate_poutine", "validate_distributions_pyro", "validate_distributions_torch")
    with pyro.settings.context(**dict.fromkeys(names, False)):
        yield


def _spread(steps: int, keep: int) -> set[int]:
    """``keep`` of the steps 1 … ``steps``, evenly spread, the last one among them."""
    if keep >= steps:
        return set(range(1, steps + 1))
    return {steps - i * (steps - 1) // max(keep - 1, 1) for i in range(keep)}


def check_fit_numbers(steps: Any, average: Any, lr: float | Mapping[str, float] | None, lr_decay: float) -> None:
    """Refuses numbers with which a fit would not run, would go nowhere, or uphill."""
    whole("average", average, 0, whole("steps", steps, most=MOST_STEPS))
    for rate in () if lr is None else lr.values() if isinstance(lr, Mapping) else (lr,):
        number("lr", rate, most=MOST_RATE)
    number("lr-decay", lr_decay, positive=True)


def _check_programs(model: Any, guide: Any, elbo: Any) -> None:
    """Refuses programs that cannot be fitted, and a messenger built on another model, which it would run instead."""
    is_model = callable(model) and not isinstance(model, GuideMessenger)
    instance("model", model, is_model, "a Pyro program such as a DiffusionModel")
    instance("guide", guide, isinstance(guide, nn.Module), "a torch module such as HierarchicalGuide(model)")
    instance("elbo", elbo, hasattr(elbo, "loss_and_grads"), "an objective such as BetaELBO()")
    if isinstance(guide, GuideMessenger) and poutine.unwrap(guide.model) is not poutine.unwrap(model):
        raise InputError("the guide was built on another model, which it would run: build it on this one.")


def _earlier_state(resume: Fit, seed: int | None) -> FitState:
    """The state in which the earlier fit stopped."""
    if seed is not None:
        raise InputError("seed and resume exclude each other: a resumed fit continues its own random numbers.")
    instance("resume", resume, isinstance(resume, Fit), "a Fit")
    if resume.state is None:
        raise InputError("this fit cannot be resumed: it holds no state.")
    return resume.state


def _parameter_groups(
    guide: nn.Module, lr: float | Mapping[str, float] | None, earlier: FitState | None
) -> list[dict[str, Any]]:
    """Optimiser groups by kind; without ``lr`` at the rates of the ``earlier`` state, or at the defaults."""
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in guide.named_parameters():
        kind = name.split("_")[0].split(".")[-1]  # tau of tau_3_unconstrained, also below a module's name
        groups.setdefault(kind, []).append(parameter)
    whole("the number of parameters of the guide", len(groups))
    if isinstance(lr, Mapping) and (unknown := lr.keys() - groups.keys() - DEFAULT_LR.keys()):
        named, kinds = ", ".join(sorted(map(str, unknown))), ", ".join(groups)
        raise InputError(f"lr names {named}, but the kinds of parameters of the guide are {kinds}.")
    if lr is None:
        lr = DEFAULT_LR if earlier is None else earlier.rates
    named = lr if isinstance(lr, Mapping) else {"other": lr}
    rates = {kind: named.get(kind, named.get("other")) for kind in groups}
    if missing := sorted(kind for kind, rate in rates.items() if rate is None):
        raise InputError(f"lr names no rate for {', '.join(missing)}: give one number, all kinds, or other.")
    return [{"params": parameters, "lr": rates[kind], "kind": kind} for kind, parameters in groups.items()]


@torch.no_grad()
def _including(guide: nn.Module, means: list[Tensor], count: int) -> list[Tensor]:
    """The means of ``count`` values of the unconstrained parameters: of earlier ones and of those now."""
    means = means or [parameter.clone() for parameter in guide.parameters()]
    for mean, parameter in zip(means, guide.parameters(), strict=True):
        mean += (parameter - mean) / count
    return means


def _not_finite(step: int, terms: Mapping[str, Tensor]) -> NonFiniteError:
    """The error of a loss that is infinite or NaN; it names the terms that made it so."""
    broken = [name for name, value in terms.items() if not value.isfinite().all()]
    where = f"the term of {', '.join(broken)}" if broken else "the objective"
    return NonFiniteError(f"The fit became non-finite at step {step} in {where}: try a lower learning rate.")


@torch.no_grad()
def _check_parameters(guide: nn.Module) -> None:
    """Refuses infinite or NaN parameters, as the optimiser moves them and as the guide uses them (tau, an exponential).

    One synchronisation. A loss shows those of the step before alone, so that the last step needs this.
    """
    values = dict(guide.named_parameters())
    values |= dict(guide.named_pyro_params()) if isinstance(guide, PyroModule) else {}
    broken = (~torch.stack([value.isfinite().all() for value in values.values()])).tolist()
    names = dict.fromkeys(name.removesuffix("_unconstrained") for name in compress(values, broken))
    if names:
        raise NonFiniteError(f"The fit ended with {', '.join(names)} not finite: try a lower learning rate.")


@dataclass(frozen=True, eq=False)
class FitState:
    """All that the next step of a fit depends on, but for the model, the observation and the objective; on the CPU.

    Attributes:
        tensors: ``guide/<name>``, ``adam/<name>/<key>`` and ``random/<device type>``.
        rates: learning rates by kind that the next step would use.
    """

    tensors: Mapping[str, Tensor]
    rates: Mapping[str, float]

    __repr__, _repr_html_ = compact, as_html

    @classmethod
    def capture(cls, guide: nn.Module, optimizer: torch.optim.Optimizer) -> FitState:
        """The state now; nothing that happens later changes it."""
        tensors = {f"guide/{name}": value for name, value in guide.state_dict().items()}
        for name, parameter in guide.named_parameters():
            for key, value in optimizer.state[parameter].items():
                tensors[f"adam/{name}/{key}"] = value
        tensors["random/cpu"] = torch.get_rng_state()
        device = next(guide.parameters()).device
        if device.type in ("cuda", "mps"):
            tensors[f"random/{device.type}"] = random_state(device)
        rates = {group["kind"]: float(group["lr"]) for group in optimizer.param_groups}
        return cls({name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}, rates)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], rates: Mapping[str, float]) -> FitState:
        """The state in a file.

        Raises:
            ValueError: a tensor is none of a state, or the random state is not one.
        """
        random = tensors["random/cpu"]
        whole_state = random.dtype == torch.uint8 and random.shape == torch.get_rng_state().shape
        known = {"guide": True, "adam": True, "random": False}  # whether they are floating-point numbers
        if not whole_state or any(known.get(n.partition("/")[0]) != v.is_floating_point() for n, v in tensors.items()):
            raise ValueError("not the state of a fit")
        return cls(tensors, {kind: number(f"the rate of {kind}", rate) for kind, rate in rates.items()})

    def restore(self, guide: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Sets the guide and the optimiser to the captured state.

        Raises:
            InputError: the guide has parameters of other names or shapes.
        """
        saved = self._part("guide/")
        expected = {name: value.shape for name, value in guide.state_dict().items()}
        for name in sorted(expected.keys() | saved.keys()):
            if name not in saved or name not in expected or saved[name].shape != expected[name]:
                raise InputError(f"the guide cannot resume this fit: they do not agree about {name}.")
        guide.load_state_dict(saved)
        for name, parameter in guide.named_parameters():
            optimizer.state[parameter] = {
                key: value.to("cpu" if key == "step" else parameter.device, copy=True)
                for key, value in self._part(f"adam/{name}/").items()
            }

    @contextmanager
    def randomness(self, guide: nn.Module) -> Iterator[None]:
        """Runs the block from the captured random state and leaves the caller's generators as they were."""
        with preserved():
            torch.set_rng_state(self.tensors["random/cpu"])
            device = next(guide.parameters()).device
            if (name := f"random/{device.type}") != "random/cpu" and name in self.tensors:
                set_random_state(device, self.tensors[name])
            yield

    def _part(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}
