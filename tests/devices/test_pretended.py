"""Every part of the library on a pretended accelerator (:mod:`tests.devices.pretend`).

Tensors stay where they belong, and the numbers are those of the CPU, bit for bit. In one more step the host waits for
the device as often as the table says: once in a step of a fit, to read its loss; never in a step of a refinement.
"""

from __future__ import annotations

import warnings
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import pyro_vipaint as vp
from pyro_vipaint import guides
from pyro_vipaint._torch import kept, on_device, preserved, resolve_device
from pyro_vipaint.models import Matrix
from pyro_vipaint.models.priors.denoisers import EpsilonDenoiser, integer_timestep
from pyro_vipaint.progress import Progress
from pyro_vipaint.svi import Fit
from tests.devices.pretend import HOST, Accelerator, WrongDevice, pretended
from tests.devices.programs import EVENT, FITS, OBJECTIVES, PAIRED, PROGRAMS, network_prior, setting
from tests.every_prior import TABLE

PLAIN = [name for name in PROGRAMS if name not in FITS or name in PAIRED]
IMAGES = 2


def run(name: str, kind: str, steps: int) -> tuple[Accelerator, Tensor]:
    torch.manual_seed(0)
    with pretended(kind) as accelerator:
        return accelerator, PROGRAMS[name].run(accelerator.device, IMAGES, steps)


def check(name: str, kind: str) -> Tensor:
    """The numbers of two steps, the second of which waits no more often than allowed."""
    program = PROGRAMS[name]
    first, numbers = run(name, kind, 1)
    if program.waits < 100:
        both, numbers = run(name, kind, 2)
        more = both.waits - first.waits
        assert more.total() <= program.waits, dict(more)
    return numbers


@pytest.mark.parametrize("name", PLAIN)
def test_on_cuda(name: str) -> None:
    numbers = check(name, "cuda")
    torch.manual_seed(0)
    assert torch.equal(numbers, PROGRAMS[name].run(HOST, IMAGES, 2 if PROGRAMS[name].waits < 100 else 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FITS if name not in PAIRED])
def test_every_guide_with_every_objective(name: str) -> None:
    check(name, "cuda")


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
def test_on_mps_without_float64(name: str) -> None:
    assert check(name, "mps").isfinite().all()


# What the harness sees


def test_a_tensor_of_the_wrong_place_is_found() -> None:
    with pretended() as here:
        there, y = torch.zeros(3), torch.ones(3, device=here.device)
        assert y.device == (y + 1).device == (y * there.sum()).device == here.device and y.cpu().device == HOST
        for broken in (lambda: y + there, lambda: torch.stack([y, there]), lambda: y.numpy(), lambda: there.add_(y)):
            with pytest.raises(WrongDevice):
                broken()
        with pytest.raises(WrongDevice):
            torch.randn(2, device=here.device, generator=torch.Generator())
    with pretended("mps") as here, pytest.raises(WrongDevice, match="float64"):
        torch.zeros(3, device=here.device).double()


@pytest.mark.parametrize(
    "kind, wait",
    [
        ("sync", lambda y: y.sum().item()),
        ("sync", lambda y: bool((y > 0).all())),
        ("sync", lambda y: y[y > 0]),
        ("sync", lambda y: y.nonzero()),
        ("sync", lambda y: y.cpu()),
        ("sync", lambda y: y.tolist()),
        ("copy", lambda y: torch.zeros(3).to(y)),
        ("copy", lambda y: y.new_tensor(0.5)),
        ("copy", lambda y: torch.tensor([0.5], device=y.device)),
        ("copy", lambda y: y[torch.tensor([0, 1])]),
        (None, lambda y: torch.full((), 0.5, device=y.device) * torch.tensor(2.0) * y + torch.zeros_like(y)),
    ],
)
def test_a_wait_is_counted(kind: str | None, wait: object) -> None:
    with pretended() as here:
        y = torch.rand(3, device=here.device).requires_grad_()
        y.square().sum().backward()
        assert y.grad is not None and y.grad.device == here.device and not here.waits
        wait(y)  # pyright: ignore
    assert [found for found, _ in here.waits] == [kind] * (kind is not None)


# Single promises


@pytest.mark.parametrize("family", guides.__all__)
def test_a_guide_without_init_starts_where_the_prior_lies(family: str) -> None:
    with pretended() as here:
        guide = getattr(guides, family)(setting(here.device, IMAGES).model)
        assert {parameter.device for parameter in guide.parameters()} == {here.device}


