"""Export to ArviZ: draws of a guide as an ``InferenceData``, with their importance weights.

ArviZ's summaries and plots then work on the guide's draws as on any posterior. Its convergence diagnostics (R-hat, ESS)
do not apply: draws of a guide are independent, even if the guide is wrong. The pointwise log likelihood has one value
per image, so that ``az.loo`` would omit whole images, each of which has its own posterior: it does not compare guides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyro_vipaint.diagnostics.draws import weighted_draws
from pyro_vipaint.errors import InputError

if TYPE_CHECKING:
    from arviz import InferenceData


def to_arviz(
    model: Callable[..., Any],
    guide: Any,
    y: Tensor,
    num_samples: int = 1000,
    *,
    losses: Sequence[float] = (),
    seed: int | None = None,
    batch_size: int | None = None,
) -> InferenceData:
    """Draws of ``guide`` on the unscaled ``model`` as one chain, S × N × (K + 1) NFE.

    Args:
        model, guide, y, num_samples, seed, batch_size: as for :func:`weighted_draws`.
        losses: the objective at each step of the fit, stored with the draws.

    Returns:
        Groups ``posterior`` (z_Ts, ``z_Ts``), ``sample_stats`` (``log_weight``, in nats; ``loss`` along ``step``),
        ``log_likelihood`` (``y``, one value per image) and ``observed_data`` (``y``).

    Raises:
        InputError: ArviZ is not installed, or an error of :func:`weighted_draws`.
    """
    try:
        import arviz
    except ImportError as error:
        raise InputError("Exporting needs ArviZ: pip install 'pyro-vipaint[arviz]'.") from error
    import xarray

    draws = weighted_draws(model, guide, y, num_samples, seed=seed, batch_size=batch_size)
    values = (draws.z, draws.log_weights, -draws.terms["y"])
    z, weights, likelihood = (value.detach().cpu().numpy()[None] for value in values)  # one chain
    data = arviz.from_dict(
        posterior={"z_Ts": z},
        sample_stats={"log_weight": weights},
        log_likelihood={"y": likelihood},
        observed_data={"y": y.detach().cpu().numpy()},
        dims={name: ["image"] for name in ("z_Ts", "log_weight", "y")},
    )
    if len(losses):
        data["sample_stats"]["loss"] = xarray.DataArray(list(losses), dims="step")
    return data
