"""Bundles that someone has tampered with, each from a number: bit flips, tricks of containers, forged headers,
documents and graphs.

A mutation is *signed* where every size and checksum is made right again after it, so that only what the bundle says can
give it away; without that, reading must refuse it. A signed one may be a bundle like any other (another weight is
another bundle), but then all that it says must be read.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffebm_compiler.bundle.format.manifest import MANIFEST, checksum, signed

from .containers import ARCHIVES, DAMAGED, FOLDERS, write_archive, write_damaged, write_folder
from .documents import DOCUMENTS, text_of
from .graphs import GRAPHS
from .shared import Files, flip, one, until_changed, written
from .tensors import TENSORS


@dataclass(frozen=True)
class Mutant:
    """A bundle that was tampered with.

    Attributes:
        path: where it stands.
        kind: what was done to it.
        signed: whether all checksums are right again.
    """

    path: Path
    kind: str
    signed: bool


def mutant(files: Mapping[str, bytes], seed: int, place: Path) -> Mutant:
    """The mutant of that number, written into a folder of its own.

    Args:
        files: of a sound bundle.
        seed: which; the same one gives the same bytes.
        place: a folder that exists.
    """
    draw = random.Random(seed)
    family = draw.choices(FAMILIES, [f.weight for f in FAMILIES])[0]
    kind = draw.choice([*family.mutations])
    path = family.write(family.mutations[kind], dict(files), draw, place / f"{seed}")
    return Mutant(path, f"{family.name}: {kind}", family.signed)


@dataclass(frozen=True)
class Family:
    """Mutations that are written in one way.

    Attributes:
        mutations: by what they do.
        write: applies one and writes what comes of it.
        signed: whether the checksums are made right again.
        weight: how often it is chosen, against the others.
    """

    name: str
    mutations: Mapping[str, Callable[..., Any]]
    write: Callable[[Callable[..., Any], Files, random.Random, Path], Path]
    signed: bool
    weight: float


def _flip_signed(files: Files, draw: random.Random) -> None:
    name = one({n: c for n, c in files.items() if n != MANIFEST}, draw)
    files[name] = flip(files[name], draw, draw.choice((1, 2, 8)))


def _others(files: Files, draw: random.Random) -> None:
    """Damage of files, as it is without checksums."""
    DAMAGED[draw.choice([*DAMAGED])](files, draw)


OTHERS = {"flip bits of a file": _flip_signed, "damage a file": _others}


def _write_signed(mutate: Callable[..., Any], files: Files, draw: random.Random, path: Path) -> Path:
    changed = until_changed(mutate, files, draw)
    return written(_signed(changed, files), draw, path)


def _signed(changed: Files, before: Files) -> Files:
    """The files with sizes and checksums as they are now; a manifest that was changed keeps its own, and is signed."""
    try:
        manifest = json.loads(changed[MANIFEST])
    except (KeyError, ValueError):
        return changed
    if not isinstance(manifest, dict):
        return changed
    if changed[MANIFEST] == before[MANIFEST]:
        named = {n: c for n, c in changed.items() if n != MANIFEST}
        manifest["files"] = {n: {"size": len(c), "sha256": checksum(c)} for n, c in sorted(named.items())}
    try:
        text = text_of(signed(manifest))
    except ValueError:
        text = text_of(manifest)
    return {MANIFEST: text, **{n: c for n, c in changed.items() if n != MANIFEST}}


FAMILIES = (
    Family("damaged", DAMAGED, write_damaged, False, 3),
    Family("folder", FOLDERS, write_folder, False, 1),
    Family("archive", ARCHIVES, write_archive, False, 4),
    Family("document", DOCUMENTS, _write_signed, True, 6),
    Family("tensors", TENSORS, _write_signed, True, 3),
    Family("graph", GRAPHS, _write_signed, True, 5),
    Family("other", OTHERS, _write_signed, True, 1),
)


def clear(place: Path) -> None:
    """Removes what the mutants left in a folder."""
    for left in place.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()
