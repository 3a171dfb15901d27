"""What every effect-based guide here is: one method, ``get_posterior(name, prior)``, and ancestral sampling."""

from __future__ import annotations

from pyro.infer.autoguide import AutoMessenger
from pyro.nn.module import pyro_method
from pyro.poutine.runtime import get_plates
from torch import Tensor


class LatentGuide(AutoMessenger):
    """A guide over the latent levels of a :class:`DiffusionModel`.

    A subclass says ``get_posterior(name, prior)``: the distribution at a site, given the model's own distribution
    there. The guide rides on the model's run, so that guide and model share every network call.
    """

    @pyro_method
    def sample_latents(self, num_images: int) -> Tensor:
        """Draws z_K … z_1 from the guide and returns z_1: K - 1 network calls, none for the observation."""
        self._outer_plates = tuple(frame.name for frame in get_plates())
        try:
            with self:
                return self.model.sample_latents(num_images)
        finally:
            del self._outer_plates
