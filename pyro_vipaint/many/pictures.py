"""The pictures of a run: a folder of files, or a data set of rows, each with its mask and its label."""

from __future__ import annotations

import csv
import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_vipaint._files import PICTURES, check_file, read_image, read_mask
from pyro_vipaint._torch import NOISE, child_seed, fingerprint
from pyro_vipaint.checks import check_image, check_label, check_mask
from pyro_vipaint.errors import InputError, brief, described, in_one_line, instance
from pyro_vipaint.models.measurements.masks import MASKS
from pyro_vipaint.models.priors.conditions import class_numbers
from pyro_vipaint.models.priors.prior import DiffusionPrior

DIGITS = 18  # of a label that is a number
LONGEST_NAME = 1000
JOINERS = "\u200c\u200d"  # inside words of Persian and Hindi, and inside emoji
LARGEST_TABLE = 2**30  # bytes of a file of labels


@dataclass(frozen=True, eq=False)
class Picture:
    """One problem.

    Attributes:
        name: of the results, such as ``holidays/beach``.
        image: ``(C, H, W)`` in [-1, 1].
        mask: ``(1, H, W)``, 1 = observed.
        label: a class, or None.
        seed: of all that is drawn for it.
        file: where it was read from, if anywhere.
    """

    name: str
    image: Tensor
    mask: Tensor
    label: int | None
    seed: int
    file: str = ""


@dataclass(frozen=True)
class Reading:
    """How files become pictures: the options of ``vipaint inpaint`` of these names."""

    resize: bool = False
    invert_mask: bool = False
    soft_mask: bool = False
    grey: bool = False


@dataclass(frozen=True, eq=False)
class Pictures:
    """All pictures of a run, read one at a time.

    Attributes:
        names: of all of them, in the order of the run.
        read: the picture of that index.
        described: what the results depend on besides the pictures themselves, as JSON holds it.
        label: that of all, or of the first that is listed; None without.
        files: where they are read from.
    """

    names: list[str]
    read: Callable[[int], Picture]
    described: dict[str, Any]
    label: int | None = None
    files: list[str] | None = None

    def file(self, index: int) -> str:
        """Where the picture of that index is read from; empty for a row."""
        return "" if self.files is None else self.files[index]


Masks = Callable[[str, int], Tensor]  # of a picture's name and seed: (1, H, W)


