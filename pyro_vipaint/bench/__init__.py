"""The comparison of methods on any priors and images: methods × tasks × budgets × seeds, resumable.

>>> from pyro_vipaint.bench import Plan, engine, run  # doctest: +SKIP
>>> plan = Plan(("fashion32",), ("box",), ("VIPaint-4", "DPS"), budgets=(100,))  # doctest: +SKIP
>>> frame = run(plan, Path("bench"), engine("local", 1, "cpu", None), "cpu")  # doctest: +SKIP

A :class:`Suite` says what the names in a plan stand for; another suite brings methods, tasks and scores of its own.
"""

from pyro_vipaint.bench.engines import engine
from pyro_vipaint.bench.grid import Cell, Plan
from pyro_vipaint.bench.methods import Baseline, Method, Outcome, VIPaint
from pyro_vipaint.bench.registry import METHODS, SUITE, Suite
from pyro_vipaint.bench.report import write_report
from pyro_vipaint.bench.runner import run
from pyro_vipaint.bench.store import Store
from pyro_vipaint.bench.tasks import TASKS

__all__ = [
    "METHODS",
    "SUITE",
    "TASKS",
    "Baseline",
    "Cell",
    "Method",
    "Outcome",
    "Plan",
    "Store",
    "Suite",
    "VIPaint",
    "engine",
    "run",
    "write_report",
]
