"""VIPaint against DPS on held-out images at equal NFE.

    python -m benchmarks.quality            # 32 images × 10 samples, eight methods; resumes where it stopped
    python -m benchmarks.quality --report   # only the table of what is there

Images 0-31 of the 64 shipped held-out ones, a rotated-window mask each, their class label given to every method,
the clean observation as y. An *evaluation* is one image through the network once, with or without its gradient; the
fit's share is divided among the samples. Columns: LPIPS to the truth (mean over samples, then over images), mean
absolute error on observed pixels (nothing is pasted in), standard deviation over samples in the hole, NFE a
sample. Differences to DPS at the same NFE are paired over images, with their standard error.

Tuned on images 32-63 only. What was tried, LPIPS at NFE per sample (K levels; noise levels over the data's
standard deviation; the differences between neighbours are within noise, the standard error of a paired difference
being about 0.0015):

Images 32-43, 5 samples.
- DPS from noise: .0245 at 45, .0245 at 90 (zeta 1), .0250 and .0229 at 90 (zeta .5 and 2), .0218 at 135 (zeta 1):
  with this prior and the label, DPS is nearly as good with 45 steps as with 90.
- K = 4, 7.5 to .9, 4 particles, rate of mu .1, 30 refinement steps: .0231 at 133. With gamma started low on observed
  pixels: .0228 at 133 (logit 1); .0222 at 83 (logit 0, 2 particles); .0224 at 113 (logit 1, 2 particles, 60 steps).
- Half the SVI steps (25) at gamma logit 0: .0241 at 43; at -1: .0234.
- Refinement of one fit, 30 steps: zeta 1, 2, 4: .0222, .0221, .0236; 15 steps, zeta 2: .0219; without noise (eta 0):
  .0235; eta .5: .0226. The bare prediction at T_s: .0368.
- Rate of mu .3, 2 particles, 15 refinement steps: .0207 at 68 (K = 4), .0231 at 46 (K = 2): the largest gain.
- T_e at 3 instead of 7.5: .0199 (K = 4), .0205 (K = 2); at 2: .0242 (K = 2); 1.5 with T_s at .6: .0277 (K = 4).
- Rate of mu .6: .0201 (K = 4), .0236 (K = 2). beta .3 and 3 (K = 2, T_e at 7.5): .0240 and .0235.
- T_s at 1.5 with 22 refinement steps: .0207 at 53 (K = 2).
- Without the label, before the gain above: DPS .0270 at 45 and .0272 at 90, VIPaint-4 .0289 at 68, VIPaint-2 .0292.

Images 32-63, 3 samples.
- DPS .0224 at 46, .0226 at 68.
- K = 2: 3 to .9: .0211; 4.5 to .9: .0216; 3 to 1.5 with 22 refinement steps: .0210 at 53; rates decaying to a tenth:
  .0210; 100 SVI steps: .0205 at 76; 75 steps, 3 to 1.5: .0202 at 68; refinement of 25 steps: .0207 at 56; zeta 1 and
  2.5: .0213 and .0215.
- K = 4: 3 to .9: .0190; 5 to .9: .0199; rates decaying to a tenth: .0202; 10 refinement steps: .0212 at 63.

All above with the prior after 4000 iterations. With the one that ships, images 32-63, 5 samples:
- DPS: .0246 at 31, .0242 at 43, .0207 at 68 (zeta 1); .0222 at 31 (zeta 1.5).
- K = 4, hidden pixels starting at zero: .0219 at 68; one particle: .0229 at 43; tau at .4 of the prior's step and
  nearly fixed: .0258 at 68.
- Hidden pixels starting at the prior's mean for the label, K = 4: .0187 at 68; one particle: .0205 at 43; with logit of
  gamma 1: .0182 at 43; with scale .1: .0196 at 43; one particle, 30 steps: .0196 at 33. K = 2: .0170 at 46; one
  particle: .0177 at 31. This start is the second largest gain, and the bound is better with it as well.

Then 48 other images of the test set (3000-3047), 5 samples, NFE as if 10 were drawn:
- DPS: .0369, .0279, .0248, .0244 at 26 (zeta 1, 1.5, 2, 3); .0312 and .0245 at 31 (zeta 1 and 1.5); .0293, .0240,
  .0233 at 34 (zeta 1, 1.5, 2); .0239 at 47 and .0227 at 69 (zeta 1). Few steps want a large zeta.
- K = 2: .0216 at 46 (two particles, 50 steps); one particle: .0226 at 31 (50 steps), .0216 at 26 (30 steps).
- K = 4, logit of gamma 1: .0217 at 68 (two particles, 50 steps), .0222 at 33 (one particle, 30 steps).
One particle and 30 steps became the default: the same quality at half the NFE. On images 0-31, 10 samples, the
earlier default (two particles, 50 steps, logit 4) had .0232 at 46 against .0258 of DPS (K = 2) and .0232 at 68 against
.0244 (K = 4, zeta 1); with one particle, 50 steps and logit 1, K = 4 has .0243 at 43, the same as with 30 steps.

And 32 more (4000-4031), 5 samples, in search of what VIPaint-4 lacks:
- K = 2, 30 steps: .0165 at 26 for a logit of 4 and of 1; 20 steps and 12 of refinement: .0173; DPS .0168 at 26,
  .0175 at 20 (zeta 2.5). K = 4: .0170 at 33; 12 refinement steps: .0174. K = 4 has the smallest absolute error in the
  hole (.115, K = 2 .120, DPS .123) and the smallest diversity (.067, .071, .088).
- Guidance weighted as in Pi-GDM (Song et al. 2023), not as in DPS: .0171 at 26 from noise; as the refinement, 10 steps:
  .0200 (K = 2), .0186 (K = 4): draws of z_Ts have less noise than that level should have, which DPS forgives.
- Their noise drawn anew around the denoised image, one call more: .0177 (K = 2), .0182 (K = 4) with 12 steps of DPS.
- Transitions of matched variance (Bao et al. 2022), the denoising error measured on 32 images: .0231 (K = 2).

64 more (6000-6063), 5 samples, NFE as if 10 were drawn; differences to K = 4 paired over images:
- DPS (zeta 1) .0217 at 34. K = 4: .0184 at 33, so 15 % below it there. K = 2: .0183 at 25.
- K = 4, the mean of the last 10 steps (``Settings.average``): .0178 (-.0006 +- .0002); of the last 20: .0176. On images
  0-31, 10 samples, of the last 15: K = 4 .0247 in place of .0243, K = 2 .0229 in place of .0232. What it does to the
  bound is plain (32 of these images, 30 steps, K = 4: +14 +- 6 nats with the mean of the last 15, and +23 +- 7 if all
  rates are .15), to LPIPS it is not; it is not the default.
- K = 4, logit of gamma 0: .0175 (-.0009 +- .0008), diversity .061 in place of .077; -1: .0189, .052. T_s at .6, 40 SVI
  and 10 refinement steps: .0180 (-.0004 +- .0006); with the mean of the last 15: .0183.
- K = 4, zeta falling from 2.5 to .5 (``Settings.zeta_decay``): .0180 (-.0004 +- .0002), observed error .004.

64 more (7000-7063), 5 samples, refinements of one fit, paired; the default since then is zeta falling from 2.5 to .5:
- K = 4: .0195 (zeta 1.5, observed error .013); falling from 2.5 to .5 .0193 (-.0002 +- .0001, .004), from 2.5 to .12
  .0193 (.002), from 4 to .4 .0191 (-.0004 +- .0002, .003). K = 2: .0189 (2.5 to .5), .0187 (4 to .4).
- K = 4, logit of gamma 0, 2.5 to .5: .0188 (-.0007 +- .0012), diversity .060 in place of .074; with the mean of the
  last half of the steps .0191.
- DPS at 34 does not gain by it: .0224 (zeta 1), .0200 (2.5), .0222 (2.5 to .5), .0209 (4 to .4).

32 more (8000-8031), 5 samples: K = 2 .0154, K = 4 .0150 (-.0004 +- .0010). K = 4 begun by a fit of K = 2, 20 steps
of it and 12 of its own, 30 nfe: .0160 (mu handed down, and tau at T_e), .0167 (tau and gamma below, too).

In ``vipaint bench``, 16 images, four masks, 100 NFE, it lowers LPIPS under every mask: K = 2 -.0008 +- .0002,
K = 4 -.0006 +- .0001. On images 0-31 before it: K = 2 .0232, K = 4 .0243, observed error .013.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.rows import append_rows, check_sizes, read_rows
from pyro_vipaint import Inpainting, Laplace, inpaint
from pyro_vipaint.baselines import dps
from pyro_vipaint.demo import held_out_images
from pyro_vipaint.metrics import hidden_std, lpips_distance, observed_error
from pyro_vipaint.models import DiffusionPrior, load_prior
from pyro_vipaint.models.measurements.masks import rotated_window
from pyro_vipaint.settings import Settings, default_settings, within

RESULTS = Path(__file__).parent / "results" / "quality.jsonl"
CHUNK = 8  # images in one run
MASK_SEED = 0
FOUR_AS_TWO = "VIPaint-4, as VIPaint-2"  # with as many NFE
DPS_ZETAS = (1.0, 2.5)  # the best at 45 steps and more, and the best at about 25 to 35, of those in the record above


@dataclass(frozen=True)
class Problem:
    """Some images with their masks and labels."""

    images: Tensor
    masks: Tensor
    labels: Tensor


Method = Callable[[DiffusionPrior, Problem, int, int], tuple[Tensor, float]]


def load_problem(start: int, stop: int) -> Problem:
    """Held-out images ``start`` to ``stop`` with their masks."""
    images, labels = held_out_images()
    masks = rotated_window(images.shape[-1], len(images), seed=MASK_SEED)
    return Problem(images[start:stop], masks[start:stop], labels[start:stop])


def vipaint(settings: Settings) -> Method:
    """VIPaint with these settings: samples and NFE per sample."""

    def run(prior: DiffusionPrior, problem: Problem, num_samples: int, seed: int) -> tuple[Tensor, float]:
        result = inpaint(
            problem.images, problem.masks, prior, num_samples=num_samples, label=problem.labels,
            settings=settings, device="cpu", seed=seed,
        )  # fmt: skip
        return result.samples, result.nfe / (num_samples * len(problem.images))

    return run


def dps_from_noise(steps: int, zeta: float) -> Method:
    """DPS from pure noise with ``steps`` NFE per sample."""

    def run(prior: DiffusionPrior, problem: Problem, num_samples: int, seed: int) -> tuple[Tensor, float]:
        likelihood = Laplace(Inpainting(problem.masks))
        y = problem.images * problem.masks
        result = dps(
            prior, likelihood, y, num_samples, steps, zeta=zeta, seed=seed, class_labels=problem.labels
        )  # fmt: skip
        return result.samples, result.nfe / (num_samples * len(y))

    return run


def nfe_per_sample(settings: Settings, num_samples: int) -> int:
    """What one sample of VIPaint costs, the fit's share included."""
    levels = len(settings.noise_levels)
    fit = 1 + settings.steps * (levels + 1) * settings.num_particles
    return math.ceil(fit / num_samples + levels - 1 + settings.refine_steps)


