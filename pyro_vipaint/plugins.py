"""Plug-ins: priors, guides and baselines of other packages, found by their entry points and loaded when they are named.

A package declares them in its ``pyproject.toml``, by group and name:

.. code-block:: toml

    [project.entry-points."pyro_vipaint.priors"]
    my-prior = "my_package:prior"          # device -> DiffusionPrior, or a folder for load_prior
    [project.entry-points."pyro_vipaint.guides"]
    MyGuide = "my_package:MyGuide"         # (model, start) -> guide
    [project.entry-points."pyro_vipaint.baselines"]
    MyMethod = "my_package:method"         # a pyro_vipaint.bench.Baseline, or any Method of the benchmark

Nothing of a package is imported before its name is used, so that one that is broken never stands in the way of the
others, nor of ``import pyro_vipaint``.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from pyro_vipaint.errors import InputError, choice, described, in_one_line

Group = Literal["priors", "guides", "baselines"]
GROUPS: tuple[Group, ...] = ("priors", "guides", "baselines")


def found(group: Group) -> dict[str, EntryPoint]:
    """The plug-ins of a group by name, none of them loaded; of two packages with one name the first in the alphabet.

    Raises:
        InputError: there is no such group.
    """
    choice("group of plug-ins", group, GROUPS)
    points = sorted(entry_points(group=f"pyro_vipaint.{group}"), key=package_of, reverse=True)
    return {point.name: point for point in sorted(points, key=lambda point: point.name)}


def package_of(point: EntryPoint) -> str:
    """The name of the package that a plug-in comes from."""
    return getattr(point.dist, "name", None) or point.value.partition(":")[0]


def load(group: Group, name: str) -> Any:
    """What the plug-in stands for; its package is imported now.

    Raises:
        InputError: there is no such plug-in, or it cannot be imported; the one line names its package.
    """
    points = found(group)
    choice(f"plug-in among the {group}", name, points)
    point = points[name]
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # other people's code raises anything
        raise broken(point, group, error) from error


def broken(point: EntryPoint, group: Group, error: BaseException) -> InputError:
    """The one line about a plug-in that failed."""
    what = f"The plug-in {point.name} ({group}) of the package {package_of(point)} cannot be used"
    return in_one_line(what, RuntimeError(f"{type(error).__name__}: {error}"))


def unusable(group: Group, name: str, value: Any, wanted: str) -> InputError:
    """The one line about a plug-in that is something else than ``wanted``."""
    package = package_of(found(group)[name])
    return InputError(
        f"The plug-in {name} ({group}) of the package {package} must be {wanted}, not {described(value)}."
    )
