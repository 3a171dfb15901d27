"""Where a fit stopped: all that its next step depends on, the model, the observation and the objective aside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyro_vipaint.errors import InputError
from pyro_vipaint.seeding import preserved


@dataclass(frozen=True, eq=False)
class FitState:
    """A guide, its optimiser and the random generators after the last step, on the CPU.

    Attributes:
        tensors: ``guide/<name>``, ``adam/<name>/<key>`` and ``random/<device type>``.
        rates: learning rates by kind that the next step would use.
    """

    tensors: Mapping[str, Tensor]
    rates: Mapping[str, float]

    @classmethod
    def capture(cls, guide: nn.Module, optimizer: torch.optim.Optimizer) -> FitState:
        """The state now; nothing that happens later changes it."""
        tensors = {f"guide/{name}": value for name, value in guide.state_dict().items()}
        for name, parameter in guide.named_parameters():
            for key, value in optimizer.state[parameter].items():
                tensors[f"adam/{name}/{key}"] = value
        tensors["random/cpu"] = torch.get_rng_state()
        for device in _cuda_devices(guide):
            tensors["random/cuda"] = torch.cuda.get_rng_state(device)
        rates = {group["kind"]: float(group["lr"]) for group in optimizer.param_groups}
        return cls({name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}, rates)

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
            entries = self._part(f"adam/{name}/")
            optimizer.state[parameter] = {
                key: value.clone() if key == "step" else value.to(parameter.device, copy=True)
                for key, value in entries.items()
            }

    @contextmanager
    def randomness(self, guide: nn.Module) -> Iterator[None]:
        """Runs the block from the captured random state and leaves the caller's generators as they were."""
        with preserved():
            torch.set_rng_state(self.tensors["random/cpu"])
            for device in _cuda_devices(guide):
                if "random/cuda" in self.tensors:
                    torch.cuda.set_rng_state(self.tensors["random/cuda"], device)
            yield

    def _part(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}


def _cuda_devices(guide: nn.Module) -> list[torch.device]:
    """The CUDA device that the guide lies on, if it lies on one."""
    devices = {parameter.device for parameter in guide.parameters() if parameter.device.type == "cuda"}
    return sorted(devices, key=str)[:1]