def test_the_prior_draws_where_it_lies_whatever_its_labels() -> None:
    with pretended() as here:
        marginal = setting(here.device, IMAGES).prior.marginal(0.5, 2, class_labels=torch.tensor([1, 2]))
        draws = marginal.expand(torch.Size([IMAGES])).sample()
        assert draws.device == marginal.log_prob(draws).device == here.device


def test_the_bound_costs_a_wait_only_where_it_is_shown() -> None:
    seen: list[Progress] = []
    with pretended() as here:
        problem = setting(here.device, IMAGES)
        vp.fit(problem.model, problem.guide(), problem.y, OBJECTIVES["BetaELBO"](), 1)  # copies the prior's tables
        counts = [here.waits.total()]
        for steps, callback in ((1, None), (2, None), (1, seen.append), (2, seen.append)):
            vp.fit(problem.model, problem.guide(), problem.y, OBJECTIVES["BetaELBO"](), steps, callback=callback)
            counts.append(here.waits.total())
    shortest, short, shown, longer = (after - before for before, after in pairwise(counts))
    assert (short - shortest, longer - shown) == (1, 2) and all(progress.bound is not None for progress in seen)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_resumed_fit_goes_on_with_the_generator_of_the_device(kind: str) -> None:
    with pretended(kind) as here:
        problem = setting(here.device, IMAGES)
        whole, parts = problem.guide(), problem.guide()
        vp.fit(problem.model, whole, problem.y, OBJECTIVES["BetaELBO"](), 2, seed=0)
        first: Fit = vp.fit(problem.model, parts, problem.y, OBJECTIVES["BetaELBO"](), 1, seed=0)
        assert first.state is not None and f"random/{kind}" in first.state.tensors
        torch.rand(3)
        vp.fit(problem.model, parts, problem.y, OBJECTIVES["BetaELBO"](), 1, resume=first)
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


def test_timesteps_are_not_rounded_with_the_network() -> None:
    """bfloat16 has no 999: the network would see 1000, float16 has no 2049."""
    seen: list[Tensor] = []

    def network(z: Tensor, timestep: Tensor) -> Tensor:
        seen.append(timestep)
        return z

    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        EpsilonDenoiser(network, TABLE, integer_timestep(3000))(torch.zeros(1, *EVENT, dtype=dtype), 2050 / 3000)
    assert [round(timestep.item(), 3) for timestep in seen] == [2049.0] * 4
    assert [timestep.dtype for timestep in seen] == [*[torch.float32] * 3, torch.float64]


def test_what_is_kept_follows_its_source() -> None:
    made: list[float] = []

    def total(values: Tensor) -> float:
        made.append(values.sum().item())
        return made[-1]

    source = torch.ones(3)
    assert [kept(source, total), kept(source, total)] == [3.0, 3.0] and len(made) == 1
    source.mul_(2)
    assert kept(source, total) == 6.0
    with torch.inference_mode():
        assert kept(torch.ones(2), total) == 2.0
    learnt = torch.ones(2, requires_grad=True)
    assert [kept(learnt, total), kept(learnt, total)] == [2.0, 2.0] and len(made) == 5


def test_a_constant_is_copied_once_and_again_when_it_changes() -> None:
    with pretended() as here:
        operator, x = Matrix(torch.eye(3)), torch.rand(2, 3, device=here.device)
        assert torch.equal(operator.A(x).cpu(), x.cpu()) and torch.equal(operator.A_dagger(x).cpu(), x.cpu())
        here.waits.clear()
        operator.A(operator.A_adjoint(operator.A_dagger(x)))
        assert not here.waits
        operator.matrix.mul_(2)
        assert torch.equal(operator.A(x).cpu(), 2 * x.cpu())
        assert on_device(x, here.device) is x


def test_several_gpus_are_forked_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them: a seed sets all."""
    states = {0: torch.zeros(2, dtype=torch.uint8), 1: torch.ones(2, dtype=torch.uint8)}
    restored: dict[int, Tensor] = {}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: restored.update({device: state}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with preserved():
            pass
    assert restored == states


def test_a_loaded_prior_decides_where_a_call_runs() -> None:
    with pretended() as here:
        prior = setting(here.device, IMAGES).prior
        assert resolve_device("auto", prior) == here.device and resolve_device("auto", network_prior()) == HOST
