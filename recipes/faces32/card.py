"""Writes the model card of ``faces32`` from its measured evaluation.

Every figure of the card is read from the file of ``recipes.faces32.evaluate`` or is a constant of the module that used
it; none is written here::

    python -m recipes.faces32.card
"""

from __future__ import annotations

import math
from typing import Any

from recipes.evaluation import CONFIDENT, Result, write_card
from recipes.faces32 import classifier, train
from recipes.faces32.export import FOLDER
from recipes.faces32.parts import CLOTH_COLOURS, CUTS, EYES, GLASSES, HAIR_COLOURS, HAIR_STYLES, MOUTHS, SKINS, slots

FRONT_MATTER = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags:
- diffusion
- edm
- class-conditional
- inpainting
- inverse-problems
- pyro
---
"""

LIMITS = """\
## Intended use and limits

A small colour prior for examples, tests and method comparisons of inpainting and other inverse problems on a CPU. Its
parts are uniform and independent, so the exact posterior of the parts under any mask can be enumerated
(`pyro_vipaint.diagnostics.parts_posterior`), and samples can be judged by it.

- Drawn faces of these parts in the one pose, on white, nothing else: it is no prior for photographs.
- Each cell of the 16×16 grid is 2×2 equal pixels: a visible pixel determines the hidden ones of its cell.
- Its likelihood has not been measured; the denoising errors above are not likelihoods.
- Kernel distances with AlexNet features compare with each other only, not with published KIDs.
"""

CREDIT = """\
## Licence and credit

