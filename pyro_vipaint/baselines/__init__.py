"""Methods to compare with, one file each. Next to ``method`` stands ``method_calls``, its network calls by steps.

All methods take ``(prior, likelihood, y, num_samples, steps)`` and return a :class:`BaselineResult`. Their default
numbers are the authors'. How far each method is from the exact posterior of a Gaussian problem with these defaults is
measured by ``benchmarks/bias.py``.

Args:
    prior, likelihood: as for :class:`pyro_vipaint.models.DiffusionModel`, the likelihood with the members of
        :class:`pyro_vipaint.models.Likelihood` that the method uses. PSLD and ReSample need a latent prior; Pi-GDM,
        MMPS, DDNM, DiffPIR, DAPS, DDSMC and DING one of pixels; Blended, RePaint, DDSMC and DING need an inpainting
        mask; Blended, RePaint and ReSample need one noise level, not a map.
    y: observations ``(N, *observation)``, float32 or float64, for images in [-1, 1]. The values at hidden elements have
        no influence.
    num_samples: S, the number of draws for each observation; all are made at once.
    steps: number of steps from t = 1 to t = 0, evenly spaced in time; for DAPS, DDSMC and DING of noise levels of
        their own.
    seed: seed of all noise; ``None`` draws from the global generator. The same call gives the same bits; another batch
        or number of samples gives other draws of the same law (docs/bound.md, "What a seed promises").
    callback: called after each step with its :class:`pyro_vipaint.progress.Progress`; the phase is the method's name.
    condition: passed to the denoiser, e.g. ``class_labels`` of shape ``(N,)``.

Raises:
    InputError: ``steps`` or ``num_samples`` is not a whole number of at least 1; the prior, the operator or the noise
        is not of the kind that the method needs; the observations, the likelihood or the conditions cannot be used; the
        method takes gradients and ``torch.inference_mode()`` is on.
"""

from pyro_vipaint.baselines.base import BaselineResult
from pyro_vipaint.baselines.blended import blended, blended_calls
from pyro_vipaint.baselines.copaint import copaint, copaint_calls
from pyro_vipaint.baselines.copaint_tt import copaint_tt, copaint_tt_calls
from pyro_vipaint.baselines.daps import daps, daps_calls
from pyro_vipaint.baselines.ddnm import ddnm, ddnm_calls
from pyro_vipaint.baselines.ddsmc import ddsmc, ddsmc_calls
from pyro_vipaint.baselines.diffpir import diffpir, diffpir_calls
from pyro_vipaint.baselines.ding import ding, ding_calls
from pyro_vipaint.baselines.dps import dps, dps_calls
from pyro_vipaint.baselines.mgdm import mgdm, mgdm_calls
from pyro_vipaint.baselines.mmps import mmps, mmps_calls
from pyro_vipaint.baselines.pi_gdm import pi_gdm, pi_gdm_calls
from pyro_vipaint.baselines.psld import psld, psld_calls
from pyro_vipaint.baselines.red_diff import red_diff, red_diff_calls
from pyro_vipaint.baselines.repaint import repaint, repaint_calls
from pyro_vipaint.baselines.resample import ReSampleResult, resample, resample_calls

__all__ = [
    "BaselineResult",
    "ReSampleResult",
    "blended",
    "blended_calls",
    "copaint",
    "copaint_calls",
    "copaint_tt",
    "copaint_tt_calls",
    "daps",
    "daps_calls",
    "ddnm",
    "ddnm_calls",
    "ddsmc",
    "ddsmc_calls",
    "diffpir",
    "diffpir_calls",
    "ding",
    "ding_calls",
    "dps",
    "dps_calls",
    "mgdm",
    "mgdm_calls",
    "mmps",
    "mmps_calls",
    "pi_gdm",
    "pi_gdm_calls",
    "psld",
    "psld_calls",
    "red_diff",
    "red_diff_calls",
    "repaint",
    "repaint_calls",
    "resample",
    "resample_calls",
]
