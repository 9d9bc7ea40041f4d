"""What became of a bundle that was tampered with: refused, or read for what it is, all of it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from benchmarks.mutations import Mutant
from ffebm_compiler import InputError
from ffebm_compiler.bundle import Contents, read_bundle
from ffebm_compiler.bundle.format.manifest import MANIFEST
from ffebm_compiler.bundle.read.checking import checked_files
from ffebm_compiler.bundle.write.writing import bundle_files


class Verdict(Enum):
    """The first three are right."""

    REFUSED = "refused"
    SAME = "read the same"
    ANOTHER = "read as the other bundle that it is"
    SILENT = "accepted although damaged"
    OTHER_CONTENTS = "accepted with other contents than it has"
    CRASHED = "crashed"
    HUNG = "hung"

    @property
    def right(self) -> bool:
        return self in (Verdict.REFUSED, Verdict.SAME, Verdict.ANOTHER)


def judged(
    mutant: Mutant, original: Mapping[str, bytes], consume: Callable[[Path], Any] = read_bundle
) -> tuple[Verdict, str]:
    """The verdict, and what was said.

    Args:
        original: the files that the mutant was made from.
        consume: what is done with a bundle besides reading it; it may raise an InputError.
    """
    try:
        contents = read_bundle(mutant.path)
        found = _of_contents(mutant, contents, original)
        if consume is not read_bundle:
            consume(mutant.path)
        return found, ""
    except InputError as failure:
        return Verdict.REFUSED, str(failure)
    except Exception:  # anything else than the error of bad input is a mistake of the reader's
        return Verdict.CRASHED, traceback.format_exc()


def _of_contents(mutant: Mutant, contents: Contents, original: Mapping[str, bytes]) -> Verdict:
    """Of what was accepted: written again it must be what was read, or something in it was not read."""
    if not mutant.signed:
        return Verdict.SILENT
    checked = checked_files(mutant.path)
    written = bundle_files(contents)
    manifest = json.loads(written.pop(MANIFEST))
    if written != checked.files or _said(manifest) != _said(checked.manifest):
        return Verdict.OTHER_CONTENTS
    same = written == {n: c for n, c in original.items() if n != MANIFEST}
    return Verdict.SAME if same and _said(manifest) == _said(json.loads(original[MANIFEST])) else Verdict.ANOTHER


def _said(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """All but the libraries that made it, which are those of the writer."""
    return {k: v for k, v in manifest.items() if k not in ("libraries", "sha256")}
