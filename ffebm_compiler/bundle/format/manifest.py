"""``manifest.json``: every other file of a bundle with its size and checksum, and a checksum of the manifest itself."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from typing import Any

from .json_text import dump
from .limits import LARGEST_NAME
from .schemas import MANIFEST as SCHEMA
from .schemas import schema_problems
from .values import plain

MANIFEST = "manifest.json"
FORMAT, VERSION = "ffebm bundle", 1
LIBRARIES = ("ffebm_compiler", "torch", "onnx", "onnxscript", "safetensors")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Document = dict[str, Any]


def manifest_of(model: str, options: Mapping[str, Any], files: Mapping[str, bytes]) -> Document:
    """The manifest of those files."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "model": model,
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "options": plain(options),
        "files": {name: {"size": len(c), "sha256": checksum(c)} for name, c in sorted(files.items())},
    }
    return signed(document)


def signed(document: Mapping[str, Any]) -> Document:
    """The document with its own checksum."""
    unsigned = {k: v for k, v in document.items() if k != "sha256"}
    return {**unsigned, "sha256": checksum(dump(unsigned))}


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def version_problem(document: Any) -> tuple[str, str] | None:
    """What is wrong with a manifest's format and version, and what to do; None where they are ours."""
    version = document.get("version") if isinstance(document, dict) else None
    if not isinstance(document, dict) or document.get("format") != FORMAT or type(version) is not int:
        return (
            "is not the manifest of a compiled bundle",
            "Give the folder or the .ffebm file of model.compile_to(path).",
        )
    if version > VERSION:
        return (
            f"is of version {version} of the format; this release reads version {VERSION}",
            "Update ffebm_compiler, or compile the model again with this release.",
        )
    if version < VERSION:
        return (
            f"is of version {version} of the format, which this release no longer reads",
            "Compile the model again with this release.",
        )
    return None


def manifest_problems(document: Document) -> Iterator[str]:
    """What is wrong with a manifest of our version."""
    found = [*schema_problems(document, SCHEMA)]
    yield from found
    if found:
        return
    if signed(document) != document:
        yield "has a checksum that is not its own"
    yield from (f"lists a file named {n!r}" for n in document["files"] if not is_file_name(n) or n == MANIFEST)
    yield from (f"lists {n} twice, but for capitals" for n in alike(document["files"]))


def alike(names: Iterable[str]) -> list[str]:
    """Names that are one on a disk that does not tell capitals."""
    return [n for n, count in Counter(n.casefold() for n in names).items() if count > 1]


_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that are no files on Windows."""


def is_file_name(name: str) -> bool:
    """Whether a bundle may have a file of that name, in any system's folders."""
    return (
        _NAME.fullmatch(name) is not None
        and len(name) <= LARGEST_NAME
        and not name.endswith(".")
        and _DEVICES.fullmatch(name) is None
    )
