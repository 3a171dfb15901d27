r"""A coupling flow at T_e, and the hierarchical levels (Eq. 12) below it.

.. math::
    z_K = \alpha_{T_e} \mu_K + \tau_K \, (f_L \circ \dots \circ f_1)(\epsilon), \quad \epsilon \sim N(0, I)

Each f is the affine coupling of RealNVP (Dinh et al. 2017): half of the elements pass unchanged, the others are shifted
and scaled by functions of that half. The halves are the two colours of a checkerboard (odd and even elements of a
vector) and change roles from one coupling to the next. Each f starts at the identity, so that the guide starts as the
:class:`HierarchicalGuide`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import TorchDistribution, TransformedDistribution  # pyright: ignore[reportAttributeAccessIssue]
from pyro.distributions.transforms import AffineCoupling, Permute
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions.transforms import AffineTransform, ReshapeTransform, Transform
from torch.nn.functional import silu

from pyro_vipaint.errors import whole
from pyro_vipaint.guides.base import gaussian
from pyro_vipaint.guides.hierarchical import ChainGuide

if TYPE_CHECKING:
    from pyro_vipaint.corrections import Correction
    from pyro_vipaint.models import DiffusionModel

ModuleList: Any = PyroModule[nn.ModuleList]


class Conditioner(PyroModule):
    """Shift and log scale of one half of the elements as functions of the other half, with one network per image.

    A network has three convolutions, ``width`` hidden channels and SiLU between them; the networks of the images are
    the groups of grouped convolutions. The kernels are 3 × 3 for events ``(C, H, W)``; for any other event they are
    1 × 1 over the flattened elements, which is a dense layer. The last convolution starts at zero. ``inputs``, boolean
    and of the event shape, is True for the half that the network reads.
    """

    def __init__(self, inputs: Tensor, num_images: int, width: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        is_image = inputs.ndim == 3
        self.num_images, self.shape = num_images, tuple(inputs.shape) if is_image else (inputs.numel(), 1, 1)
        self.register_buffer("inputs", inputs.flatten().nonzero()[:, 0], persistent=False)
        self.register_buffer("outputs", (~inputs).flatten().nonzero()[:, 0], persistent=False)
        channels = self.shape[0]
        sizes = [(channels, width), (width, width), (width, 2 * channels)]
        convolutions = [_grouped(num_images, size, 3 if is_image else 1, generator) for size in sizes]
        convolutions[-1].weight = PyroParam(torch.zeros_like(convolutions[-1].weight))
        self.layers = ModuleList(convolutions)

    def forward(self, half: Tensor) -> tuple[Tensor, Tensor]:
        """``(*particles, N, inputs)`` to two tensors ``(*particles, N, outputs)``."""
        leading = half.shape[:-1]
        whole = half.new_zeros(*leading, len(self.inputs) + len(self.outputs)).index_copy(-1, self.inputs, half)
        hidden = whole.reshape(-1, self.num_images * self.shape[0], *self.shape[1:])
        *first, last = self.layers
        for layer in first:
            hidden = silu(layer(hidden))
        shift, log_scale = last(hidden).reshape(*leading, 2, -1).index_select(-1, self.outputs).unbind(-2)
        return shift, log_scale

    def couplings(self) -> list[Transform]:
        """The affine coupling of a flattened event, between the permutation of its elements and the inverse of it."""
        order = torch.cat([self.inputs, self.outputs])
        return [Permute(order), AffineCoupling(len(self.inputs), self), Permute(order.argsort())]


class FlowGuide(ChainGuide):
    """A coupling flow at T_e on top of the hierarchical Gaussian, the levels of :class:`ChainGuide` below.

    Every image has its own flow: the fit of one image does not depend on the others. At T_e the KL is sampled, not
    analytic. At the first step only the last layer of each conditioner, whose weights are zero, has a gradient.

    With width 32, a coupling of a ``(1, 32, 32)`` event has about 10 000 parameters per image.

    Args:
        num_couplings: L >= 1; with 2 or more every element is moved. 4 is a choice of this library, not tuned.
        width: hidden channels of a conditioner; 32 is a choice of this library, not tuned.
        generator: for the initial values of the conditioners; torch's global one if not given.
        model, init, gamma_logit, tau_scale, gamma, tau, correction: as for :class:`ChainGuide`.

    Raises:
        InputError: no coupling, an event of a single element, or an error of :class:`ChainGuide`.
    """

    def __init__(
        self,
        model: DiffusionModel,
        init: Tensor | None = None,
        *,
        num_couplings: int = 4,
        width: int = 32,
        generator: torch.Generator | None = None,
        gamma_logit: float | Tensor = 4.0,
        tau_scale: float = 0.7,
        gamma: str = "element",
        tau: str = "element",
        correction: Correction | None = None,
    ) -> None:
        super().__init__(
            model, init, gamma_logit=gamma_logit, tau_scale=tau_scale, gamma=gamma, tau=tau, correction=correction
        )
        event = torch.Size(model.prior.event_shape)
        whole("num_couplings", num_couplings)
        whole("width", width)
        whole("the number of elements of the event", event.numel(), least=2)
        self.settings |= {"num_couplings": num_couplings, "width": width}
        even = torch.stack(torch.meshgrid(*map(torch.arange, event), indexing="ij")).sum(0) % 2 == 0
        halves = [even, ~even]
        conditioners = [Conditioner(halves[i % 2], self.num_images, width, generator) for i in range(num_couplings)]
        self.flow_conditioners = ModuleList(conditioners).to(self._location(self._top))

    def get_top(self, prior: Any) -> TorchDistribution:
        """The flow of standard normal noise, scaled by tau_K and shifted by alpha_Te mu_K."""
        loc, tau = self._location(self._top), self.get_tau(self._top)
        event = torch.Size(loc.shape[1:])
        noise = gaussian(torch.zeros_like(loc).flatten(1), torch.ones_like(loc).flatten(1), 1)
        flow = [part for conditioner in self.flow_conditioners for part in conditioner.couplings()]
        to_event = ReshapeTransform(torch.Size([event.numel()]), event, cache_size=1)
        to_site = AffineTransform(loc, tau.expand(loc.shape), event_dim=len(event), cache_size=1)
        return TransformedDistribution(noise, [*flow, to_event, to_site], validate_args=False)


def _grouped(images: int, sizes: tuple[int, int], kernel: int, generator: torch.Generator | None) -> Any:
    """One convolution per image, initialised as torch does by default, but with zero bias.

    Its parameters are Pyro's: Pyro's own SVI fails on parameters of a plain module that are in no global store.
    """
    channels_in, channels_out = (images * size for size in sizes)
    convolution: Any = PyroModule[nn.Conv2d]
    # The constructor draws from the global generator.
    with torch.random.fork_rng(devices=(), enabled=generator is not None):
        layer = convolution(channels_in, channels_out, kernel, padding=kernel // 2, groups=images)
    weight = nn.init.kaiming_uniform_(torch.empty_like(layer.weight), a=5**0.5, generator=generator)
    layer.weight, layer.bias = PyroParam(weight), PyroParam(torch.zeros(channels_out))
    return layer
