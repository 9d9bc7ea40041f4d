"""What a study runs on: inputs, and targets where there are any.

An ``.npz`` file holds ``x`` (N, ...) and, for labelled data, ``y``: classes (N,) as whole numbers from 0, or real
numbers. Real x becomes float32; uint8 is taken as pixels, x / 255; other whole numbers stay (token ids).
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, Problem

LARGEST = 4 * 2**30
"""Bytes that a file may unpack to."""

HOW = "Save it by numpy.savez_compressed(path, x=inputs, y=labels)"


@dataclass(frozen=True)
class Samples:
    """Inputs of a model, and their targets.

    Attributes:
        inputs: one tensor for each argument of the model, samples first.
        targets: classes (N,), int64, or real numbers (N, ...); None where there are none.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def part(self, start: int, stop: int | None) -> Samples:
        """The samples from ``start`` to before ``stop``."""
        targets = None if self.targets is None else self.targets[start:stop]
        return Samples(tuple(x[start:stop] for x in self.inputs), targets)

    def batches(self, size: int) -> Iterator[Samples]:
        return (self.part(start, start + size) for start in range(0, len(self), size))

    def to(self, dtype: torch.dtype) -> Samples:
        """Real numbers in a precision; whole ones stay."""
        inputs = tuple(x.to(dtype) if x.is_floating_point() else x for x in self.inputs)
        targets = self.targets
        return Samples(inputs, targets.to(dtype) if targets is not None and targets.is_floating_point() else targets)

    @property
    def digest(self) -> str:
        tensors = {str(i): x for i, x in enumerate(self.inputs)}
        return digest_of(tensors if self.targets is None else {**tensors, "targets": self.targets})


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Names, types, shapes and values of tensors as 16 characters."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def samples_from(value: Any, where: str) -> Samples:
    """What a data factory returned: ``x`` or ``(x, y)``; x a tensor, an array, or a tuple of them.

    Raises:
        InputError: with everything that is wrong with it.
    """
    x, y = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, None)
    inputs = tuple(x) if isinstance(x, (tuple, list)) else (x,)
    InputError.raise_if(_array_problems(where, {f"input {i}": x for i, x in enumerate(inputs)}, y))
    return _checked(tuple(_input(torch.as_tensor(x)) for x in inputs), None if y is None else torch.as_tensor(y), where)


def _array_problems(where: str, inputs: Mapping[str, Any], y: Any) -> Iterator[Problem]:
    for name, value in ({**inputs} if y is None else {**inputs, "y": y}).items():
        if not isinstance(value, (Tensor, np.ndarray)):
            yield Problem(where, f"gave {name} as {type(value).__name__}", "Return (x, y): tensors or arrays.")
        elif isinstance(value, np.ndarray) and value.dtype.kind not in "biuf":
            yield Problem(where, f"gave {name} of type {value.dtype}", "Give real or whole numbers.")
    if not inputs:
        yield Problem(where, "gave no input", "Return (x, y): tensors or arrays.")


def load_npz(path: Path) -> Samples:
    """The samples in a file.

    Raises:
        InputError: with everything that is wrong with it.
    """
    where = f"data {path}"
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError.at(where, what, f"Name an .npz file. {HOW}.")
    x, y = _read(path, where)
    arrays = [a for a in (x, y) if a is not None]
    if not all(isinstance(a, np.ndarray) and a.dtype.kind in "biuf" for a in arrays):
        kinds = ", ".join(f"{n} is of type {getattr(a, 'dtype', type(a).__name__)}" for n, a in zip("xy", arrays))
        raise InputError.at(where, f"its {kinds}", f"{HOW}, both of real or whole numbers.")
    return _checked((_input(torch.from_numpy(x)),), None if y is None else torch.from_numpy(y), where)


def _read(path: Path, where: str) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        _check_size(path, where)
        with np.load(path, allow_pickle=False) as arrays:
            names = list(arrays.files)
            if "x" in names:
                return arrays["x"], arrays["y"] if "y" in names else None
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, zlib.error, AttributeError) as failure:
        if isinstance(failure, InputError):
            raise
        remedy = f"{HOW}, with plain arrays: objects are refused, as they would be unpickled."
        raise InputError.at(where, f"can't be read: {failure}", remedy) from failure
    raise InputError.at(where, f"has no array x; it has {', '.join(names[:8]) or 'none'}", f"{HOW}.")


def _check_size(path: Path, where: str) -> None:
    with zipfile.ZipFile(path) as archive:
        total = sum(entry.file_size for entry in archive.infolist())
    if total > LARGEST:
        raise InputError.at(where, f"unpacks to {total} bytes", f"At most {LARGEST} are read: save fewer samples.")


def _input(x: Tensor) -> Tensor:
    if x.dtype == torch.uint8:
        return x.float() / 255
    return x.float() if x.is_floating_point() else x.long()


def _checked(inputs: tuple[Tensor, ...], targets: Tensor | None, where: str) -> Samples:
    problems = [*_input_problems(inputs, where)]
    if targets is not None and not problems:
        problems = [*_target_problems(inputs[0], targets, where)]
    InputError.raise_if(problems)
    if targets is not None:
        targets = targets.float() if targets.is_floating_point() else targets.long()
    return Samples(inputs, targets)


def _input_problems(inputs: tuple[Tensor, ...], where: str) -> Iterator[Problem]:
    for i, x in enumerate(inputs):
        name = "x" if len(inputs) == 1 else f"input {i}"
        if x.ndim < 1 or not x.numel():
            yield Problem(where, f"{name} has the shape {tuple(x.shape)}", "Give at least one sample.")
        elif x.is_floating_point() and not bool(torch.isfinite(x).all()):
            bad = int((~torch.isfinite(x)).sum())
            yield Problem(where, f"{bad} of {x.numel()} values of {name} are NaN or infinite", "Clean the data first.")
    lengths = {len(x) for x in inputs if x.ndim}
    if len(lengths) > 1:
        yield Problem(where, f"its inputs have {', '.join(map(str, sorted(lengths)))} samples", "Give as many of each.")


def _target_problems(x: Tensor, y: Tensor, where: str) -> Iterator[Problem]:
    if y.ndim < 1 or len(y) != len(x):
        given = len(y) if y.ndim else "a single number"
        yield Problem(where, f"has {len(x)} samples in x, but y is {given}", "Give one target for each sample.")
    elif y.is_floating_point() and not bool(torch.isfinite(y).all()):
        yield Problem(where, "some values of y are NaN or infinite", "Clean the data first.")
    elif not y.is_floating_point() and int(y.min()) < 0:
        yield Problem(where, f"y has the class {int(y.min())}", "Number the classes from 0.")
