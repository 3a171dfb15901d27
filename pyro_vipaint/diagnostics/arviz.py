"""Export to ArviZ: draws of a guide with their importance weights, as a ``DataTree``, before ArviZ 1 ``InferenceData``.

ArviZ's summaries and plots then work on the guide's draws as on any posterior. Its convergence diagnostics (R-hat, ESS)
do not apply: draws of a guide are independent, even if the guide is wrong. The pointwise log likelihood has one value
per image, so that ``az.loo`` would omit whole images, each of which has its own posterior: it does not compare guides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pyro_vipaint.diagnostics.draws import weighted_draws
from pyro_vipaint.errors import InputError

if TYPE_CHECKING:
    import numpy as np


def to_arviz(
    model: Callable[..., Any],
    guide: Any,
    y: Tensor,
    num_samples: int = 1000,
    *,
    losses: Sequence[float] = (),
    seed: int | None = None,
    batch_size: int | None = None,
) -> Any:
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
    draws = weighted_draws(model, guide, y, num_samples, seed=seed, batch_size=batch_size)
    values = (draws.z, draws.log_weights, -draws.terms["y"])
    z, weights, likelihood = (value.detach().cpu().numpy()[None] for value in values)  # one chain
    groups = {
        "posterior": {"z_Ts": z},
        "sample_stats": {"log_weight": weights},
        "log_likelihood": {"y": likelihood},
        "observed_data": {"y": y.detach().cpu().numpy()},
    }
    data = data_tree(groups, {name: ["image"] for name in ("z_Ts", "log_weight", "y")})
    if len(losses):
        import xarray

        data["sample_stats"]["loss"] = xarray.DataArray(list(losses), dims="step")
    return data


def data_tree(groups: Mapping[str, Mapping[str, np.ndarray]], dims: Mapping[str, Sequence[str]]) -> Any:
    """The groups for ArviZ; ``dims`` names the dimensions of a variable behind those of chain and draw.

    ArviZ 1 takes the groups as one mapping and returns a ``DataTree``; before it takes them as arguments.

    Raises:
        InputError: ArviZ is not installed.
    """
    try:
        import arviz
    except ImportError as error:
        raise InputError("Exporting needs ArviZ: pip install 'pyro-vipaint[arviz]'.") from error
    from_dict: Any = arviz.from_dict
    names = {name: list(each) for name, each in dims.items()}
    given = {group: dict(values) for group, values in groups.items()}
    if int(arviz.__version__.partition(".")[0]) >= 1:
        return from_dict(given, dims=names)
    return from_dict(**given, dims=names)
