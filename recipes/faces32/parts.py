"""The parts of DiceBear's pixel faces at 32×32, shipped beside the prior: all the data there is.

The style ``pixel-art`` (CC0, by DiceBear) draws a face of parts on a grid of 16×16 cells, each cell here 2×2 pixels.
Parts were chosen that are large and can be told apart whatever lies over them: 4 skins, 20 clothes (5 cuts in 4
colours), 6 pairs of eyes, 3 pairs of glasses or none, 6 mouths and 48 heads of hair (12 styles in 4 colours), 552 960
faces. Each part is rendered by itself on a transparent ground, multiplied by its opacity, rounded to bytes and written
slot by slot as ``(n, 4, 32, 32)``::

    pip install dicebear-core==10.7.0 dicebear-styles==10.6.0 resvg-py==0.5.0
    python -m recipes.faces32.parts

A picture is one part of each slot painted over white, :class:`pyro_vipaint.cats.parts.Layers`; its label is the style
of the hair. The command also renders whole faces and prints how far pictures composed of the parts are from them. One
combination in ten is held out: those whose part numbers add up to a multiple of ten.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import io
import itertools
import json
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save
from torch import Tensor

from pyro_vipaint.cats.parts import Layers, load_layers

if TYPE_CHECKING:
    from dicebear import Style

VERSIONS = {"dicebear-core": "10.7.0", "dicebear-styles": "10.6.0", "resvg-py": "0.5.0"}
SIZE = 32
TARGET = Path(__file__).resolve().parents[2] / "models" / "weights" / "faces32" / "parts.safetensors"
CHECKED = 500  # faces that are rendered whole

HAIR_STYLES = {
    "very long": "long12",
    "long": "long09",
    "flipped": "long03",
    "chin-length": "long20",
    "pigtails": "long18",
    "buns": "long14",
    "topknot": "long05",
    "curls": "long15",
    "bowl cut": "short17",
    "sides": "short18",
    "tuft": "short05",
    "spikes": "short13",
}
HAIR_COLOURS = {"black": "#28150a", "blond": "#cab188", "red": "#bd1700", "blue": "#009bbd"}
SKINS = {"light": "#ffdbac", "medium": "#eac393", "tan": "#b68655", "dark": "#8d5524"}
CUTS = {
    "turtleneck": "variant12",
    "jacket": "variant16",
    "sleeveless": "variant17",
    "strapless": "variant20",
    "braces": "variant22",
}
CLOTH_COLOURS = {"blue": "#428bca", "green": "#00b159", "red": "#d11141", "yellow": "#ffc425"}
EYES = {
    "down": "variant03",
    "shaded": "variant05",
    "right": "variant07",
    "left": "variant08",
    "large": "variant10",
    "slanted": "variant12",
}
GLASSES = {"shades": ("dark04", "#191919"), "black": ("light07", "#191919"), "red": ("light07", "#a04b5d")}
MOUTHS = {
    "open": "happy01",
    "smile left": "happy07",
    "smile right": "happy08",
    "teeth": "happy12",
    "frown right": "sad08",
    "frown left": "sad09",
}
# What is the same in all faces.
FIXED = {
    "seed": "",
    "size": SIZE,
    "eyesColor": "#647b90",
    "mouthColor": "#de0f0d",
    "hatProbability": 0,
    "beardProbability": 0,
    "accessoriesProbability": 0,
}

Options = dict[str, Any]
"""Options of DiceBear."""


@dataclass(frozen=True)
class Part:
    """One part: its name, and the options that make DiceBear draw it."""

    name: str
    options: Options


def slots() -> dict[str, list[Part]]:
    """All parts by slot, in the order in which DiceBear paints them; the hair's number is 4 · style + colour."""
    clothes, hair = itertools.product(CUTS, CLOTH_COLOURS), itertools.product(HAIR_STYLES, HAIR_COLOURS)
    return {
        "skin": [Part(name, {"skinColor": colour}) for name, colour in SKINS.items()],
        "clothes": [
            Part(f"{colour} {cut}", {"clothesVariant": CUTS[cut], "clothingColor": CLOTH_COLOURS[colour]})
            for cut, colour in clothes
        ],
        "eyes": [Part(name, {"eyesVariant": variant}) for name, variant in EYES.items()],
        "glasses": [
            Part("none", {"glassesProbability": 0}),
            *(
                Part(name, {"glassesVariant": variant, "glassesColor": colour, "glassesProbability": 100})
                for name, (variant, colour) in GLASSES.items()
            ),
        ],
        "mouth": [Part(name, {"mouthVariant": variant}) for name, variant in MOUTHS.items()],
        "hair": [
            Part(f"{colour} {style}", {"hairVariant": HAIR_STYLES[style], "hairColor": HAIR_COLOURS[colour]})
            for style, colour in hair
        ],
    }


