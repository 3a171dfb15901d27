"""Composes the README's picture: two rows of each demonstration, cats64 above fashion32.

    vipaint demo --prior cats64 --out cats && vipaint demo --prior fashion32 --out fashion
    python -m benchmarks.front_picture cats/contact_sheet.png fashion/contact_sheet.png docs/demo.png

A contact sheet has one row per image below one line of titles.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

TITLES, ROW, COLUMN = 38, 161, 160  # pixels of a sheet: the line of titles, and from one picture to the next
PICTURE = 150  # the height of a picture with its margin
ROWS = (2, 3)  # the images of which most remains open
COLUMNS = 10  # truth, observation, mean, standard deviation, six samples


def compose(sheets: list[Image.Image]) -> Image.Image:
    """The titles of the first sheet above ``ROWS`` of all sheets, cut to ``COLUMNS``."""
    width = COLUMNS * COLUMN
    picture = Image.new("RGB", (width, TITLES + len(sheets) * len(ROWS) * ROW), "white")
    picture.paste(sheets[0].crop((0, 0, width, TITLES)), (0, 0))
    tops = [(sheet, TITLES + row * ROW) for sheet in sheets for row in ROWS]
    for place, (sheet, top) in enumerate(tops):
        picture.paste(sheet.crop((0, top, width, min(top + PICTURE, sheet.height))), (0, TITLES + place * ROW))
    return picture


def main() -> None:
    """Reads the sheets and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sheets", nargs=2, type=Path, help="contact_sheet.png of cats64 and of fashion32")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    compose([Image.open(path).convert("RGB") for path in arguments.sheets]).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
