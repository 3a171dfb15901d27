"""Hostile picture and mask files."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pyro_vipaint._files import read_image, read_mask
from tests.hostile.harness import Case
from tests.pictures import half, ramp

RAMP = torch.from_numpy(ramp()).float() / 127.5 - 1


def encoded(kind: str, picture: Image.Image | None = None, **options: Any) -> bytes:
    """A picture in a file format."""
    buffer = io.BytesIO()
    (picture or Image.fromarray(ramp())).save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int = 8, colour: int = 0, rows: bytes = b"") -> bytes:
    """A PNG that claims a size, whatever its data hold."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    content = zlib.compress(rows or b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes with ``side`` × ``side`` pixels that are all there."""
    return png(side, side, rows=b"\0" * (side * (side + 1)))


PNG = encoded("PNG")
BYTES: dict[str, bytes | Callable[[], bytes]] = {
    "empty": b"",
    "one byte": b"\x89",
    "text": b"this is not a picture\n" * 50,
    "zeros": bytes(10_000),
    "PNG cut in the header": PNG[:20],
    "PNG cut in the data": PNG[:-40],
    "PNG without its end": PNG[: len(PNG) // 2],
    "PNG with a wrong checksum": PNG[:40] + bytes([PNG[40] ^ 255]) + PNG[41:],
    "PNG of width 0": png(0, 8),
    "PNG of 2^31 pixels a side": png(2**31 - 1, 2**31 - 1),
    "PNG that claims 50000 pixels a side": png(50_000, 50_000),
    "PNG of depth 7": png(8, 8, depth=7),
    "PNG of colour type 9": png(8, 8, colour=9),
    "PNG bomb of 20000 pixels a side": lambda: bomb(20_000),
    "JPEG cut in half": encoded("JPEG")[:150],
    "JPEG of markers": b"\xff\xd8\xff" * 1000,
    "GIF cut": encoded("GIF")[:20],
    "TIFF with a loop": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
    "BMP of a negative size": encoded("BMP")[:18] + struct.pack("<ii", -8, -(2**31)) + encoded("BMP")[26:],
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/>",
    "PDF": b"%PDF-1.4\n",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n",
    "zip": b"PK\x03\x04" + bytes(100),
    "HTML": b"<!DOCTYPE html><html></html>",
    "pickle": b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.",
}


def write(content: bytes | Callable[[], bytes]) -> Callable[[Path], Any]:
    """Writes ``picture.png``."""
    return lambda folder: (folder / "picture.png").write_bytes(content if isinstance(content, bytes) else content())


def read(folder: Path, channels: int = 1) -> torch.Tensor:
    return read_image(folder / "picture.png", channels)


def mask(folder: Path, **options: Any) -> torch.Tensor:
    return read_mask(folder / "picture.png", **options)


def saved(kind: str, picture: Image.Image, **options: Any) -> Callable[[Path], Any]:
    return write(encoded(kind, picture, **options))


def grey(value: Any, mode: str) -> Image.Image:
    return Image.fromarray(np.full((8, 8), value, mode))


def _turned() -> Image.Exif:
    """An EXIF entry that says: turn by 90 degrees."""
    entries = Image.Exif()
    entries[0x0112] = 6
    return entries


TRANSPARENT = Image.merge("LA", (Image.fromarray(ramp()), Image.fromarray(half())))
RGB = Image.fromarray(np.stack([ramp()] * 3, -1))
CASES = [
    *[Case(f"picture: {name}", read, "picture.png", write(content)) for name, content in BYTES.items()],
    *[
        Case(f"mask: {name}", mask, "picture.png", write(BYTES[name]))
        for name in ("empty", "text", "PNG cut in the data", "PNG bomb of 20000 pixels a side")
    ],
    Case("picture: missing", read, "exist"),
    Case("picture: a folder", read, "picture", lambda folder: (folder / "picture.png").mkdir()),
    Case("picture: a FIFO", read, "picture", lambda folder: os.mkfifo(folder / "picture.png")),
    Case("picture: a link to itself", read, "picture", lambda f: (f / "picture.png").symlink_to("picture.png")),
    Case("picture: a link to nothing", read, "exist|picture", lambda f: (f / "picture.png").symlink_to("nowhere")),
    Case("picture: a device", lambda folder: read_image(Path("/dev/zero"), 1), "picture|file"),
    Case("picture: the random device", lambda folder: read_image(Path("/dev/urandom"), 1), "picture|file"),
    Case("picture: whole numbers below zero", read, "pixels", saved("TIFF", grey(-5, "int32"))),
    Case("picture: floats to 1e30", read, "pixels", saved("TIFF", grey(1e30, "float32"))),
    Case("mask: transparent", mask, "transparent", saved("PNG", TRANSPARENT)),
    Case("mask: NaN", mask, "NaN", saved("TIFF", grey(np.nan, "float32"))),
    Case("mask: a photo", mask, "black and white|photo|mask", saved("PNG", Image.fromarray(ramp(64)))),
    Case("mask: grey", mask, "black and white|grey|mask", saved("PNG", grey(100, "uint8"))),
    *[
        Case(f"picture: {name} (works)", read, arrange=arrange, works=holds)
        for name, arrange, holds in (
            ("JPEG", write(encoded("JPEG", quality=95)), lambda f, x: (x[0] - RAMP).abs().max() < 0.1),
            ("a picture under another name", write(encoded("BMP")), lambda f, x: torch.allclose(x[0], RAMP, atol=1e-6)),
            ("WebP", saved("WEBP", RGB, lossless=True), lambda f, x: (x[0] - RAMP).abs().max() < 0.02),
            ("a palette", saved("PNG", Image.fromarray(ramp()).convert("P")), lambda f,
             x: (x[0] - RAMP).abs().max() < 0.02),
            ("one bit", saved("PNG", Image.fromarray(half()).convert("1")), lambda f, x: x.unique().tolist() == [-1,
             1]),
            ("16 bits", saved("PNG", Image.fromarray(ramp().astype(np.uint16) * 257)),
             lambda f, x: (x[0] - RAMP).abs().max() < 1e-3),
            ("floats", saved("TIFF", Image.fromarray(ramp().astype(np.float32) / 255)),
             lambda f, x: (x[0] - RAMP).abs().max() < 1e-3),
            ("LAB", saved("TIFF", RGB.convert("LAB")), lambda f, x: (x[0] - RAMP).abs().max() < 0.05),
            ("CMYK", saved("JPEG", RGB.convert("CMYK"), quality=95), lambda f, x: (x[0] - RAMP).abs().max() < 0.2),
            ("an animation", saved("GIF", Image.fromarray(ramp()), save_all=True,
             append_images=[Image.fromarray(half())]),
             lambda f, x: (x[0] - RAMP).abs().max() < 0.02),
            ("turned by EXIF", saved("JPEG", Image.fromarray(ramp()), exif=_turned(), quality=95),
             lambda f, x: (x[0] - RAMP.rot90(-1)).abs().max() < 0.1),
            ("bytes after the end", write(PNG + bytes(1000)), lambda f, x: torch.allclose(x[0], RAMP, atol=1e-6)),
            ("a pixel", saved("PNG", Image.fromarray(ramp()[:1, :1])), lambda f, x: x.shape == (1, 1, 1)),
        )
    ],
    Case("mask: JPEG noise (works)", mask, arrange=saved("JPEG", Image.fromarray(np.kron(half(), np.ones((8, 8),
         np.uint8))), quality=75),
         works=lambda f, m: torch.equal(m[0], torch.from_numpy(np.kron(half(), np.ones((8, 8),
          np.uint8)) / 255).float())),
    Case("mask: 0 and 1 (works)", mask, arrange=saved("PNG", Image.fromarray(half() // 255)),
         works=lambda f, m: torch.equal(m[0], torch.from_numpy(half() / 255).float())),
    Case("mask: inverted (works)", lambda f: mask(f, invert=True), arrange=saved("PNG", Image.fromarray(half())),
         works=lambda f, m: torch.equal(m[0], 1 - torch.from_numpy(half() / 255).float())),
]  # fmt: skip
