"""Writes the model card of ``fashion32`` from its measured evaluation.

Every figure of the card is read from the file of ``recipes.fashion32.evaluate`` or is a constant of the module that
used it; none is written here. The evaluation has to hold both halves, loss and samples::

    python -m recipes.fashion32.card --evaluation models/weights/fashion32/evaluation.json \\
        --out models/weights/fashion32/README.md

The front matter is that of Hugging Face's model cards.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from recipes.edm import RHO, SIGMA_MAX, SIGMA_MIN
from recipes.fashion32 import train
from recipes.fashion32.export import EVENT_SHAPE
from recipes.training import plan

Result = dict[str, Any]  # a branch of the evaluation's JSON file

FRONT_MATTER = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: unconditional-image-generation
datasets:
- zalando-datasets/fashion_mnist
tags:
- diffusion
- edm
- class-conditional
- inpainting
- inverse-problems
- fashion-mnist
- pyro
---
"""

USE = """\
## Use

```python
from pyro_vipaint.models import load_prior

prior = load_prior("fashion32")
```

or with diffusers alone:

```python
import torch
from diffusers import EDMEulerScheduler, UNet2DModel

folder = "models/weights/fashion32"
network = UNet2DModel.from_pretrained(folder, subfolder="unet", use_safetensors=True, torch_dtype=torch.float32)
scheduler = EDMEulerScheduler.from_pretrained(folder, subfolder="scheduler")
scheduler.set_timesteps({steps})
labels = torch.arange({classes})
x = scheduler.init_noise_sigma * torch.randn(len(labels), {shape})
with torch.no_grad():
    for t in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, t), t, class_labels=labels).sample
        x = scheduler.step(output, t, x).prev_sample
```

Images are in [-1, 1]. Label {null_label} means "no label". What a loader needs beyond diffusers' configurations is in
`prior.json`.
"""

LIMITS = """\
## Intended use and limits

A small prior for examples, tests and method comparisons of image inpainting and other inverse problems on a CPU.

- Grey {width}×{width} images of single articles on a black ground, nothing else: it is no prior for photographs.
- It knows the training set's shop photographs and their shares of classes, and shares their gaps.
- It takes images that lie in the centre, padded from 28 to {width} pixels with -1.
- Its likelihood has not been measured; the denoising losses above are not likelihoods.
- The classifier errs too, mostly between shirts, T-shirts, pullovers and coats: compare the two columns, not a column
  with one. Agreement rewards typical samples and says nothing of their variety; the kernel distance sees both.
- Kernel distances with AlexNet features compare with each other only, not with published KIDs.
"""

CREDIT = """\
## Licence and credit

The weights are Apache-2.0. The data is Fashion-MNIST, MIT licence, Copyright (c) 2017 Zalando SE: H. Xiao, K. Rasul and
R. Vollgraf, *Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms*, arXiv:1708.07747.
Preconditioning, loss and sampler are those of T. Karras, M. Aittala, T. Aila and S. Laine, *Elucidating the Design
Space of Diffusion-Based Generative Models*, NeurIPS 2022, arXiv:2206.00364. The network is diffusers' `UNet2DModel`.
"""


def introduction(prior: Result, grid: bool) -> str:
    """What the model is, and its picture where there is one."""
    picture = "\n![Samples, one row a class](samples.png)\n" if grid else ""
    height, width = EVENT_SHAPE[1:]
    return (
        "# fashion32\n\n"
        f"A class-conditional diffusion prior on Fashion-MNIST at {height}×{width} pixels, in half precision.\n"
        f"{prior['parameters']:,} parameters, {prior['bytes'] / 1e6:.1f} MB. Rounding to half precision changes the\n"
        f"network's output by {prior['half_precision_error']:.1e} (root mean square, relative).\n{picture}"
    )


def training() -> str:
    """How the weights were trained, from the constants of ``recipes.fashion32.train``."""
    network: Any = train.build_network().config
    first, second = (run[-1][0] for run in train.SHIPPED_RUNS)
    return f"""\
## Training

| | |
|---|---|
| network | `UNet2DModel`, channels {", ".join(map(str, network.block_out_channels))}, \
{network.layers_per_block} layer a block |
| preconditioning | EDM, sigma_data {train.SIGMA_DATA} |
| noise levels | log sigma ~ N({train.P_MEAN}, {train.P_STD}²) |
| labels | {train.NUM_CLASSES} classes, left out with probability {train.LABEL_DROPOUT} |
| optimiser | Adam, rate {train.LEARNING_RATE:g}, {train.WARM_UP} steps of warm-up, then a cosine to zero |
| batches of {train.BATCH_SIZE} images | {first:,} in single precision, then {second:,} in bfloat16 with a new \
optimiser |
| length of the cosine, shortened on the way | {"; then ".join(map(plan, train.SHIPPED_RUNS))} |
| moving average | decay {train.EMA_DECAY} |

```
python -m recipes.fashion32.train --data FOLDER --work FIRST --iterations {first}
python -m recipes.fashion32.export --work FIRST --out FIRST/export
python -m recipes.fashion32.train --data FOLDER --work WORKDIR --iterations {second} --start FIRST/export --compile
python -m recipes.fashion32.export --work WORKDIR --out models/weights/fashion32
```
"""


