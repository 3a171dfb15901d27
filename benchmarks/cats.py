"""VIPaint against latent DPS on held-out cats, judged by the exact posterior over their parts.

    python -m benchmarks.cats               # 16 cats × 4 masks × 8 samples, six methods; resumes where it stopped
    python -m benchmarks.cats --only "exact draws"  # this method alone, which needs no network
    python -m benchmarks.cats --cats 32     # goes on with sixteen further cats: the table of the README
    python -m benchmarks.cats --report      # only the tables of what is there
    python -m benchmarks.cats --report --masks "rotated window" box random

Held-out combinations of parts, with noise of standard deviation .05 on what is observed. The observation is given to
every method; the exact posterior of the parts knows the noise. The classifier of parts judges the samples, drawing a
class from its probabilities (see :func:`draw_labels`). Scores are those of :mod:`diagnostics.part_scores`: each stands
beside its expectation under as many exact draws. *Exact draws* is a method too: pictures of parts drawn from the
posterior, judged in the same way; where it misses the expectation it is the classifier that errs.

*VIPaint-2, L1* is the ablation of the perceptual term. *VIPaint-4, mixture* has a mixture of four hierarchical guides,
as many particles and a quarter of the steps. DPS has as many NFE as VIPaint-4, the dearest; its zeta is the
best in LPIPS of 1, 2, 3 and 4 on other cats.

Tuned on three other cats (seed 100), four masks (that of the lowest third among them), 8 samples, about 38 NFE;
LPIPS, total variation (exact draws .096), agreement, coverage (exact draws .640):

- K = 2, noise levels 12 to 1.5: .0391, .144, .979, .499; with zeta 4: .0411, .154, .975, .468; tau starting at 1.2 of
  the prior's step: .0418, .151, .968, .504; 12 to 2.5, tau at 1: .0452, .140, .970, .542. K = 4, 12 to 1.5: .0400,
  .150, .973, .493.
- DPS: zeta 3: .0437, .144, .953, .572; zeta 4: .0420, .156, .956, .523.
- Before the decoder's further training: K = 4: .0434, .162, .959, .473; with gamma starting low where pixels are
  observed: .0454, .170, .964, .427; DPS, zeta 2: .0483, .165, .933, .566.
- With the prior after 3600 batches, too: K = 2, T_s at .3, 1 and 2: .0589, .0478, .0500, agreement .919, .954, .963;
  K = 4, T_s at .5 and 1.5: .0493, .0479, agreement .956, .964; DPS, zeta 2: .0504, .931.
- What T_s does (notebooks/07_latent_cats): below about 2 the fit has decided what covers many latents, an accessory,
  and a Gaussian step decides for the average, which is none. At a noise level of 5 accessories are drawn, and LPIPS to
  the truth rises (.102 in place of .088; exact draws .083). Eight levels in place of two change nothing in this.

With the prior after 10,500 batches and limited guidance steps: K = 2, 12 to 1.5: .0379, .145, .980, .493; 12 to 5:
.0422, .135, .975, .537.

On eight cats (seed 200), three masks, 4 samples, with that prior, hard data consistency after the last step (Song et
al. 2024): Adam on |y - A D(z)|^2 from the last prediction, K = 2. None: .0400, .185 (exact draws .075), .886; 20 steps
of .05: .0347, .173, .895; of .1: .0360, .167, .903; with T_s at 5: .0382, .194, .880. It fits the noise of y, from
which furs suffer; not adopted. A better prior changed agreement little: .927, .924 and .929 after 6800, 10,500 and
14,400 batches (K = 2, the table's cats, the lower third left out), though furs of drawn cats went from 68 to 86 % sure.

At 100 NFE, eight cats (seed 500), 4 samples, no noise, with the prior that ships; LPIPS with random large masks
and rotated windows (one seed; standard errors .010 to .014 and .018 to .026, most of it from hidden parts):
- K = 4, 12 to 1.5, zeta 3: .0232, .0823; K = 2: .0275, .0866. T_s at 4: .0199, .1015. At 50 NFE, K = 4: .0251,
  .1059; with the mean of the last half of the SVI steps .0266, .1161.
- The gluing norm of PSLD in the refinement, weight .1 of the residual norm: .0247, .0829; with zeta 1: .0241, .1085;
  zeta 1 without it: .0240. By cat, zeta 1 halves what the cats have whose parts are decided (.005 to .002) and loses
  others.
- zeta falling from 4 to .5: .0204 (paired -.0027 +- .0010), .0764 (-.0059 +- .0028), the geometric mean over cats half
  of what it was; at 50 NFE .0194 and .1100. The last steps of a constant zeta threw the samples past the
  observation. Since then the default (``Settings.zeta_decay``). DPS from noise does not gain by it (50 nfe:
  .0246 to .0263, .1005 to .1042, though the nearest of four samples is then .0023 in place of .0130 with random masks).
- The last image with the observation glued in, encoded and decoded once more: .0224, .0774 (from .0247, .0829). That is
  pasting, by way of the autoencoder; not adopted.

What lost the furs and mouths, on eight cats (seed 500), 8 samples, K = 2, refinements of one fit; LPIPS, agreement,
that of fur and of mouth, with box and with random large masks:
- Evenly spaced times, whose last network call is at a noise level of .16: .0295, .931, .922, .950; .0076, .951, .938,
  .875. With the last call at .3: .0282, .934, .922, .950; the noisy latent decoded in place of its prediction: .0398,
  .913.
- Levels that fall as in Karras et al. (rho 7), to .05: .0294, .948, 1, 1; to .02: .0245, .948, 1, 1; to .003: .0179,
  .944, 1, .975; .0077, .979, 1, 1. That is the refinement's grid since then (:func:`refinement_times`); zeta 2 to .5:
  .0272, .944; .0076, .979; zeta 4 to .08: .0229, .948.
- In ``vipaint bench`` at 100 NFE, 59 refinement steps, box, K = 2, LPIPS and its median over 16 cats: evenly
  spaced .0110, .0029; levels that fall to .003 .0251, .0099; to .05 .0163, .0035; with rho 3 to .003 .0193, .0054.
- DPS from noise with such levels from 84 down is worse than with its authors' evenly spaced times: .0634 and .0208.
- With that grid and T_s at 1.5, 3 and 5, total variation with a box .095, .079, .117 and with rotated windows .252,
  .247, .226 (exact draws .035, .131), LPIPS .0171, .0189, .0334 and .1156, .1307, .1201.

That grid called the network below the first entry of its table, a noise level of .039, where its clock stands still;
now it ends there. On sixteen cats (seed 500), 4 samples, refinements of one fit:
- 100 NFE, no noise, box, K = 2, T_s at 1.5, LPIPS and its median: evenly spaced .0042, .0018; levels that fall
  to .003 .0067, .0021, to .039 .0052, .0019, to .1 .0053, .0017; to .039 with zeta 2 to .25 .0136, .0016.
- 22 to 29 steps, box and rotated windows, LPIPS, total variation (exact draws, by the formula, .002 and .156): K = 2,
  T_s at 1.5, to .003 .0221, .078, .0567, .230; to .039 .0217, .081, .0555, .214; T_s at 3 .0207, .059, .0529, .213; at
  4 .0183, .059, .0603, .217. K = 4 (17 SVI steps): T_s at 1.5 .0293, .116, .0658, .228; at 3 .0244, .081, .0636, .248.
  T_s at 3 is the default since then. As many steps as the default's, 40 and 22, box and random, K = 2: T_s at 1.5
  .0124, .056, .0182, .082; at 3 .0097, .037, .0203, .083; with 30 refinement steps .0096, .031, .0206, .088.
- What T_s at 3 costs: a sample in fifty has a body of another colour than what is seen.

It was the guidance. On the third cat of the table, random mask, K = 2, 14 of 16 draws of a fit predict y at T_s as well
as its noise allows (a residual of 6.8 to 9, the truth through the autoencoder has 5.3), and the first step of zeta 4
turns seven of them into another cat: the gradient of the residual is 2 to 11 long there, the step 8 to 44, and the one
after which a linear residual would be zero 1 to 5. No step is longer than that one since then (Polyak's,
:mod:`pyro_vipaint.refinement`): LPIPS .0026 in place of .0127, and with zeta 8 .0023 and the fur right in 16 of 16 in
place of 13. On sixteen cats each of the seeds 500 and 600, box, rotated windows and random masks, 4 samples,
refinements of one fit; LPIPS, total variation above what exact draws would have, agreement:

- K = 2, zeta 4, not limited: .0276, .040, .960; .0234, .063, .940. Limited: .0272, .042, .958 (seed 500). Zeta 8:
  .0244, .033, .968; .0134, .043, .965. Half of Polyak's step: .0135, .042, .963 (seed 600); with zeta 16 .0248, .037,
  .965 (seed 500). T_s at 5: .0231, .039, .961; .0128, .046, .959.
- K = 4, zeta 4, not limited: .0334, .067, .931; .0286, .083, .918. Limited: .0317, .063, .935 (seed 500). Zeta 8:
  .0181, .060, .943 (seed 600); half of Polyak's step .0190, .063, .939. T_s at 5: .0285, .046, .954; .0207, .056, .945.
- The perceptual term at the ratio of the paper's code, 39,322 nats per unit of LPIPS in place of 2000, box, seed 600:
  K = 2 .0073, .053, .954 in place of .0040, .047, .964; K = 4 .0202, .085, .921 in place of .0081, .069, .938.
- Half as many steps of the fit and 29 of the refinement, box, seed 600: K = 2 .0078 in place of .0040, K = 4 .0102 in
  place of .0081.

Zeta 8 to .5 and one of Polyak's steps are the defaults since then.

The rows that ship have the prior after 14,400 batches; 32 cats, 16 with the lower third, which two methods lack. On the
first sixteen cats, without the lower third, LPIPS, agreement and total variation of VIPaint-2 and VIPaint-4 (DPS .0267,
.906, .135): .0154, .972, .076 and .0144, .971, .077. Before the steps were limited .0199, .959, .086 and .0196, .957,
.088; with T_s at 1.5 and levels that fall to .003 .0148, .972, .077 and .0187, .961, .087; with evenly spaced times
.0160, .951, .098 and .0176, .949, .098; with a constant zeta of 3 as well .0164, .929, .118 and .0184, .932, .113.
Half of the total variation of DPS was wanted. What is left is one accessory and one mouth that the fit misses in all
samples, and the fur of a cat that all methods miss; the autoencoder is not the cause (exact draws that went through it
have .0429 in place of .0413).

Columns: LPIPS to the truth (mean over samples, then over cats), total variation (mean over slots), agreement in shown
slots, coverage in open ones, NFE and seconds a sample. Differences to DPS are paired over cats.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path

import pandas
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.quality import nfe_per_sample
from benchmarks.rows import append_rows, check_sizes, read_rows
from pyro_vipaint import Gaussian, Inpainting, inpaint
from pyro_vipaint.baselines import dps
from pyro_vipaint.cats import scores as part_scores
from pyro_vipaint.cats.classifier import draw_labels, load_classifier, part_probabilities
from pyro_vipaint.cats.parts import draw_parts, shipped_layers
from pyro_vipaint.diagnostics import PartsPosterior, parts_posterior
from pyro_vipaint.guides import MixtureGuide
from pyro_vipaint.metrics import lpips_distance
from pyro_vipaint.models import DiffusionPrior, load_prior
from pyro_vipaint.models.measurements.masks import box, random_large, rotated_window
from pyro_vipaint.restoration import GuideFactory
from pyro_vipaint.settings import Settings, default_settings
from recipes.cats64.classifier import TARGET as CLASSIFIER

RESULTS = Path(__file__).parent / "results" / "cats.jsonl"
CATS, CHUNK, SEED = 16, 8, 0  # cats drawn together, and in one run; the seed of the first cats, masks and noise
SIGMA = 0.05  # of the observation's noise, images in [-1, 1]
DPS_ZETA = 4.0
COMPONENTS = 4  # of the mixture guide
EXACT = "exact draws"
SCORES = ("total_variation", "agreement", "coverage")
SCORE_COLUMNS = [f"{score}{end}" for score in SCORES for end in ("", "_exact")]


def lower_third(size: int, num: int = 1, seed: int = 0) -> Tensor:
    """The lowest third alone is seen: body, fur and accessory show, eyes and mouth do not (``seed`` has no effect)."""
    mask = torch.zeros(num, 1, size, size)
    mask[:, :, size - size // 3 :] = 1
    return mask


MASKS: dict[str, Callable[..., Tensor]] = {
    "rotated window": rotated_window,
    "box": box,
    "random": random_large,
    "lower third": lower_third,
}


@dataclass(frozen=True, eq=False)
class Problem:
    """Some cats ``(N, 3, 64, 64)``, their noisy observations and masks."""

    images: Tensor
    y: Tensor
    masks: Tensor

    @cached_property
    def posterior(self) -> PartsPosterior:
        """The exact posterior over their parts, enumerated once for all methods."""
        return parts_posterior(shipped_layers(), self.y, self.masks, SIGMA)


Method = Callable[[DiffusionPrior, Tensor, Tensor, int, int], tuple[Tensor, float]]
"""``(prior, observations, masks, num_samples, seed) -> (samples (S, N, 3, 64, 64), NFE per sample)``"""


@lru_cache(maxsize=1)
def load_problem(mask: str, start: int) -> Problem:
    """Cats ``start`` to ``start + CHUNK`` under one of :data:`MASKS`; each :data:`CATS` have a seed of their own."""
    block, first = divmod(start, CATS)
    layers, generator = shipped_layers(), torch.Generator().manual_seed(SEED + block)
    images = layers.compose(draw_parts(layers, CATS, held_out=True, generator=generator))
    noisy = images + SIGMA * torch.randn(images.shape, generator=generator)
    masks = MASKS[mask](images.shape[-1], CATS, seed=SEED + block)
    here = slice(first, first + CHUNK)
    return Problem(images[here], (noisy * masks)[here], masks[here])


def exact_draws(prior: DiffusionPrior, y: Tensor, masks: Tensor, num_samples: int, seed: int) -> tuple[Tensor, float]:
    """Pictures of parts drawn from the exact posterior; no evaluation, and the prior is not looked at."""
    layers = shipped_layers()
    index = parts_posterior(layers, y, masks, SIGMA).sample(num_samples, torch.Generator().manual_seed(seed))
    return layers.compose(index.flatten(0, 1)).unflatten(0, index.shape[:2]), 0.0


def vipaint(settings: Settings, guide: GuideFactory | None = None) -> Method:
    """VIPaint with these settings and this guide."""

    def run(prior: DiffusionPrior, y: Tensor, masks: Tensor, num_samples: int, seed: int) -> tuple[Tensor, float]:
        result = inpaint(
            y, masks, prior, num_samples=num_samples, settings=settings, guide=guide, device="cpu", seed=seed
        )
        return result.samples, result.nfe / (num_samples * len(y))

    return run


def dps_from_noise(steps: int, zeta: float = DPS_ZETA) -> Method:
    """DPS from pure noise, through the decoder of a latent prior, with ``steps`` NFE per sample."""

    def run(prior: DiffusionPrior, y: Tensor, masks: Tensor, num_samples: int, seed: int) -> tuple[Tensor, float]:
        result = dps(prior, Gaussian(Inpainting(masks), SIGMA), y, num_samples, steps, zeta=zeta, seed=seed)
        return result.samples, result.nfe / (num_samples * len(y))

    return run


def methods(num_samples: int) -> dict[str, Method]:
    """The methods of the tables."""
    two, four = (default_settings(levels, latent=True) for levels in (2, 4))
    return {
        EXACT: exact_draws,
        "VIPaint-2": vipaint(two),
        "VIPaint-2, L1": vipaint(replace(two, perceptual_weight=0.0)),
        "VIPaint-4": vipaint(four),
        "VIPaint-4, mixture": mixture(four),
        "DPS": dps_from_noise(nfe_per_sample(four, num_samples)),
    }


def made_with() -> str:
    """The numbers of all methods: rows of others are not of one table."""
    return repr([*(default_settings(levels, latent=True) for levels in (2, 4)), COMPONENTS, DPS_ZETA, SIGMA])


def mixture(settings: Settings) -> Method:
    """A mixture of hierarchical guides at the NFE of one: a particle a component, the fewer steps."""
    steps = settings.steps // COMPONENTS
    guide = partial(
        MixtureGuide, num_components=COMPONENTS, gamma_logit=settings.gamma_logit, tau_scale=settings.tau_scale
    )
    return vipaint(replace(settings, steps=steps, num_particles=COMPONENTS), guide)


COMPARED = [
    *((method, "DPS") for method in ("VIPaint-2", "VIPaint-4", "VIPaint-4, mixture")),
    ("VIPaint-2", "VIPaint-2, L1"),
]


def measure(samples: Tensor, problem: Problem, seed: int) -> dict[str, list]:
    """LPIPS by cat, and the scores of its slots as records."""
    probabilities = part_probabilities(load_classifier(CLASSIFIER), samples)
    labels = draw_labels(probabilities, torch.Generator().manual_seed(seed))
    scores = part_scores(problem.posterior.marginals, labels)
    return {
        "lpips": lpips_distance(samples, problem.images).mean(0).tolist(),
        "parts": json.loads(scores.to_json(orient="records")),
    }


def run_all(
    path: Path, num_samples: int, only: Sequence[str] = (), masks: Sequence[str] = tuple(MASKS), cats: int = CATS
) -> None:
    """Runs the methods, or ``only`` these, on every chunk that ``path`` lacks, a line each."""
    table = {name: method for name, method in methods(num_samples).items() if not only or name in only}
    prior = load_prior("cats64") if set(table) - {EXACT} else None
    check_sizes(path, {}, num_samples)
    rows, settings = read_rows(path), made_with()
    if any(row.get("settings") != settings for row in rows):
        raise SystemExit(f"{path} has rows of other settings: choose another --out, or take them out.")
    done = {(row["mask"], row["start"], row["method"]) for row in rows}
    work = [(mask, start, name) for mask in masks for start in range(0, cats, CHUNK) for name in table]
    for mask, start, name in track([item for item in work if item not in done], description="cats"):
        problem, begun = load_problem(mask, start), time.perf_counter()
        samples, nfe = table[name](prior, problem.y, problem.masks, num_samples, start)  # pyright: ignore
        seconds = (time.perf_counter() - begun) / samples[..., 0, 0, 0].numel()
        row = {"method": name, "mask": mask, "start": start, "samples": num_samples}
        row |= {"nfe": nfe, "seconds": seconds, "settings": settings}
        append_rows(path, row | measure(samples, problem, start))


def per_slot(rows: list[dict]) -> pandas.DataFrame:
    """A tidy table: a row a method, mask, cat and slot."""
    records = [
        {"method": row["method"], "mask": row["mask"], **score, "image": row["start"] + score["image"]}
        for row in rows
        for score in row["parts"]
    ]
    return pandas.DataFrame(records).astype(dict.fromkeys(SCORE_COLUMNS, float))  # NaN where a score is not defined


def per_image(rows: list[dict]) -> pandas.DataFrame:
    """A tidy table: a row a method, mask and cat, the scores averaged over its slots."""
    keys = ["method", "mask", "image"]
    costs = [
        {"method": row["method"], "mask": row["mask"], "image": row["start"] + i, "lpips": value}
        | {name: row[name] for name in ("nfe", "seconds")}
        for row in rows
        for i, value in enumerate(row["lpips"])
    ]
    scores = per_slot(rows).groupby(keys, sort=False)[SCORE_COLUMNS].mean().reset_index()
    return pandas.DataFrame(costs).merge(scores, on=keys)


def summary(rows: list[dict]) -> pandas.DataFrame:
    """Means by mask and method; of the scores over slots of all cats, ``_exact`` being what exact draws would have."""
    keys = ["mask", "method"]
    scores = per_slot(rows).groupby(keys, sort=False)[SCORE_COLUMNS].mean()
    costs = per_image(rows).groupby(keys, sort=False)[["lpips", "nfe", "seconds"]].mean()
    return costs[["lpips"]].join(scores).join(costs[["nfe", "seconds"]]).reset_index()


def over_masks(rows: list[dict]) -> pandas.DataFrame:
    """Means by method over all masks, and the agreement of each slot, where it is shown."""
    slots = per_slot(rows)
    scores = slots.groupby("method", sort=False)[["total_variation", "agreement"]].mean()
    agreement = slots.pivot_table(index="method", columns="slot", values="agreement")
    lpips = per_image(rows).groupby("method", sort=False)[["lpips"]].mean()
    return lpips.join(scores).join(agreement).reset_index()


def paired(frame: pandas.DataFrame, column: str, method: str, baseline: str) -> tuple[float, float]:
    """Mean difference over masks and cats, and its standard error over cats, which the masks share."""
    wide = frame.pivot_table(index=["image", "mask"], columns="method", values=column)
    difference = (wide[method] - wide[baseline]).dropna().groupby("image").mean()
    return float(difference.mean()), float(difference.std() / math.sqrt(len(difference)))


def markdown(table: pandas.DataFrame) -> str:
    """The table in Markdown."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def report(rows: list[dict]) -> str:
    """The tables, and the paired differences of what is there."""
    frame = per_image(rows)
    text = [markdown(summary(rows).round(4)), "", markdown(over_masks(rows).round(4)), ""]
    present = set(frame["method"])
    for method, baseline in COMPARED:
        for column in ("lpips", *SCORES) if {method, baseline} <= present else ():
            mean, error = paired(frame, column, method, baseline)
            text.append(f"- {column}, {method} minus {baseline}: {mean:+.4f} ± {error:.4f}")
    return "\n".join(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=list(methods(1)), default=[], help="run these methods")
    parser.add_argument("--report", action="store_true", help="print the tables of what is there, run nothing")
    parser.add_argument("--masks", nargs="+", choices=list(MASKS), default=list(MASKS), help="run, report these masks")
    parser.add_argument("--cats", type=int, default=CATS, help=f"in multiples of {CHUNK}; the first stay the same")
    arguments = parser.parse_args()
    if arguments.cats < 1 or arguments.cats % CHUNK:
        parser.error(f"--cats must be a multiple of {CHUNK}, not {arguments.cats}.")
    if not arguments.report:
        run_all(arguments.out, arguments.samples, arguments.only, arguments.masks, arguments.cats)
    reported = [row for row in read_rows(arguments.out) if row["mask"] in arguments.masks]
    Console(width=200).print(report(reported), highlight=False, markup=False)
