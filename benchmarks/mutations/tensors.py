"""Files of tensors with forged headers, and with other numbers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from ffebm_compiler.bundle.write.writing import GAINS, PARAMETERS, SAMPLES

from .documents import ODD
from .shared import Files, flip


def _forged(files: Files, draw: random.Random) -> None:
    name = draw.choice((PARAMETERS, GAINS, SAMPLES))
    content = files[name]
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    _change_header(header, draw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    announced = draw.choice((len(text),) * 6 + (0, len(text) + 8, 1 << 40, (1 << 64) - 1))
    files[name] = announced.to_bytes(8, "little") + text + data


def _change_header(header: dict[str, Any], draw: random.Random) -> None:
    tensor = draw.choice([*header])
    entry = header[tensor]
    changes: dict[str, Callable[[], Any]] = {
        "dtype": lambda: entry.update(
            dtype=draw.choice(("F64", "F16", "I32", "U8", "BOOL", "F8_E4M3", "object", 3, None))
        ),
        "shape": lambda: entry.update(
            shape=draw.choice(
                ([1 << 40], [0], [-1], [1] * 40, [1.5], "x", [[1]], [*entry["shape"], 1], entry["shape"][::-1])
            )
        ),
        "offsets": lambda: entry.update(
            data_offsets=draw.choice(
                (
                    [0, 4],
                    [0, 1 << 50],
                    [8, 4],
                    [-4, 0],
                    [0],
                    [entry["data_offsets"][0] + 4, entry["data_offsets"][1] + 4],
                )
            )
        ),
        "remove": lambda: header.pop(tensor),
        "rename": lambda: header.update(
            {draw.choice(("x", "", "a.b", "fc1", "__class__", "training", "forward")): header.pop(tensor)}
        ),
        "again": lambda: header.update({"again": dict(entry)}),
        "metadata": lambda: header.update({"__metadata__": draw.choice(({"a": "b"}, {}, 3, {"a": 1}))}),
        "odd": lambda: entry.update({draw.choice([*entry, "x"]): draw.choice(ODD)}),
        "exchange": lambda: header.update({tensor: header[draw.choice([*header])]}),
    }
    changes[draw.choice([*changes])]()


def _other_numbers(files: Files, draw: random.Random) -> None:
    """The values of a tensor: another bundle, which is none the worse."""
    name = draw.choice((PARAMETERS, SAMPLES))
    content = files[name]
    start = 8 + int.from_bytes(content[:8], "little")
    files[name] = content[:start] + flip(content[start:], draw, draw.choice((1, 8)))


TENSORS = {"forge a header": _forged, "other numbers": _other_numbers}