def seed_of(seed: int, name: str) -> int:
    """The seed of a picture within a run: 63 bits of a hash of the run's ``seed`` and the picture's ``name``."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def pictures_of(
    images: Any, mask: Any, prior: DiffusionPrior, reading: Reading, seed: int, label: Any, labels: Any
) -> Pictures:
    """The pictures of a folder or of a data set; arguments and errors are those of ``inpaint_many``."""
    if label is not None and labels is not None:
        raise InputError("label is that of all pictures, labels has one each: omit one of the two.")
    masks, described = masks_of(mask, prior, reading)
    one = None if label is None else _class(label, prior)
    table = None if labels is None else _labels(labels, prior)
    described |= {"label": one, "labels": None if table is None else _digest(sorted(table.items()))}
    described |= vars(reading)
    if isinstance(images, (str, Path)):
        return _of_folder(Path(images), mask, masks, prior, reading, seed, one, table, described)
    return _of_rows(images, masks, prior, reading, seed, one, table, described)


def _of_folder(
    folder: Path, mask: Any, masks: Masks | None, prior: DiffusionPrior, reading: Reading, seed: int,
    label: int | None, labels: Mapping[str, int] | None, described: dict[str, Any],
) -> Pictures:  # fmt: skip
    if masks is None:
        raise InputError("A folder of pictures needs a mask: a picture, a folder of pictures, or a name.")
    files = _files(folder, mask)
    names = list(files)
    _check_labels(names, labels)
    channels, height, width = prior.image_shape

    def read(index: int) -> Picture:
        name, path = names[index], files[names[index]]
        image = read_image(path, channels, (height, width) if reading.resize else None, reading.grey)
        image, own = check_image(image, prior, reading.grey)[0], seed_of(seed, name)
        return Picture(name, image, masks(name, own), _own(name, label, labels), own, inside[index])

    inside = [path.relative_to(folder).as_posix() for path in files.values()]
    return Pictures(names, read, described, _own(names[0], label, labels), inside)


def _of_rows(
    rows: Any, masks: Masks | None, prior: DiffusionPrior, reading: Reading, seed: int, label: int | None,
    labels: Mapping[str, int] | None, described: dict[str, Any],
) -> Pictures:  # fmt: skip
    wanted = "a folder, or a sequence of rows (name, image), (name, image, mask) or (name, image, mask, label)"
    sized = hasattr(rows, "__getitem__") and hasattr(rows, "__len__")
    instance("images", rows, sized and not isinstance(rows, (Tensor, Mapping)), wanted)
    named = getattr(rows, "names", None)
    names = [str(name) for name in named] if named is not None else [_row(rows[i], wanted)[0] for i in range(len(rows))]
    if len(names) != len(rows):
        raise InputError(f"The data set has {len(rows)} rows and {len(names)} names: give each row one.")
    _check_names(names)
    _check_labels(names, labels)

    def read(index: int) -> Picture:
        name, image, *rest = _row(rows[index], wanted)
        if name != names[index]:
            raise InputError(f"Row {index} of the data set is named {brief(name)}, its names say {names[index]!r}.")
        own = seed_of(seed, name)
        image = check_image(image, prior, reading.grey)
        mask = rest[0] if rest and rest[0] is not None else None
        if len(image) != 1 or (mask is None and masks is None):
            raise InputError(f"Row {name!r} must have one image (C, H, W), and a mask unless there is one for all.")
        weights = masks(name, own) if mask is None and masks is not None else check_mask(mask, prior)[0]
        given = rest[1] if len(rest) > 1 and rest[1] is not None else None
        return Picture(
            name, image[0], weights, _own(name, label, labels) if given is None else _class(given, prior), own
        )

    return Pictures(names, read, described, _own(names[0], label, labels) if names else label)


def _row(row: Any, wanted: str) -> Sequence[Any]:
    usable = isinstance(row, (tuple, list)) and 2 <= len(row) <= 4 and isinstance(row[0], str)
    instance("images", row, usable, wanted)
    return row


def _files(folder: Path, mask: Any) -> dict[str, Path]:
    """Name -> picture for all pictures below ``folder``, sorted; hidden files, and the masks, are left out."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of pictures.")
    masks = Path(mask).absolute() if isinstance(mask, (str, Path)) else None
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.suffix.lower() not in PICTURES or any(part.startswith(".") for part in inside.parts):
            continue
        if path.is_dir() or masks in (path.absolute(), *path.absolute().parents):
            continue
        name = inside.with_suffix("").as_posix()
        if name in files:
            raise InputError(f"{files[name]} and {path} would have results of one name: rename one of them.")
        files[name] = path
    if not files:
        raise InputError(f"{folder} holds no pictures ({', '.join(PICTURES)}).")
    _check_names(files)
    return files


def _check_names(names: Iterable[str]) -> None:
    """Refuses names that are no relative paths, that are given twice, or of which one is a folder of another's."""
    known: set[str] = set()
    for name in names:
        parts = name.split("/")
        if not _is_plain(name) or any(not part or part.startswith(".") or len(part.encode()) > 255 for part in parts):
            raise InputError(
                f"The name {brief(name)} cannot be that of a folder: letters, digits, -, _ and / for folders."
            )
        if name in known:
            raise InputError(f"Two pictures have the name {brief(name)}: rename one of them.")
        known.add(name)
    for name in known:
        above = name
        while "/" in above:
            above = above.rpartition("/")[0]
            if above in known:
                raise InputError(f"{above!r:.100} is a picture and a folder of pictures: rename one of them.")


def _is_plain(name: str) -> bool:
    """Whether a name has no line breaks and the like; spaces of all widths stand in names, as of screenshots."""
    shown = "".join(c for c in name if c not in JOINERS and unicodedata.category(c) != "Zs")
    return shown.isprintable() and "\\" not in name and len(name) <= LONGEST_NAME


