"""Writes a bundle whole or not at all; the same contents give the same bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...errors import OptionError, Problem
from ...files import check_target, write_folder_whole, write_whole
from ...rules import FORMS, Forms
from ..format.archive import packed
from ..format.contents import Contents, graph_file
from ..format.cross_checks import reference_problems
from ..format.graphs import PARAMETERS, placed, read_graph
from ..format.json_text import dump
from ..format.manifest import FORMAT, MANIFEST, is_file_name, manifest_of
from ..format.program_document import program_document
from ..format.schemas import PROGRAM as PROGRAM_SCHEMA
from ..format.schemas import schema_problems
from ..format.tensors import layout_of, written_tensors
from ..format.values import NotPlainError
from .own_rules import own_rule_problems

PROGRAM, GAINS, SAMPLES = "program.json", "gains.safetensors", "samples.safetensors"
OURS = (MANIFEST, PROGRAM, PARAMETERS, GAINS, SAMPLES)
SUFFIX = ".ffebm"
_REPORT = "Report this model: a bundle of it would not be read."


def write_bundle(
    contents: Contents, path: str | os.PathLike[str], overwrite: bool = False, known: Forms = FORMS
) -> Path:
    """Writes a bundle, as one file where the path ends in ``.ffebm`` and as a folder otherwise.

    Args:
        overwrite: whether an earlier bundle may be replaced.
        known: the operations and potentials that are made again from their names; see :mod:`.own_rules`.

    Raises:
        OptionError: the contents have no form in a bundle, or the place can't be written; what was there stays.
    """
    target = check_bundle_target(path, overwrite)
    files = bundle_files(contents, known)
    if is_archive(target):
        try:
            return write_whole(target, packed(files), "bundle")
        except OptionError:  # which are of ValueError's kind too
            raise
        except ValueError as failure:
            remedy = f"Write a folder: a path that does not end in {SUFFIX}."
            raise OptionError.at(f"bundle {target}", str(failure), remedy) from failure
    return write_folder_whole(target, lambda folder: _fill(folder, files), "a bundle", MANIFEST, overwrite)


def is_archive(path: Path) -> bool:
    return path.suffix == SUFFIX


def check_bundle_target(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """The path, after making sure before any work that a bundle may stand there.

    Raises:
        OptionError: something is there that is not to be replaced.
    """
    target = Path(path)
    if is_archive(target):
        target = check_target(target, "bundle")
    elif not target.exists() or not target.is_dir() or not any(target.iterdir()) or _is_bundle(target):
        return target  # what else is in the way, write_folder_whole says
    else:
        what = "is a folder that holds something else than a bundle"
        raise OptionError.at(f"bundle {target}", what, "Choose another; this one is left as it is.")
    if target.exists() and not overwrite:
        remedy = "Choose another name, or let it be replaced: overwrite=True (--force on the command line)."
        raise OptionError.at(f"bundle {target}", "exists", remedy)
    return target


def _is_bundle(folder: Path) -> bool:
    """By how its manifest begins."""
    manifest, start = folder / MANIFEST, dump({"format": FORMAT})[:-3]
    if not manifest.is_file():
        return False
    with manifest.open("rb") as file:
        return file.read(len(start)) == start


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


# --- what is written ------------------------------------------------------------------------------------------


def bundle_files(contents: Contents, known: Forms = FORMS) -> dict[str, bytes]:
    """Every file of a bundle, the manifest first.

    Raises:
        OptionError: with everything in the contents that has no form in a bundle.
    """
    problems = [*own_rule_problems(contents, known), *_name_problems(contents)]
    OptionError.raise_if(problems)
    try:
        document = program_document(contents)
        wrong = [*schema_problems(document, PROGRAM_SCHEMA), *reference_problems(contents)]
        tensors = {} if wrong else _tensor_files(contents)
    except (NotPlainError, ValueError) as failure:
        raise OptionError.at(f"bundle of {contents.name}", str(failure), _REPORT) from failure
    if wrong:
        raise OptionError(Problem(f"bundle of {contents.name}, {PROGRAM}", w, _REPORT) for w in wrong)
    files = {PROGRAM: dump(document), **tensors}
    files |= {**_graph_files(contents, files[PARAMETERS]), **contents.files}
    manifest = dump(manifest_of(contents.name, contents.options, files))
    return {MANIFEST: manifest, **dict(sorted(files.items()))}


def _graph_files(contents: Contents, parameters: bytes) -> dict[str, bytes]:
    """The graphs, their weights placed in that file; each passes what a reader asks of it."""
    layout, files, problems = layout_of(parameters), dict[str, bytes](), list[Problem]()
    for part, interface in contents.interfaces:
        file = graph_file(part, interface.kind)
        files[file] = placed(contents.graphs[file], interface, layout)
        try:
            read_graph(files[file], interface, layout)
        except ValueError as failure:
            problems.append(Problem(f"bundle of {contents.name}, {file}", str(failure), _REPORT))
    OptionError.raise_if(problems)
    return files


def _tensor_files(contents: Contents) -> dict[str, bytes]:
    directions = [d for gains in contents.gains.values() for d in gains.directions.values()]
    return {
        PARAMETERS: written_tensors(contents.tensors),
        GAINS: written_tensors({str(i): d for i, d in enumerate(directions)}),
        SAMPLES: written_tensors(contents.samples),
    }


def _name_problems(contents: Contents) -> Iterator[Problem]:
    for name in contents.files:
        if not is_file_name(name) or name in OURS or name in contents.graphs:
            what = "is no name for a file of a bundle, or that of another file in it"
            yield Problem(f"file {name!r} of the bundle", what, "Choose a name of letters, digits, '.', '_' and '-'.")
