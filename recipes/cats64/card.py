"""Writes the model card of ``cats64`` from its measured evaluation.

Every figure of the card is read from the file of ``recipes.cats64.evaluate`` or is a constant of the module that used
it; none is written here::

    python -m recipes.cats64.card
"""

from __future__ import annotations

from recipes.cats64 import autoencoder, classifier, prior
from recipes.cats64.export import TARGET
from recipes.evaluation import CONFIDENT, Result, write_card
from recipes.training import plan

FRONT_MATTER = """\
---
license: cc-by-4.0
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags:
- latent-diffusion
- autoencoder
- inpainting
- inverse-problems
- pyro
---
"""

USE = """\
## Use

```python
from pyro_vipaint.models import load_prior

prior = load_prior("cats64")
x = prior.decode(prior.encode(images))  # images (N, 3, 64, 64) in [-1, 1], latents (N, 4, 16, 16)
```

The folder is diffusers' layout: `vae/` (`AutoencoderKL`), `unet/` (`UNet2DModel`), `scheduler/`. `parts.safetensors`
holds the parts the pictures are painted from (`pyro_vipaint.cats.parts`), `classifier.safetensors` a classifier of them
(`pyro_vipaint.cats.classifier`).
"""

LIMITS = """\
## Intended use and limits

A small latent prior for examples, tests and method comparisons on a CPU. Its pictures are composed of parts drawn
uniformly and independently, so the exact posterior of the parts under any mask can be enumerated
(`pyro_vipaint.diagnostics`) and samples be judged by it.

- Painted cats of these parts in the one pose, on white, nothing else: it is no prior for photographs.
- A drawn cat may mix parts or blur one; the shares above say how often the classifier is sure. The mouth, some 6 × 4
  pixels, is drawn too blurred to tell which it is in half of them (why: `recipes/cats64/prior.py`).
- Two of the ten furs are blank, hence one class of nine.
- Kernel distances with AlexNet features compare with each other only, not with published KIDs.
"""

CREDIT = """\
## Licence and credit

The parts are the cats of RoboHash, drawn by David Revoy (https://www.peppercarrot.com), CC-BY-4.0; they were recombined
and resized. The weights, made from them, are under the same licence. Latent diffusion is that of R. Rombach,
A. Blattmann, D. Lorenz, P. Esser and B. Ommer, *High-Resolution Image Synthesis with Latent Diffusion Models*,
CVPR 2022. The networks are diffusers' `AutoencoderKL` and `UNet2DModel`.
"""


def introduction(weights: Result) -> str:
    """What the model is, and its pictures."""
    sizes = {name: f"{part['parameters']:,} parameters, {part['bytes'] / 1e6:.1f} MB" for name, part in weights.items()}
    return f"""\
# cats64

A latent diffusion prior on RoboHash's cats at 64×64 pixels, in half precision: an autoencoder to 4×16×16 latents
({sizes["vae"]}) and a network on them ({sizes["unet"]}).

![Cats drawn from the prior](samples.png)

Held-out cats and, to the right of each, their reconstruction:

![Held-out cats and their reconstructions](reconstructions.png)
"""


def training(weights: Result) -> str:
    """How both networks were trained, from the constants of their recipes."""
    scheduler = prior.build_scheduler().config
    return f"""\
## Training

| | autoencoder | latent prior |
|---|---|---|
| network | `AutoencoderKL`, channels {_channels(autoencoder.build_network())} | `UNet2DModel`, channels \
{_channels(prior.build_network())} |
| loss | L1 + {autoencoder.PERCEPTUAL_WEIGHT} LPIPS + {autoencoder.KL_WEIGHT:g} KL | squared error of v; from batch \
{prior.PARTS_FROM:,} on in a metric of small parts |
| noise | | betas {scheduler["beta_start"]} to {scheduler["beta_end"]}, linear in their roots, \
{scheduler["num_train_timesteps"]:,} steps |
| batches | {autoencoder.SHIPPED_RUN[-1][0]:,} of {autoencoder.BATCH_SIZE}, then \
{weights["vae"]["iterations"]:,} for the decoder alone | {weights["unet"]["iterations"]:,} of \
{prior.BATCH_SIZE} |
| length of the cosine | {plan(autoencoder.SHIPPED_RUN)} | \
{plan(prior.SHIPPED_RUN)} |
| noise levels | | t uniform; half of them with a normal logit: \
{_focus()} |

One combination of parts in ten was held out: those whose part numbers add up to a multiple of ten. What ships
was trained by these commands, but for the lengths of the cosine above:

```
python -m recipes.cats64.autoencoder --work AUTOENCODER
python -m recipes.cats64.autoencoder --work DECODER --decoder-from AUTOENCODER --iterations 2000
python -m recipes.cats64.prior --autoencoder AUTOENCODER --work PRIOR --iterations {prior.SHIPPED_FOCUS[0][0]}
{_continuations()}
python -m recipes.cats64.export --autoencoder DECODER --prior PRIOR
python -m recipes.cats64.classifier --work CLASSIFIER
```
"""


