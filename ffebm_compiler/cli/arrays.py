"""Arrays in files, for the commands that run bundles: ``.npy`` in, ``.npy`` or ``.npz`` out; nothing is unpickled."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import FFEBMError, InputError, OptionError, Problem
from ..files import check_target, write_whole

HOW = "Save an array by numpy.save(path, array)."
_KINDS = "biuf"
"""Truth values, whole numbers and real numbers, as numpy letters them."""


def read_array(path: Path, where: str) -> Tensor:
    """The array of a ``.npy`` file.

    Raises:
        InputError: it is missing, no such file, or holds what no model takes.
    """
    if not path.is_file():
        raise InputError.at(where, "is a folder" if path.is_dir() else "does not exist", HOW)
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as failure:  # of many kinds, by what is wrong with the file
        why = " ".join(str(failure).split())[:200]
        raise InputError.at(where, f"can't be read as an array: {why}", HOW) from failure
    if not isinstance(array, np.ndarray):
        array.close()
        raise InputError.at(where, "holds several arrays (.npz)", "Save each by numpy.save in a file of its own.")
    if array.dtype.kind not in _KINDS or array.dtype.itemsize > 8:
        what = f"holds {array.dtype}"
        raise InputError.at(where, what, "Save truth values, whole numbers or real numbers of at most 64 bits.")
    return torch.from_numpy(np.ascontiguousarray(array.astype(_held(array.dtype), copy=False)))


def _held(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in this machine's byte order; whole numbers that torch has no type for become int64."""
    native = dtype.newbyteorder("=")
    return np.dtype("int64") if native.kind == "u" and native.itemsize > 1 else native


def read_inputs(
    given: Sequence[str], precision: torch.dtype | None = None
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The arguments of ``--input``, ``FILE`` or ``NAME=FILE``, as positional and named ones.

    Raises:
        InputError: with every file that can't be used.
    """
    positional, named, problems = list[Tensor](), dict[str, Tensor](), list[Problem]()
    for text in given:
        name, path = _named(text)
        try:
            value = in_precision(read_array(Path(path), f"input {path}"), precision)
        except FFEBMError as failure:
            problems += failure.problems
            continue
        if name in named:
            problems.append(Problem(f"input {name}", "is given twice", "Give each input once."))
        elif name is None:
            positional.append(value)
        else:
            named[name] = value
    InputError.raise_if(problems)
    return tuple(positional), named


def precision_of(network: nn.Module) -> torch.dtype | None:
    """Of the model's first weights of real numbers; None where it has none."""
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), None)


def in_precision(value: Tensor, precision: torch.dtype | None) -> Tensor:
    """Real numbers as the model has them: numpy's are of double precision."""
    return value.to(precision) if precision is not None and value.is_floating_point() else value


def _named(text: str) -> tuple[str | None, str]:
    """``NAME=FILE`` apart; a file may have ``=`` in its own name."""
    name, equals, path = text.partition("=")
    is_file = not equals or "/" in name or "\\" in name or Path(text).is_file()
    return (None, text) if is_file else (name, path)


# --- results ----------------------------------------------------------------------------------------------


def named_results(value: Any, name: str = "output") -> dict[str, Tensor]:
    """Every tensor of a result: ``output``, ``output.logits``, ``output.0``."""
    return dict(_results(value, name))


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in a model's result, whatever holds them."""
    return [tensor for _, tensor in _results(value, "")]


def _results(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _results(inner, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from _results(inner, f"{name}.{i}")


def check_results_file(path: Path, replace: bool = True) -> None:
    """Makes sure before the work that results can go there.

    Raises:
        OptionError: they can't.
    """
    if path.suffix not in (".npy", ".npz"):
        what = f"ends in {path.suffix!r}" if path.suffix else "has no ending"
        raise OptionError.at(f"output {path}", what, "End it in .npy for one result, or .npz for several.")
    check_target(path, "output")


def write_results(path: Path, results: Mapping[str, Tensor]) -> Path:
    """Writes one result to a ``.npy`` file, or any number by name to a ``.npz`` file.

    Raises:
        OptionError: a ``.npy`` file is to hold several, or the file can't be written.
    """
    arrays = {n: _as_array(t) for n, t in results.items()}
    buffer = io.BytesIO()
    if path.suffix == ".npz":
        _write_npz(buffer, arrays)
        return write_whole(path, buffer.getvalue(), "output")
    if len(arrays) != 1:
        what = f"can hold one array, the model gives {', '.join(arrays) or 'none'}"
        raise OptionError.at(f"output {path}", what, f"Name it {path.with_suffix('.npz').name}.")
    np.save(buffer, next(iter(arrays.values())), allow_pickle=False)
    return write_whole(path, buffer.getvalue(), "output")


def _write_npz(file: io.BytesIO, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """As numpy.savez does, with fixed dates: the same results give the same bytes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), member.getvalue())


def _as_array(value: Tensor) -> np.ndarray[Any, Any]:
    held = value.detach().cpu()
    array: np.ndarray[Any, Any] = (held.float() if held.dtype == torch.bfloat16 else held).numpy()
    return array