def methods(num_samples: int) -> dict[str, Method]:
    """The eight methods of the table."""
    table: dict[str, Method] = {}
    for levels in (2, 4):
        settings = default_settings(levels)
        steps = nfe_per_sample(settings, num_samples)
        table[f"VIPaint-{levels}"] = vipaint(settings)
        if levels == 2:
            table[FOUR_AS_TWO] = vipaint(within(default_settings(4), steps, num_samples))
        table |= {dps_name(levels, zeta): dps_from_noise(steps, zeta) for zeta in DPS_ZETAS}
    table["DPS, 250 steps"] = dps_from_noise(250, zeta=1.0)
    return table


def dps_name(levels: int, zeta: float) -> str:
    """DPS with as many NFE as VIPaint-``levels``."""
    return f"DPS, zeta {zeta:g}, as VIPaint-{levels}"


def measure(samples: Tensor, problem: Problem) -> dict[str, list[float]]:
    """The columns of the table, a number an image."""
    return {
        "lpips": lpips_distance(samples, problem.images).mean(0).tolist(),
        "observed_error": observed_error(samples, problem.images, problem.masks).mean(0).tolist(),
        "diversity": hidden_std(samples, problem.masks).tolist(),
    }


def run_all(path: Path, num_images: int, num_samples: int, only: str = "") -> None:
    """Runs every method (those whose name begins with ``only``) on every chunk that ``path`` lacks, a line each."""
    prior = load_prior("fashion32")
    check_sizes(path, {start: min(CHUNK, num_images - start) for start in range(0, num_images, CHUNK)}, num_samples)
    done = {(row["method"], row["start"]) for row in read_rows(path)}
    work = [(name, start) for start in range(0, num_images, CHUNK) for name in methods(num_samples)]
    work = [item for item in work if item[0].startswith(only)]
    for name, start in track([item for item in work if item not in done], description="quality"):
        problem = load_problem(start, min(start + CHUNK, num_images))
        samples, nfe = methods(num_samples)[name](prior, problem, num_samples, start)
        row = {"method": name, "start": start, "samples": num_samples, "nfe": nfe}
        append_rows(path, row | measure(samples, problem))