The weights are Apache-2.0. The parts come from the style "Pixel Art" by DiceBear (https://www.dicebear.com; source:
https://www.figma.com/community/file/1198754108850888330), dedicated to the public domain under CC0 1.0
(https://creativecommons.org/publicdomain/zero/1.0/). They were rendered with DiceBear's Python packages and resvg.
Preconditioning and loss are those of T. Karras, M. Aittala, T. Aila and S. Laine, *Elucidating the Design Space of
Diffusion-Based Generative Models*, NeurIPS 2022, arXiv:2206.00364. The network is diffusers' `UNet2DModel`.
"""


def introduction(prior: Result) -> str:
    """What the model is, and its picture."""
    unet = prior["unet"]
    return f"""\
# faces32

A class-conditional diffusion prior on DiceBear's pixel faces, 32×32 in colour, in half precision. {faces():,} faces can
be composed; the class is the style of the hair. {unet["parameters"]:,} parameters, {unet["bytes"] / 1e6:.1f} MB. \
Rounding to
half precision changes the network's output by {unet["half_precision_error"]:.1e} (root mean square, relative).

![Faces drawn from the prior, one column for each style of hair](samples.png)
"""


def faces() -> int:
    """The number of combinations."""
    return math.prod(len(parts) for parts in slots().values())


USE = f"""\
## Use

```python
from pyro_vipaint.models import load_prior

prior = load_prior("faces32")  # images (N, 3, 32, 32) in [-1, 1]
```

The folder is diffusers' layout: `unet/` (`UNet2DModel`), `scheduler/` (`EDMEulerScheduler`). What a loader needs beyond
their configurations is in `prior.json`. Label {len(HAIR_STYLES)} means "no label". `parts.safetensors` \
holds the parts the
faces are painted from (`pyro_vipaint.cats.parts`), with their names in its header; `classifier.safetensors` holds a
classifier of them.
"""


def data() -> str:
    """The slots and their parts."""
    names = {
        "skin": ", ".join(SKINS),
        "clothes": f"{', '.join(CUTS)}; each {', '.join(CLOTH_COLOURS)}",
        "eyes": ", ".join(EYES),
        "glasses": f"none, {', '.join(GLASSES)}",
        "mouth": ", ".join(MOUTHS),
        "hair": f"{', '.join(HAIR_STYLES)}; each {', '.join(HAIR_COLOURS)}",
    }
    rows = "\n".join(f"| {slot} | {len(parts)} | {names[slot]} |" for slot, parts in slots().items())
    return f"""\
## Data

A face is one part of each slot, painted in this order over white. Parts are independent and uniform.

| slot | parts | |
|---|---:|---|
{rows}

The label is the number of the hair // {len(HAIR_COLOURS)}. One combination in ten was held out from training: those \
whose part
numbers add up to a multiple of ten. Pictures composed of the parts differ from DiceBear's own by at most one
of 255 steps (`python -m recipes.faces32.parts`).
"""


def training(unet: Result) -> str:
    """How the weights were trained, from the constants of the recipe."""
    network: Any = train.build_network().config
    first, second = train.SHIPPED_SECONDS
    return f"""\
## Training

| | |
|---|---|
| network | `UNet2DModel`, channels {", ".join(map(str, network.block_out_channels))}, \
{network.layers_per_block} layer a block |
| preconditioning | EDM, sigma_data {train.SIGMA_DATA} |
| noise levels | log sigma ~ N({train.P_MEAN}, {train.P_STD}²) |
| labels | {train.NUM_CLASSES} styles of hair, left out with probability {train.LABEL_DROPOUT} |
| optimiser | Adam, rate {train.LEARNING_RATE:g}, {train.WARM_UP} batches of warm-up, constant for \
{train.CONSTANT:.0%} of the time, then a cosine to zero |
| time | {unet["seconds"]} s on one H100 GPU: the cosine ended after {first} s and, moved, after {second} s |
| batches | {unet["iterations"]:,} of {train.BATCH_SIZE} faces, composed as they were needed, in bfloat16 |
| moving average | decay {train.EMA_DECAY} |

```
python -m recipes.faces32.train --work WORKDIR --seconds {first}
python -m recipes.faces32.train --work WORKDIR --seconds {second}
python -m recipes.faces32.export --work WORKDIR
python -m recipes.faces32.classifier --work CLASSIFIER
```
"""


def loss_section(measured: Result) -> str:
    """Error by noise level, the least possible, and the excess over it."""
    rows = "\n".join(
        f"| {level['sigma']:g} | {_value(level['error'])} | {_value(level['least'])} | {_value(level['excess'])} |"
        f" {level['trivial']:.2g} |"
        for level in measured["levels"]
    )
    return f"""\
## Denoising error

Mean squared error per pixel of the denoised face given its label, over {measured["images"]:,} held-out faces
(± standard error over faces). The least possible error and the squared distance to the exact posterior mean are over
{measured["enumerated"]} of them, by enumeration. The last column is the error of the best estimate that knows only \
the data's variance.

| sigma | error | least possible | squared distance to the exact mean | variance only |
|---:|---:|---:|---:|---:|
{rows}

```
python -m recipes.faces32.evaluate --only loss
```
"""


def _value(measured: Result) -> str:
    return f"{measured['mean']:.2g} ± {measured['standard_error']:.1g}"


def classifier_section(measured: Result) -> str:
    """The lowest accuracy of each kind."""
    kinds: dict[str, float] = {}
    for row in measured["rows"]:
        kinds[row["kind"]] = min(row["accuracy"], kinds.get(row["kind"], 1.0))
    lowest = ", ".join(f"{value:.1%} {kind}" for kind, value in kinds.items())
    return f"""\
## Classifier of parts

Lowest accuracy of any slot on {measured["images"]:,} held-out faces: {lowest}. Blurred
means a Gaussian of {classifier.LARGEST_BLUR:g} pixel, noisy a standard deviation of {classifier.LARGEST_NOISE:g}.

```
python -m recipes.faces32.evaluate --only classifier
```
"""


def samples_section(measured: dict[str, Result]) -> str:
    """What the classifier, the enumeration and the kernel distance say of drawn faces, device by device."""
    return f"""\
## Samples

Faces by the prior's own chain, labels in turn. *Sure* is the share for which the classifier of parts gives one class a
probability of {CONFIDENT} or more; *distance from uniform* is the total variation between the shares of the classes and
uniform ones, beside its expectation for as many exact draws.
{"".join(_samples_on(device, result) for device, result in measured.items())}"""


def _samples_on(device: str, measured: Result) -> str:
    rows = "\n".join(
        f"| {slot} | {drawn['confident']:.1%} | {measured['held_out_slots'][slot]['confident']:.1%} |"
        f" {drawn['classes_seen']} of {drawn['classes']} |"
        f" {drawn['total_variation']:.3f} | {drawn['total_variation_exact']:.3f} |"
        for slot, drawn in measured["slots"].items()
    )
    distances, nearest = measured["kernel_distance"], measured["psnr_to_nearest"]
    kernel = ", ".join(
        f"{name} {each['estimate']:.2g} ± {each['standard_error']:.2g}"
        for name, each in (("samples", distances["samples"]), ("as many training faces", distances["training_images"]))
    )
    drawn_on = "a GPU" if device.startswith("cuda") else "a CPU"
    return f"""
**{measured["images"]:,} faces, {measured["calls_per_sample"]} calls of the network each, in single precision on \
{drawn_on}**

| slot | sure | held-out faces | classes drawn | distance from uniform | exact draws |
|---|---:|---:|---:|---:|---:|
{rows}

- The hair is of the style asked for in {measured["style_as_asked"]:.1%} of the faces.
- The PSNR to the nearest of all {faces():,} faces is {nearest["mean"]:.1f} ± {nearest["standard_error"]:.1g} dB, and \
{nearest["worst_tenth"]:.1f} dB or more
  for nine in ten.
- {measured["held_out_share"]:.1%} of the nearest faces are held-out combinations, of which there are a tenth.
- Kernel distance (unbiased, KID's cubic kernel, AlexNet features) to {distances["held_out_images"]:,} held-out faces \
(± jackknife
  standard error; 0 for the same distribution): {kernel}.

```
python -m recipes.faces32.evaluate --only samples --samples {measured["images"]} \
--held-out {distances["held_out_images"]} --device {device}
```
"""


def card(evaluation: Result) -> str:
    """The model card as Markdown; raises ``ValueError`` if a part of the evaluation is missing."""
    missing = {"prior", "loss", "classifier", "samples"} - evaluation.keys()
    if missing:
        raise ValueError(f"the evaluation lacks {', '.join(sorted(missing))}")
    sections = [
        FRONT_MATTER,
        introduction(evaluation["prior"]),
        USE,
        data(),
        training(evaluation["prior"]["unet"]),
        loss_section(evaluation["loss"]),
        classifier_section(evaluation["classifier"]),
        samples_section(evaluation["samples"]),
        LIMITS,
        CREDIT,
    ]
    return "\n".join(sections)


if __name__ == "__main__":
    write_card(__doc__, FOLDER, card)
