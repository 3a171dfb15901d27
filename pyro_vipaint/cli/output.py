"""The folder of results and the table on the terminal."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from pyro_vipaint._torch import dtype_name
from pyro_vipaint.checks import check_truth
from pyro_vipaint.cli.options import console
from pyro_vipaint.models.measurements.masks import composite
from pyro_vipaint.models.priors.prior import DiffusionPrior
from pyro_vipaint.progress import progress_bar
from pyro_vipaint.results import Result
from pyro_vipaint.results.files import build_report, seams, write_result


def run_and_write(
    run: Callable[..., Result],
    truth: Any,
    out: Path,
    seed: int,
    prior: DiffusionPrior,
    label: Any,
    entries: dict[str, Any],
    weights: Tensor | None = None,
) -> None:
    """Runs VIPaint with progress bars, writes the folder and prints the table.

    ``run`` takes a ``callback``. The precision of the loaded ``prior`` and ``entries`` are added to the report. With
    ``weights``, the mask, the observed pixels are pasted into the samples, and the report has the seam before, too.

    Raises:
        InputError: the truth has another shape than the images of the prior.
    """
    check_truth(truth, prior.image_shape)
    with progress_bar(console=console) as callback, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Encountered (NaN|[+-]inf)")  # Pyro's; the error that follows says where
        result = run(callback=callback)
    labels = None if label is None else ([label] if isinstance(label, int) else label.tolist())
    with console.status("measuring and writing"):
        before = None if weights is None else seams(result, weights)
        if weights is not None:
            result = replace(result, samples=composite(result.samples, result.observation, weights))
        report: dict[str, Any] = (
            build_report(result, truth, seed, prior.name, labels) | entries | {"dtype": dtype_name(prior)}
        )
        if before is not None:
            for image, seam in zip(report["images"], before.tolist(), strict=True):
                image["seam_uncomposited"] = seam
        write_result(out, result, report, truth)
    _print_table(report, out)


def _print_table(report: dict[str, Any], out: Path) -> None:
    import pandas

    frame = pandas.DataFrame(report["images"]).drop(columns="terms")
    table = Table("image", *frame.columns, title=f"{report['num_samples']} samples per image")
    for index, row in frame.iterrows():
        table.add_row(str(index), *(f"{value:.4g}" for value in row))
    console.print(table)
    console.print(
        f"{report['network_calls']} network calls on {report['nfe']} images in all, "
        f"{report['seconds']:.1f} s. bound: nats on log p(y), higher is better"
        f"{'; lpips: lower is better' if 'lpips' in frame else ''}."
    )
    written = f"Written to {out}/: contact_sheet.png, the samples, samples.safetensors, report.json"
    console.print(written, soft_wrap=True, markup=False)
