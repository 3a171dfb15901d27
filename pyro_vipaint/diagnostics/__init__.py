"""The quality of a guide: evidence bounds, importance weights, calibration, coverage, distances; export to ArviZ.

All of them run the unscaled model. The exact posterior of layered pictures is exported here too.
"""

from pyro_vipaint.cats.posterior import PartsPosterior, parts_posterior
from pyro_vipaint.cats.scores import (
    coverage_of_classes,
    expected_coverage,
    expected_total_variation,
    is_shown,
    part_scores,
    total_variation,
)
from pyro_vipaint.diagnostics.arviz import to_arviz
from pyro_vipaint.diagnostics.calibration import (
    SBC,
    VSBC,
    coordinates,
    draw_latent_and_data,
    log_likelihood,
    rank_statistics,
    sbc,
    sbc_of_guide,
    vsbc,
)
from pyro_vipaint.diagnostics.conformal import Conformal, conformalize
from pyro_vipaint.diagnostics.coverage import coverage, credible_interval
from pyro_vipaint.diagnostics.draws import WeightedDraws, weighted_draws
from pyro_vipaint.diagnostics.evidence import Estimate, elbo_estimate, iwae_bound, log_weights, terms_by_level
from pyro_vipaint.diagnostics.importance import Resampled, effective_sample_size, resample
from pyro_vipaint.diagnostics.pareto import SmoothedWeights, pareto_k, pareto_smooth, pareto_threshold
from pyro_vipaint.diagnostics.projections import ProjectionSummary, project_onto_moments, project_onto_samples
from pyro_vipaint.diagnostics.scores import (
    Ratio,
    energy_score,
    error_over_spread,
    interval_coverage,
    lpips_energy_score,
)
from pyro_vipaint.diagnostics.two_sample import Accuracy, c2st, sliced_wasserstein, wasserstein
from pyro_vipaint.diagnostics.uniformity import (
    chi_square_test,
    ecdf_band,
    ecdf_test,
    rank_histogram,
    symmetry_test,
)

__all__ = [
    "WeightedDraws", "weighted_draws", "log_weights", "Estimate", "elbo_estimate", "iwae_bound", "terms_by_level",
    "SmoothedWeights", "pareto_k", "pareto_smooth", "pareto_threshold",
    "Resampled", "resample", "effective_sample_size",
    "ProjectionSummary", "project_onto_moments", "project_onto_samples",
    "SBC", "sbc", "sbc_of_guide", "VSBC", "vsbc", "coordinates", "draw_latent_and_data", "log_likelihood",
    "rank_statistics", "rank_histogram", "chi_square_test", "ecdf_test", "ecdf_band", "symmetry_test",
    "energy_score", "lpips_energy_score", "error_over_spread", "interval_coverage", "Ratio",
    "Conformal", "conformalize",
    "coverage", "credible_interval", "Accuracy", "c2st", "sliced_wasserstein", "wasserstein",
    "PartsPosterior", "parts_posterior", "part_scores", "is_shown", "total_variation", "expected_total_variation",
    "coverage_of_classes", "expected_coverage", "to_arviz",
]  # fmt: skip