def per_image(rows: list[dict]) -> pandas.DataFrame:
    """A tidy table: a row a method and image."""
    records = [
        {"method": row["method"], "image": row["start"] + i, "nfe": row["nfe"],
         **{name: row[name][i] for name in ("lpips", "observed_error", "diversity")}}
        for row in rows for i in range(len(row["lpips"]))
    ]  # fmt: skip
    return pandas.DataFrame(records)


def summary(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Means by method."""
    columns = ["lpips", "observed_error", "diversity", "nfe"]
    table = frame.groupby("method", sort=False)[columns].mean()
    table.insert(0, "images", frame.groupby("method", sort=False).size())
    return table


def paired(frame: pandas.DataFrame, method: str, baseline: str) -> tuple[float, float, float]:
    """Mean paired difference in LPIPS, its standard error, and the difference over the baseline's mean."""
    wide = frame.pivot(index="image", columns="method", values="lpips")
    difference = (wide[method] - wide[baseline]).dropna()
    mean, error = difference.mean(), difference.std() / math.sqrt(len(difference))
    return float(mean), float(error), float(mean / wide[baseline].mean())


def print_report(path: Path) -> None:
    """The table and the paired differences."""
    console = Console(width=120)
    frame = per_image(read_rows(path))
    console.print(summary(frame).round(4).to_string())
    ours = {"VIPaint-2": 2, FOUR_AS_TWO: 2, "VIPaint-4": 4}
    pairs = [(name, dps_name(levels, zeta)) for name, levels in ours.items() for zeta in DPS_ZETAS]
    pairs += [(name, baseline) for baseline in ("DPS, 250 steps", "VIPaint-2") for name in ours if name != baseline]
    for method, baseline in pairs:
        mean, error, share = paired(frame, method, baseline)
        console.print(f"LPIPS, {method} minus {baseline}: {mean:+.4f} ± {error:.4f} ({share:+.1%})", highlight=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--only", default="", help="run the methods whose name begins so")
    parser.add_argument("--report", action="store_true", help="print the table of what is there, run nothing")
    arguments = parser.parse_args()
    if not arguments.report:
        run_all(arguments.out, arguments.images, arguments.samples, arguments.only)
    print_report(arguments.out)
