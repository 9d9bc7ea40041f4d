"""The published JSON Schemas of a bundle's documents, and what is wrong with a document by them."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator
from importlib import resources
from typing import Any

import jsonschema

PROGRAM, MANIFEST = "program.schema.json", "manifest.schema.json"
SHOWN = 5
"""So many problems of a document are told."""


def schema(name: str) -> dict[str, Any]:
    """A published schema, draft 2020-12."""
    found: dict[str, Any] = json.loads((resources.files(__package__) / name).read_text(encoding="utf-8"))
    return found


def schema_problems(document: Any, name: str) -> Iterator[str]:
    """What is wrong with a document, the first few problems: where, and what."""
    for error in itertools.islice(_validator(name).iter_errors(document), SHOWN):
        where = "".join(f"[{k}]" if isinstance(k, int) else f".{k}"[:80] for k in error.absolute_path)
        yield f"has {where.lstrip('.') or 'as a whole'} wrong: {_shortened(error.message)}"


def _shortened(message: str) -> str:
    return message if len(message) <= 200 else f"{message[:120]} ... {message[-70:]}"


@functools.cache
def _validator(name: str) -> Any:
    kinds = jsonschema.Draft202012Validator
    strict = kinds.TYPE_CHECKER.redefine("integer", lambda checker, value: type(value) is int)  # not 1.0
    return jsonschema.validators.extend(kinds, type_checker=strict)(schema(name))
