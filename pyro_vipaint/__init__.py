"""VIPaint: variational inference with pretrained diffusion priors, as Pyro programs.

A diffusion prior and a measurement make a Pyro *model*; a *guide* approximates its posterior; an *ELBO* fits the
guide; a *refinement* turns its samples into images. Images live in [-1, 1], masks are 1 where observed, shapes are
sample × batch × event.
"""

import pyro

# Parameters belong to their guide. With Pyro's global store a second guide of a class would start where the first
# one ended; this must be set before any PyroModule exists.
pyro.settings.set(module_local_params=True)

from pyro_vipaint.calls import count_calls  # noqa: E402
from pyro_vipaint.comparison import Comparison, compare  # noqa: E402
from pyro_vipaint.elbos import AnnealedELBO, BetaELBO, RenyiELBO, SampledELBO, StickingTheLandingELBO  # noqa: E402
from pyro_vipaint.errors import InputError, NonFiniteError  # noqa: E402
from pyro_vipaint.many import inpaint_many  # noqa: E402
from pyro_vipaint.models.measurements.blur import GaussianBlur, MotionBlur  # noqa: E402
from pyro_vipaint.models.measurements.laws import check_operator  # noqa: E402
from pyro_vipaint.models.measurements.likelihoods import Gaussian, Laplace, Perceptual, Poisson  # noqa: E402
from pyro_vipaint.models.measurements.operators import Compose, Inpainting  # noqa: E402
from pyro_vipaint.models.measurements.super_resolution import SuperResolution  # noqa: E402
from pyro_vipaint.models.priors.schedules import keypoints  # noqa: E402
from pyro_vipaint.prior_check import PriorCheck, check_prior, unfamiliar  # noqa: E402
from pyro_vipaint.progress import progress_bar  # noqa: E402
from pyro_vipaint.refinement import refine  # noqa: E402
from pyro_vipaint.restoration import inpaint, restore  # noqa: E402
from pyro_vipaint.results import Result  # noqa: E402
from pyro_vipaint.sampling import initial_latent, sample  # noqa: E402
from pyro_vipaint.smc import SMC, smc  # noqa: E402
from pyro_vipaint.svi import Fit, fit  # noqa: E402

InpaintingResult = RestorationResult = Result

__version__ = "0.1.0"

__all__ = [
    "AnnealedELBO",
    "BetaELBO",
    "Comparison",
    "Compose",
    "Fit",
    "Gaussian",
    "GaussianBlur",
    "InpaintingResult",
    "InputError",
    "Inpainting",
    "Laplace",
    "MotionBlur",
    "NonFiniteError",
    "Perceptual",
    "Poisson",
    "PriorCheck",
    "RenyiELBO",
    "RestorationResult",
    "Result",
    "SMC",
    "SampledELBO",
    "StickingTheLandingELBO",
    "SuperResolution",
    "check_operator",
    "check_prior",
    "compare",
    "count_calls",
    "fit",
    "initial_latent",
    "inpaint",
    "inpaint_many",
    "keypoints",
    "progress_bar",
    "refine",
    "restore",
    "sample",
    "smc",
    "unfamiliar",
]