def labels_of(index: Tensor) -> Tensor:
    """The style of the hair, ``(N,)``, of part numbers ``(N, 6)``: what the prior is conditioned on."""
    return index[:, -1] // len(HAIR_COLOURS)


def style_definition() -> dict[str, Any]:
    """DiceBear's ``pixel-art`` as it is installed."""
    found = {name: version(name) for name in VERSIONS}
    if found != VERSIONS:
        raise ValueError(f"found {found}, expected {VERSIONS}")
    return json.loads(files("dicebear_styles").joinpath("pixel-art.json").read_text("utf-8"))


def render(style: Style, options: Options) -> np.ndarray:
    """A face as bytes ``(32, 32, 4)``: colours and opacity."""
    import resvg_py
    from dicebear import Avatar

    svg = Avatar(style, FIXED | options).to_string()
    content = bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


def style_of(definition: dict[str, Any], slot: str) -> Style:
    """The style that paints the parts of one slot and nothing else."""
    from dicebear import Style

    element = "path" if slot == "skin" else slot  # the skin is the canvas's own path
    elements = [each for each in definition["canvas"]["elements"] if each["name"] == element]
    return Style(definition | {"canvas": definition["canvas"] | {"elements": elements}})


def render_part(style: Style, part: Part) -> Tensor:
    """One part as bytes ``(4, 32, 32)``: colours times opacity, and opacity."""
    pixels = render(style, part.options).astype(np.float64)
    pixels[..., :3] *= pixels[..., 3:] / 255
    return torch.from_numpy(pixels.round().astype(np.uint8)).permute(2, 0, 1)


def render_parts(definition: dict[str, Any]) -> dict[str, Tensor]:
    """All parts by slot, ``(n, 4, 32, 32)``."""
    styles = {slot: style_of(definition, slot) for slot in slots()}
    return {
        slot: torch.stack([render_part(styles[slot], part) for part in parts]).contiguous()
        for slot, parts in slots().items()
    }


def rendered_faces(definition: dict[str, Any], index: Tensor) -> Tensor:
    """Whole faces ``(N, 3, 32, 32)`` over white, as bytes, of part numbers ``(N, 6)``: what DiceBear itself paints."""
    from dicebear import Style

    style, faces = Style(definition), []
    for numbers in index.tolist():
        chosen = [parts[number] for number, parts in zip(numbers, slots().values(), strict=True)]
        pixels = render(style, {key: value for part in chosen for key, value in part.options.items()})
        opacity = pixels[..., 3:].astype(np.float64) / 255
        faces.append(torch.from_numpy((pixels[..., :3] * opacity + 255 * (1 - opacity)).round().astype(np.uint8)))
    return torch.stack(faces).permute(0, 3, 1, 2)


def largest_difference(layers: Layers, definition: dict[str, Any], num: int, seed: int = 0) -> int:
    """By how many of 255 steps a pixel of ``num`` random faces differs from DiceBear's at most."""
    index = layers.draw(num, torch.Generator().manual_seed(seed))
    composed = ((layers.compose(index) + 1) * 127.5).round().int()
    return int((composed - rendered_faces(definition, index).int()).abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the parts of the faces.")
    parser.add_argument("--target", type=Path, default=TARGET, help="the safetensors file to write")
    parser.add_argument("--checked", type=int, default=CHECKED, help="random faces to compare with the renderer")
    arguments = parser.parse_args()
    definition = style_definition()
    names = {slot: [part.name for part in parts] for slot, parts in slots().items()}
    metadata = {"slots": " ".join(names), "names": json.dumps(names)}
    arguments.target.parent.mkdir(parents=True, exist_ok=True)
    arguments.target.write_bytes(save(render_parts(definition), metadata=metadata))
    difference = largest_difference(load_layers(arguments.target), definition, arguments.checked)
    Console().print(
        f"{arguments.target}: {arguments.target.stat().st_size} bytes; the largest difference of a pixel of "
        f"{arguments.checked} faces from the renderer's is {difference} of 255"
    )


if __name__ == "__main__":
    main()
