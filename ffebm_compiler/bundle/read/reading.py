"""Reads a bundle that anyone may have written: checked from the outside in, and nothing in it is executed.

names and sizes -> manifest -> checksums -> schemas -> tensors -> program -> graphs -> what they say of each other

Every stage reports all that it finds; the next begins only where there is nothing to report, and trusts what it reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from torch import Tensor

from ...errors import InputError
from ...rules import FORMS, Forms
from ..format.contents import Contents, Mode, graph_file
from ..format.cross_checks import reference_problems
from ..format.graphs import PARAMETERS, read_graph
from ..format.json_text import parse
from ..format.program_document import SAME, Reader, program_document, read_gains, read_refused
from ..format.schemas import PROGRAM as PROGRAM_SCHEMA
from ..format.schemas import schema_problems
from ..format.tensors import layout_of, read_tensors
from ..write.writing import GAINS, OURS, PROGRAM, SAMPLES
from .checking import REMEDY, Checked, Found, checked_files, refuse


def read_bundle(path: str | os.PathLike[str], known: Forms = FORMS) -> Contents:
    """The contents of a bundle, after every check that does not compute with it.

    Args:
        path: the folder or the ``.ffebm`` file.
        known: the operations and potentials that may be made again from their names.

    Raises:
        InputError: there is no bundle, or it is not as a bundle must be; names the file in it and what is wrong.
    """
    return contents_of(checked_files(path), path, known)


def contents_of(checked: Checked, path: str | os.PathLike[str], known: Forms = FORMS) -> Contents:
    """The contents of a bundle that is whole; the path is for errors.

    Raises:
        InputError: they are not as a bundle's must be.
    """
    return _Reading(os.fspath(path), known).contents(checked)


# --- the contents ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    """Turns checked files into contents.

    Attributes:
        path: the bundle's, for errors.
        known: what may be made again from its name.
    """

    path: str
    known: Forms

    def contents(self, checked: Checked) -> Contents:
        document = self._document(checked.files[PROGRAM])
        tensors = self._tensors(checked.files)
        reader = Reader(self.known)
        modes, execution = self._modes(document, reader), self._execution(document["execution"], reader)
        self._refuse((PROGRAM, p) for p in reader.problems)
        contents = self._assembled(document, checked, tensors, modes, execution)
        self._refuse((PROGRAM, p) for p in reference_problems(contents))
        return contents

    def _refuse(self, found: Iterable[Found]) -> None:
        refuse(f"bundle {self.path}", found)

    def _fail(self, file: str, failure: Exception) -> NoReturn:
        what = str(failure) or type(failure).__name__
        raise InputError.at(f"bundle {self.path}, {file}", what, REMEDY) from failure

    def _document(self, content: bytes) -> dict[str, Any]:
        try:
            document: dict[str, Any] = parse(content)
        except ValueError as failure:
            self._fail(PROGRAM, failure)
        self._refuse((PROGRAM, p) for p in schema_problems(document, PROGRAM_SCHEMA))
        return document

    def _tensors(self, files: Mapping[str, bytes]) -> dict[str, dict[str, Tensor]]:
        found: dict[str, dict[str, Tensor]] = {}
        problems: list[Found] = []
        for name in (PARAMETERS, GAINS, SAMPLES):
            try:
                found[name] = read_tensors(files[name])
            except ValueError as failure:
                problems.append((name, str(failure)))
        self._refuse(problems)
        return found

    def _modes(self, document: Mapping[str, Any], reader: Reader) -> dict[bool, Mode]:
        evaluation = reader.mode(document["modes"]["evaluation"])
        training = document["modes"]["training"]
        return {False: evaluation, True: evaluation if training == SAME else reader.mode(training)}

    def _execution(self, document: Mapping[str, Any], reader: Reader) -> dict[str, Any]:
        estimator = document["estimator"]
        options = reader.options(estimator["options"], "the estimator")
        return {**document, "estimator": {"name": estimator["name"], "options": options}}

    def _assembled(
        self,
        document: Mapping[str, Any],
        checked: Checked,
        tensors: Mapping[str, Mapping[str, Tensor]],
        modes: Mapping[bool, Mode],
        execution: Mapping[str, Any],
    ) -> Contents:
        self._refuse(_naming_problems(document, tensors))
        contents = Contents(
            name=document["model"],
            training=document["training"],
            modes=modes,
            tensors={path: tensors[PARAMETERS][path] for path in document["tensors"]},
            parameters=tuple(document["parameters"]),
            execution=execution,
            frozen=tuple(document["frozen"]),
            aliases=dict(document["aliases"]),
            hidden=tuple(document["hidden"]),
            gains=read_gains(document["gains"], tensors[GAINS]),
            refused=read_refused(document["refused"]),
            options=checked.manifest["options"],
            samples=tensors[SAMPLES],
        )
        contents = replace(contents, graphs=self._graphs(contents, checked.files))
        if program_document(contents) != document or checked.manifest["model"] != contents.name:
            self._refuse([(PROGRAM, "says something that is not read")])
        others = {n: c for n, c in checked.files.items() if n not in (*OURS, *contents.graphs)}
        self._refuse((n, "is the graph of no part") for n in others if n.endswith(".onnx"))
        return replace(contents, files=others)

    def _graphs(self, contents: Contents, files: Mapping[str, bytes]) -> dict[str, bytes]:
        layout = layout_of(files[PARAMETERS])
        found: dict[str, bytes] = {}
        problems: list[Found] = []
        for part, interface in contents.interfaces:
            file = graph_file(part, interface.kind)
            if file not in files:
                problems.append((file, "is missing"))
                continue
            try:
                found[file] = read_graph(files[file], interface, layout)
            except ValueError as failure:
                problems += [(file, line) for line in str(failure).splitlines()]
        self._refuse(problems)
        return found


def _naming_problems(document: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> Iterator[Found]:
    """Tensors that are listed and not there, or there and not listed."""
    listed = document["tensors"]
    if len(set(listed)) != len(listed):
        yield PROGRAM, "lists a tensor twice"
    yield from ((PARAMETERS, f"has no tensor {p}") for p in listed if p not in tensors[PARAMETERS])
    yield from (
        (PARAMETERS, f"has a tensor {p}, which is not listed") for p in tensors[PARAMETERS].keys() - set(listed)
    )
    named = [d["tensor"] for g in document["gains"].values() for d in g["directions"]]
    if sorted(named) != sorted(tensors[GAINS]):
        yield GAINS, "has other tensors than the directions of the gains"


__all__ = ["Checked", "checked_files", "contents_of", "read_bundle"]
