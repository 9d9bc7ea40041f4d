"""JSON that anyone may have written: bounded, without repeated keys, and spelled as it is written here.

``parse(text)`` takes only what ``dump`` gives: then no two readers can disagree about what a document says.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from .limits import DEEPEST, LARGEST_DOCUMENT, LARGEST_INTEGER, MOST_VALUES

_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]')


def dump(document: Any) -> bytes:
    """The document as UTF-8, one value a line, in the order of its keys."""
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def parse(content: bytes) -> Any:
    """The document.

    Raises:
        ValueError: it is too large or deep, no JSON, or spelled in another way than :func:`dump` spells it.
    """
    if len(content) > LARGEST_DOCUMENT:
        raise ValueError(f"is larger than {LARGEST_DOCUMENT >> 20} MiB")
    _check_nesting(content)
    try:
        document = json.loads(
            content.decode(),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_float,
        )
        canonical = dump(document)
    except (UnicodeError, RecursionError) as failure:
        raise ValueError(f"is no JSON in UTF-8: {failure}") from failure
    if canonical != content:
        raise ValueError(
            f"is spelled in another way than this program writes it, first at byte {_differ(canonical, content)}"
        )
    return document


def _check_nesting(content: bytes) -> None:
    """Before it is parsed: how deep brackets nest, and how many values there are."""
    depth, values = 0, 1
    for found in _BRACKETS.finditer(content):
        mark = found[0]
        if mark == b",":
            values += 1
        elif mark in b"[{":
            depth, values = depth + 1, values + 1
        elif mark in b"]}":
            depth -= 1
        if depth > DEEPEST:
            raise ValueError(f"is nested deeper than {DEEPEST}")
        if values > MOST_VALUES:
            raise ValueError(f"has more than {MOST_VALUES} values")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"has the key {key[:80]!r} twice")
        found[key] = value
    return found


def _constant(text: str) -> NoReturn:
    raise ValueError(f"has {text}, which is no JSON")


def _integer(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > LARGEST_INTEGER:
        raise ValueError(f"has the number {text[:20]}, which is too large")
    return int(text)


def _float(text: str) -> float:
    value = float(text) if len(text) <= 32 else math.inf
    if not math.isfinite(value):
        raise ValueError(f"has the number {text[:20]}, which no float holds")
    return value


def _differ(one: bytes, other: bytes) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
