"""Documents that say something else, or say it in another way."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from ffebm_compiler.bundle.format.manifest import MANIFEST
from ffebm_compiler.bundle.write.writing import PROGRAM

from .shared import Files

HUGE = (1 << 31, 1 << 53, 1 << 63, 10**30, -1, 1e308, -1e308, 5e-324)
ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    0.5,
    "",
    "x",
    "../x",
    "\x00",
    "x" * 5000,
    [],
    {},
    [[]],
    {"a": 1},
    *HUGE,
)


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a document: the container and the key or index."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in [*items]:
        yield document, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def _change_document(document: Any, draw: random.Random) -> None:
    places = [*_places(document)]
    container, key = draw.choice(places)
    other, elsewhere = draw.choice(places)
    value = container[key]
    action = draw.choice(("odd", "odd", "other", "other", "delete", "repeat", "rename", "nest", "number", "text"))
    if action == "odd":
        container[key] = draw.choice(ODD)
    elif action == "other":
        container[key] = json.loads(json.dumps(other[elsewhere]))
    elif action == "delete":
        del container[key]
    elif action == "repeat" and isinstance(container, list):
        container.insert(key, json.loads(json.dumps(value)))
    elif action == "rename" and isinstance(container, dict):
        container[draw.choice(("x", "", "value", "tuple", "name", "9"))] = container.pop(key)
    elif action == "nest":
        container[key] = _nested(draw.choice((2, 30, 60, 900)))
    elif action == "number":
        container[key] = (
            draw.choice(HUGE) if not isinstance(value, (int, float)) else value * draw.choice((-1, 2, 0, 1e9)) + 1
        )
    elif action == "text":
        container[key] = value[::-1] if isinstance(value, str) else str(value)[:200]


def _in_program(files: Files, draw: random.Random) -> None:
    document = json.loads(files[PROGRAM])
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        _change_document(document, draw)
    files[PROGRAM] = text_of(document)


def _in_manifest(files: Files, draw: random.Random) -> None:
    document = json.loads(files[MANIFEST])
    _change_document(document, draw)
    files[MANIFEST] = text_of(document)


def text_of(document: Any) -> bytes:
    return f"{json.dumps(document, indent=1, ensure_ascii=False)}\n".encode("utf-8", "surrogatepass")


def _spelled(files: Files, draw: random.Random) -> None:
    """The program's document in another spelling, or with what is no JSON."""
    text = files[PROGRAM]
    document = json.loads(text)
    lines = text.splitlines(keepends=True)
    place = draw.randrange(len(lines))
    files[PROGRAM] = draw.choice(
        (
            json.dumps(document).encode(),
            json.dumps(document, indent=2).encode(),
            json.dumps(document, indent=1, sort_keys=True).encode(),
            text.replace(b'"model":', b'"model": "x",\n "model":', 1),
            b"\xef\xbb\xbf" + text,
            text + b" ",
            text.replace(b"200", b"2e2", 1),
            text.replace(b"200", b"NaN", 1),
            text.replace(b"200", b"-Infinity", 1),
            text.replace(b"200", b"9" * 5000, 1),
            text[:-2],
            text.replace(b'"model":', b"[" * 10_000 + b'"model":', 1),
            b"[" * 1_000_000,
            text.replace(b"1", b"1\x00", 1),
            b"".join((*lines[:place], lines[place], *lines[place:])),
            b"".join((*lines[:place], *lines[place + 1 :])),
        )
    )


DOCUMENTS = {
    "in the program": _in_program,
    "in the program again": _in_program,
    "in the manifest": _in_manifest,
    "in its spelling": _spelled,
}
