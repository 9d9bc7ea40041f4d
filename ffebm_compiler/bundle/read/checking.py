"""The files of a bundle: their names, sizes and checksums are those of the manifest, before anything else is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import FFEBMError, InputError, Problem
from ..format.json_text import parse
from ..format.limits import LARGEST_BUNDLE, LARGEST_DOCUMENT
from ..format.manifest import MANIFEST, alike, checksum, is_file_name, manifest_problems, version_problem
from ..format.storage import Place, opened
from ..write.writing import OURS

REMEDY = (
    "It is damaged, or was changed: compile the model again (model.compile_to), "
    "or get the bundle again from where it came."
)
MOST_TOLD = 20
"""Problems of one stage that are told."""

REPLACED = 5
"""So often a bundle may be replaced by another while it is read."""

Found = tuple[str, str]
"""A file of the bundle, and what is wrong with it."""


@dataclass(frozen=True)
class Checked:
    """A bundle's files, whose names, sizes and checksums are those of its manifest.

    Attributes:
        manifest: the document.
        manifest_size: in bytes.
        files: the contents of every other file.
    """

    manifest: Mapping[str, Any]
    manifest_size: int
    files: Mapping[str, bytes]


def checked_files(path: str | os.PathLike[str]) -> Checked:
    """The files of a bundle that is whole; one that another takes the place of while it is read is read again.

    Raises:
        InputError: it is not.
    """
    for _ in range(REPLACED):
        before = _identity(path)
        try:
            return _checked_files(path)
        except InputError:
            if _identity(path) == before:
                raise
    return _checked_files(path)


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _checked_files(path: str | os.PathLike[str]) -> Checked:
    where = f"bundle {os.fspath(path)}"
    try:
        with opened(Path(path)) as place:
            manifest = _manifest(place, where)
            refuse(where, _listing_problems(place, manifest["files"]))
            files: dict[str, bytes] = {}
            refuse(where, _content_problems(place, manifest["files"], files))
            return Checked(manifest, place.sizes[MANIFEST], files)
    except FileNotFoundError as failure:
        remedy = "Compile one: model.compile_to(path, example_inputs=(x,)), or ffebm compile."
        raise InputError.at(where, "does not exist", remedy) from failure
    except OSError as failure:
        raise InputError.at(where, f"can't be read: {failure.strerror or failure}", "Check the path.") from failure
    except ValueError as failure:
        if isinstance(failure, FFEBMError):
            raise
        raise InputError.at(where, str(failure), REMEDY) from failure


def refuse(where: str, found: Iterable[Found]) -> None:
    problems = [Problem(f"{where}, {file}", what, REMEDY) for file, what in found]
    if problems:
        raise InputError(problems[:MOST_TOLD])


def _manifest(place: Place, where: str) -> dict[str, Any]:
    sizes = place.sizes
    refuse(where, (("its files", f"one has the name {n[:100]!r}") for n in sizes if not is_file_name(n)))
    refuse(where, (("its files", f"{n} is there twice, but for capitals") for n in alike(sizes)))
    if MANIFEST not in sizes:
        raise InputError.at(where, f"has no {MANIFEST}", "Give the folder or the .ffebm file of compile_to(path).")
    if sizes[MANIFEST] > LARGEST_DOCUMENT:
        refuse(where, [(MANIFEST, f"is larger than {LARGEST_DOCUMENT >> 20} MiB")])
    try:
        document = parse(place.read(MANIFEST))
    except ValueError as failure:
        raise InputError.at(f"{where}, {MANIFEST}", str(failure), REMEDY) from failure
    version = version_problem(document)
    if version is not None:
        raise InputError(Problem(f"{where}, {MANIFEST}", *version))
    refuse(where, ((MANIFEST, p) for p in manifest_problems(document)))
    found: dict[str, Any] = document
    return found


def _listing_problems(place: Place, listed: Mapping[str, Mapping[str, Any]]) -> Iterator[Found]:
    """Before any other file is read."""
    present = {n: s for n, s in place.sizes.items() if n != MANIFEST}
    yield from ((n, "is not listed in the manifest") for n in present if n not in listed)
    yield from ((n, "is missing") for n in (*listed, *OURS[1:]) if n not in present)
    for name, size in present.items():
        if name in listed and listed[name]["size"] != size:
            yield name, f"has {size} bytes instead of {listed[name]['size']}"
    if sum(present.values()) > LARGEST_BUNDLE:
        yield "its files", f"are larger than {LARGEST_BUNDLE >> 30} GiB"


def _content_problems(
    place: Place, listed: Mapping[str, Mapping[str, Any]], files: dict[str, bytes]
) -> Iterator[Found]:
    for name, entry in listed.items():
        try:
            files[name] = place.read(name)
        except ValueError as failure:
            yield name, str(failure)
            continue
        if checksum(files[name]) != entry["sha256"]:
            yield name, "has another content than the manifest's checksum is of"