def masks_of(mask: Any, prior: DiffusionPrior, reading: Reading) -> tuple[Masks | None, dict[str, Any]]:
    """The masks of the pictures, and what identifies them: one for all, a folder of them, or drawn by name."""
    _, height, width = prior.image_shape
    size = (height, width) if reading.resize else None
    if mask is None:
        return None, {"mask": None}
    if not isinstance(mask, (str, Path)):
        weights = _one(check_mask(mask, prior))
        return lambda name, seed: weights, {"mask": fingerprint(weights)}
    path = Path(mask)
    if path.is_dir():
        files = _files(path, None)

        def read(name: str, seed: int) -> Tensor:
            if name not in files:
                raise InputError(f"{path} has no mask {name}.")
            pixels = read_mask(files[name], reading.invert_mask, size, reading.soft_mask)
            return _one(check_mask(pixels, prior))

        return read, {"mask": "a folder"}
    if path.exists():
        weights = _one(check_mask(read_mask(path, reading.invert_mask, size, reading.soft_mask), prior))
        return lambda name, seed: weights, {"mask": fingerprint(weights)}
    if str(mask) not in MASKS:
        named = ", ".join(MASKS)
        raise InputError(f"There is no mask {brief(str(mask))}: a picture, a folder of them, or one of {named}.")
    if height != width:
        raise InputError(f"The masks with names are square, the images of {prior.name} are {width}×{height}.")
    draw, invert = MASKS[str(mask)], reading.invert_mask

    def drawn(name: str, seed: int) -> Tensor:
        weights = draw(height, 1, seed=child_seed(seed, NOISE))[0]
        return 1 - weights if invert else weights

    return drawn, {"mask": str(mask)}


def _one(masks: Tensor) -> Tensor:
    if len(masks) != 1:
        raise InputError(f"One mask (1, H, W) serves all pictures, not {len(masks)}: a data set has one in each row.")
    return masks[0]


def _own(name: str, label: int | None, labels: Mapping[str, int] | None) -> int | None:
    return label if labels is None else labels[name]


def _check_labels(names: Sequence[str], labels: Mapping[str, int] | None) -> None:
    missing = [] if labels is None else [name for name in names if name not in labels]
    if missing:
        raise InputError(
            f"labels has none for {len(missing)} of {len(names)} pictures, the first is {brief(missing[0])}."
        )


def _labels(labels: Any, prior: DiffusionPrior) -> dict[str, int]:
    """Name of a picture -> class, of a mapping or a CSV file with the columns ``file`` and ``label``."""
    if isinstance(labels, (str, Path)):
        labels = _table(Path(labels))
    instance("labels", labels, isinstance(labels, Mapping), "a CSV file with the columns file and label, or a mapping")
    classes = {label: _class(label, prior) for label in set(labels.values())}
    return {_stem(str(file)): classes[label] for file, label in labels.items()}


def _table(path: Path) -> dict[str, str]:
    try:
        check_file(path, LARGEST_TABLE)
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            if not {"file", "label"} <= set(rows.fieldnames or ()):
                raise InputError(f"{path} must have the columns file and label in its first line.")
            found = {row["file"]: row["label"] for row in rows}
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except (OSError, ValueError, csv.Error) as error:
        raise in_one_line(f"{path} cannot be read as a CSV file of labels", error) from error
    if None in found or None in found.values():
        raise InputError(f"{path} has a line without a file or a label.")
    return found


def _stem(file: str) -> str:
    path = Path(file)
    return path.with_suffix("").as_posix() if path.suffix.lower() in PICTURES else path.as_posix()


def _class(label: Any, prior: DiffusionPrior) -> int:
    """The number of a class that is given by its number or its name."""
    if isinstance(label, str) and prior.class_names:
        number = label.strip()
        whole = number.isdecimal() and len(number) <= DIGITS
        label = int(number) if whole else class_numbers(number, prior)
    checked = check_label(label, 1, prior)
    if checked.numel() != 1:
        raise InputError(f"One label is one class, not {described(label)}.")
    return int(checked)


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