def _continuations() -> str:
    """The commands with which the prior's training went on, and until which batch each."""
    (_, earlier), (second, later) = prior.SHIPPED_FOCUS
    parts = [
        (second, f"--focus {earlier[0]:g} {earlier[1]:g}"),
        (prior.PARTS_FROM, f"--focus {later[0]:g} {later[1]:g}"),
        (prior.ITERATIONS, f"--focus {later[0]:g} {later[1]:g} --parts"),
    ]
    command = "python -m recipes.cats64.prior --autoencoder AUTOENCODER --work PRIOR --iterations"
    return "\n".join(f"{command} {end} {options}" for end, options in parts)


def _focus() -> str:
    """Where the noise levels were drawn more often."""
    return ", ".join(
        f"from batch {start:,} on of mean {mean:g} and standard deviation {std:g}"
        for start, (mean, std) in prior.SHIPPED_FOCUS
    )


def _channels(network: autoencoder.AutoencoderKL | prior.UNet2DModel) -> str:
    return ", ".join(map(str, network.config["block_out_channels"]))


def autoencoder_section(measured: Result) -> str:
    """PSNR and LPIPS on held-out combinations."""
    psnr, lpips = measured["psnr"], measured["lpips"]
    return f"""\
## Autoencoder

On {measured["images"]:,} cats of held-out combinations (± standard error): PSNR {psnr["mean"]:.2f} ± \
{psnr["standard_error"]:.2f} dB, LPIPS (AlexNet) {lpips["mean"]:.4f} ± {lpips["standard_error"]:.4f}.

```
python -m recipes.cats64.evaluate --only autoencoder
```
"""


def classifier_section(measured: Result) -> str:
    """Accuracies slot by slot: of all held-out cats, and by kind of picture of those whose part shows."""
    rows: dict[str, dict[str, Result]] = {}
    for row in measured["rows"]:
        rows.setdefault(row["slot"], {})[row["kind"]] = row
    lines = "\n".join(
        f"| {slot} | {clean['share shown']:.1%} | {clean['all']:.1%} | {clean['shown']:.1%} | {decoded['shown']:.1%} |"
        f" {blurred['shown']:.1%} |"
        for slot, kinds in rows.items()
        for clean, decoded, blurred in [(kinds["clean"], kinds["decoded"], kinds["blurred"])]
    )
    return f"""\
## Classifier of parts

Accuracy on {measured["images"]:,} held-out cats: of all, and of those whose part shows, as they are, through the
autoencoder, and under a blur of {classifier.LARGEST_BLUR:g} pixel. A part shows if the exact posterior of the whole
picture is sure of it; two accessories cover the mouth.

| slot | shows | all | shown | decoded | blurred |
|---|---:|---:|---:|---:|---:|
{lines}

```
python -m recipes.cats64.evaluate --only classifier
```
"""


def samples_section(measured: Result) -> str:
    """The classifier's judgement slot by slot, and the kernel distances."""
    real = measured["held_out_slots"]
    rows = "\n".join(
        f"| {slot} | {drawn['confident']:.1%} | {real[slot]['confident']:.1%} |"
        f" {drawn['classes_seen']} of {drawn['classes']} |"
        for slot, drawn in measured["slots"].items()
    )
    distances = measured["kernel_distance"]
    kernel = "\n".join(
        f"| {each['images']:,} {name} | {each['estimate']:.4g} ± {each['standard_error']:.2g} |"
        for name, each in (("samples", distances["samples"]), ("training cats", distances["training_images"]))
    )
    return f"""\
## Samples

{measured["images"]:,} cats by the prior's own chain, {measured["calls_per_sample"]} calls of the network each. Share
for which the classifier of parts gives one class a probability of {CONFIDENT} or more, beside that of
{distances["held_out_images"]:,} real held-out cats, and how many classes were drawn with that confidence (two
accessories cover the mouth, which nobody can then tell):

| slot | samples | held-out cats | classes drawn |
|---|---:|---:|---:|
{rows}

Kernel distance (unbiased, KID's cubic kernel, AlexNet features) to {distances["held_out_images"]:,} held-out cats
(± jackknife standard error; 0 for the same distribution):

| | distance |
|---|---:|
{kernel}

```
python -m recipes.cats64.evaluate --only samples --samples {measured["images"]} --steps {measured["calls_per_sample"]}
```
"""


def card(evaluation: Result) -> str:
    """The model card as Markdown; raises ``ValueError`` if a part of the evaluation is missing."""
    missing = {"prior", "autoencoder", "classifier", "samples"} - evaluation.keys()
    if missing:
        raise ValueError(f"the evaluation lacks {', '.join(sorted(missing))}")
    sections = [
        FRONT_MATTER,
        introduction(evaluation["prior"]),
        USE,
        training(evaluation["prior"]),
        autoencoder_section(evaluation["autoencoder"]),
        classifier_section(evaluation["classifier"]),
        samples_section(evaluation["samples"]),
        LIMITS,
        CREDIT,
    ]
    return "\n".join(sections)


if __name__ == "__main__":
    write_card(__doc__, TARGET, card)
