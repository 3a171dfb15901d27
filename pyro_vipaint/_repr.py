"""How the objects of the library print: a line of facts in a terminal, a table of them in a notebook.

A class takes both by ``__repr__, _repr_html_ = compact, as_html`` in its body. The facts are the fields of a dataclass
or a named tuple, or what its method ``_facts()`` returns. A tensor appears as its type and shape, a network as its
class and the number of its parameters: printing reads no large tensor and makes no network call. A method
``_picture_html()`` adds a picture below the table. The HTML holds no script and no link.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from html import escape
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

LONGEST = 600  # characters of one object
ROOMS = (120, 80, 50, 30, 20)  # characters of one fact, from the first that keeps the whole below LONGEST
HTML_ROOM = 300
SHOWN = 4  # elements of a row of numbers

STYLE = "border-collapse:collapse;font-size:90%"
CELL = "text-align:left;padding:1px 10px 1px 0;vertical-align:top"


class Word(str):
    """A text that prints without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def compact(self: Any) -> str:
    """The object as ``Class(name=fact, …)``, at most 600 characters."""
    named = facts(self)
    texts = (_line(self, {name: brief(fact, room) for name, fact in named.items()}) for room in ROOMS)
    text = ""
    for text in texts:
        if len(text) <= LONGEST:
            return text
    return text[: LONGEST - 2] + "…)"


def as_html(self: Any) -> str:
    """The object as a small table of facts, with its picture below where it has one."""
    rows = "".join(
        f'<tr><td style="{CELL};opacity:.65">{escape(name.replace("_", " "))}</td>'
        f'<td style="{CELL}">{escape(brief(Word(fact) if isinstance(fact, str) else fact, HTML_ROOM))}</td></tr>'
        for name, fact in facts(self).items()
    )
    picture = self._picture_html() if hasattr(self, "_picture_html") else ""
    return f'<div><b>{escape(type(self).__name__)}</b><table style="{STYLE}">{rows}</table>{picture}</div>'


def facts(value: Any) -> dict[str, Any]:
    """What is said of ``value``, by name."""
    if hasattr(value, "_facts"):
        return value._facts()
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value) if field.repr}
    return {name: getattr(value, name) for name in getattr(value, "_fields", ())}


def brief(value: Any, room: int = ROOMS[0]) -> str:
    """``value`` in at most ``room`` characters."""
    text = _text(value, room)
    return text if len(text) <= room else text[: room - 1] + "…"


def sparkline(values: Sequence[float], width: int = 240, height: int = 48) -> str:
    """A curve of finite ``values`` as inline SVG, the first left; steps far below the rest end at the lower edge."""
    if len(values) < 2:
        return ""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 10], ordered[-1]
    span = (high - low) or 1.0
    heights = (min(max((high - value) / span, 0.0), 1.0) * (height - 4) + 2 for value in values)
    points = " ".join(f"{2 + i * (width - 4) / (len(values) - 1):.1f},{y:.1f}" for i, y in enumerate(heights))
    return (
        f'<svg width="{width}" height="{height}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f'<polyline points="{points}" fill="none" stroke="#4269d0" stroke-width="1.5"/></svg>'
    )


def _line(value: Any, texts: Mapping[str, str]) -> str:
    return f"{type(value).__name__}({', '.join(f'{name}={text}' for name, text in texts.items())})"


def _text(value: Any, room: int) -> str:
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (FunctionType, MethodType, BuiltinFunctionType, type)):
        return value.__qualname__
    if isinstance(value, partial):
        return f"partial of {_text(value.func, room)}"
    if isinstance(value, nn.Module) and type(value).__repr__ is not compact:
        return f"{type(value).__name__} ({sum(each.numel() for each in value.parameters()):,} parameters)"
    if isinstance(value, Mapping):
        return "{" + ", ".join(map(str, value)) + "}"
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        row = _row(value, room)
        return f"({row[1:-1]})" if isinstance(value, tuple) and len(value) <= SHOWN else row
    if type(value).__repr__ is compact:
        return _line(value, {name: brief(fact, max(room // 4, 12)) for name, fact in facts(value).items()})
    columns: Any = getattr(value, "columns", None)  # of a table of pandas
    rows: Any = value
    if hasattr(columns, "__len__") and hasattr(value, "__len__"):
        return f"{type(value).__name__} of {len(rows)} rows and {len(columns)} columns"
    return type(value).__name__ if type(value).__repr__ is object.__repr__ else repr(value)


def _tensor(value: Tensor) -> str:
    place = "" if value.device.type == "cpu" else f" on {value.device}"
    if not value.ndim and not place and type(value) is Tensor:
        return f"{value.item():.6g}"
    few = value.ndim == 1 and len(value) <= SHOWN and not place and type(value) is Tensor
    numbers = " = [" + ", ".join(f"{number:.6g}" for number in value.tolist()) + "]" if few else ""
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}{place}{numbers}"


def _row(values: Iterable[Any], room: int) -> str:
    values = list(values)
    if len(values) <= SHOWN:
        return "[" + ", ".join(brief(value, room) for value in values) + "]"
    first, second, last = (brief(values[i], room) for i in (0, 1, -1))
    return f"[{first}, {second}, …, {last}] ({len(values)})"