def command(only: str, options: str) -> str:
    """The command that measures one half of the figures."""
    return (
        "```\npython -m recipes.fashion32.evaluate --prior models/weights/fashion32 \\\n"
        "    --classifier WORKDIR/classifier.safetensors --data FOLDER \\\n"
        f"    --out models/weights/fashion32/evaluation.json --only {only} {options}\n```\n"
    )


def loss_section(loss: Result) -> str:
    """The table of denoising losses and the command that measures them."""
    rows = "\n".join(
        f"| {level['sigma']:g} | {level['mean_squared_error']:.5f} ± {level['standard_error']:.5f} |"
        f" {level['trivial']:.5f} | {level['trivial'] / level['mean_squared_error']:.1f} |"
        for level in loss["levels"]
    )
    return f"""\
## Denoising loss

Mean squared error per pixel of the denoised image, over {loss["images"]:,} held-out images with their labels
(± standard error over images), beside that of the best estimate that knows only the data's variance,
sigma_data² sigma² / (sigma² + sigma_data²).

| sigma | error | variance only | ratio |
|---:|---:|---:|---:|
{rows}

{command("loss", f"--images {loss['images']} --seed {loss['seed']}")}"""


def agreement_table(drawn: Result, real: Result) -> str:
    """Rows of the share of samples, and of real images, that the classifier gives their class, in per cent."""
    rows = [f"| {name} | {share:.1%} | {real['per_class'][name]:.1%} |" for name, share in drawn["per_class"].items()]
    total = "| **all** | " + " | ".join(
        f"{each['overall']:.1%} ± {each['standard_error']:.1%}" for each in (drawn, real)
    )
    return "\n".join(["| class | samples | held-out images |", "|---|---:|---:|", *rows, f"{total} |"])


def samples_section(samples: Result) -> str:
    """Agreement with the classifier, kernel distances, and the command that measures them."""
    drawn, real = samples["agreement"], samples["classifier_on_held_out"]
    distances = samples["kernel_distance"]
    rows = "\n".join(
        f"| {each['images']:,} {name} | {each['estimate']:.4g} ± {each['standard_error']:.2g} |"
        for name, each in (("samples", distances["samples"]), ("training images", distances["training_images"]))
    )
    per_class = drawn["images"] // train.NUM_CLASSES
    options = (
        f"--images {distances['held_out_images']} --per-class {per_class} --steps {samples['steps']}"
        f" --churn {samples['churn']:g} --seed {samples['seed']}"
    )
    return f"""\
## Samples

{drawn["images"]:,} samples, {per_class} a class, by the stochastic sampler of Karras et al. (Algorithm 2, Heun's \
method): {samples["steps"]} steps,
{samples["calls_per_sample"]} calls of the network, sigma from {SIGMA_MAX:g} to {SIGMA_MIN:g} with rho {RHO:g}, \
S_churn {samples["churn"]:g}, no guidance.
How often a small classifier, trained on real images only, gives a sample the class that it was drawn for, beside its
accuracy on {real["images"]:,} held-out images (± binomial standard error):

{agreement_table(drawn, real)}

Kernel distance (unbiased, KID's cubic kernel, AlexNet features) to {distances["held_out_images"]:,} held-out images
(± jackknife standard error; 0 for the same distribution):

| | distance |
|---|---:|
{rows}

```
python -m recipes.fashion32.classifier --data FOLDER --work WORKDIR
```
{command("samples", options)}"""


def card(evaluation: Result, grid: bool) -> str:
    """The model card as Markdown; raises ``ValueError`` if a half of the evaluation is missing."""
    missing = {"prior", "loss", "samples"} - evaluation.keys()
    if missing:
        raise ValueError(f"the evaluation lacks {', '.join(sorted(missing))}")
    use = USE.format(
        steps=evaluation["samples"]["steps"],
        classes=train.NUM_CLASSES,
        shape=", ".join(map(str, EVENT_SHAPE)),
        null_label=train.NUM_CLASSES,
    )
    sections = [
        FRONT_MATTER,
        introduction(evaluation["prior"], grid),
        use,
        training(),
        loss_section(evaluation["loss"]),
        samples_section(evaluation["samples"]),
        LIMITS.format(width=EVENT_SHAPE[-1]),
        CREDIT,
    ]
    return "\n".join(sections)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("models/weights/fashion32/README.md"))
    arguments = parser.parse_args()
    measured = json.loads(arguments.evaluation.read_text())
    arguments.out.write_text(card(measured, arguments.out.with_name("samples.png").exists()))
    Console().print(f"{arguments.out} written")
