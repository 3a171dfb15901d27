"""Results that can be questioned: more draws, quantiles, intervals, probabilities, saving, export."""

from pyro_vipaint.results.approximation import Approximation
from pyro_vipaint.results.questions import Estimate
from pyro_vipaint.results.result import Result

__all__ = ["Approximation", "Estimate", "Result"]
