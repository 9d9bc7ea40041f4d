"""Readers of image files in their standard formats: IDX (MNIST), CIFAR-10's binary version, and ``.npz`` arrays.

A file from elsewhere is untrusted. Nothing here unpickles; magic numbers, types, sizes and counts are checked before
memory is taken for them; a compressed file is read no further than its header says; and what is wrong is said with the
file's name, what was found and what was expected.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from ffebm_compiler.errors import FFEBMError, Problem

LARGEST = 1 << 30
"""No array of more bytes than this is read: an image set for these examples is far smaller."""

KNOWN = {
    "f68b3c2dcbeaaa9fbdd348bbdeb94873": "MNIST",
    "d53e105ee54ea40749a09fcbcd1e9432": "MNIST",
    "9fb629c4189551a2d022fa330f9573f3": "MNIST",
    "ec29112dd5afa0611ce80d1b7f02629c": "MNIST",
    "8d4fb7e6c68d591d4c3dfef9ec88bf0d": "Fashion-MNIST",
    "25c81989df183df01b3e8a0aad5dffbe": "Fashion-MNIST",
    "bef4ecab320f06d8554ea6380940ec79": "Fashion-MNIST",
    "bb300cfdad3c16e7a12a480ee83cd310": "Fashion-MNIST",
}
"""The published md5 of each archive of MNIST and of the set that goes by the same file names."""

CIFAR_RECORD = 1 + 3 * 32 * 32
"""A label, then 32 x 32 bytes each of red, green and blue."""


class DataError(FFEBMError, ValueError):
    """An image file that can't be used."""


def bad(path: Path, what: str, remedy: str) -> DataError:
    return DataError(Problem(f"file {path}", what, remedy))


def checksum(path: Path) -> str:
    """The md5 of a file: an identity to compare with the published one, not a protection against forgery."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


# --- IDX ---------------------------------------------------------------------------------------------------------


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The bytes of an IDX file, ``0 0 8 d`` then d sizes of four bytes, big end first, then the data.

    Args:
        path: the file, gzipped if its name ends in ``.gz``.
        dimensions: the d that is expected: 3 for images, 1 for labels.

    Raises:
        DataError: it is not such a file, or is cut short.
    """
    try:
        with _opened(path) as file:
            shape = _idx_header(path, file, dimensions)
            count = int(np.prod(shape, dtype=object))
            if not 0 < count <= LARGEST:
                raise bad(
                    path,
                    f"declares {' x '.join(map(str, shape))} values",
                    f"An image set here has between 1 and {LARGEST} bytes; get the file again.",
                )
            data = file.read(count + 1)
    except (gzip.BadGzipFile, EOFError, OSError, zlib.error) as failure:
        raise bad(
            path, f"can't be read: {failure}", "Get the file again; it is damaged, or not what its name says."
        ) from failure
    if len(data) != count:
        raise bad(
            path,
            f"holds {'more' if len(data) > count else 'fewer'} values than the {count} that its header declares",
            "Get the file again; it was cut short or is not an IDX file.",
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _idx_header(path: Path, file: BinaryIO, dimensions: int) -> tuple[int, ...]:
    magic = file.read(4)
    if magic != bytes((0, 0, 8, dimensions)):
        kind = {3: "images", 1: "labels"}.get(dimensions, "bytes")
        raise bad(
            path,
            f"starts with the bytes {magic.hex(' ') or '(none)'}",
            f"An IDX file of {kind} starts with 00 00 08 {dimensions:02x}. Is it still compressed, or a page of a "
            f"web site?",
        )
    sizes = file.read(4 * dimensions)
    if len(sizes) != 4 * dimensions:
        raise bad(path, "ends within its header", "Get the file again; it was cut short.")
    return struct.unpack(f">{dimensions}I", sizes)


# --- CIFAR-10 ----------------------------------------------------------------------------------------------------


def read_cifar(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) and labels (N,) of one file of CIFAR-10's binary version.

    Raises:
        DataError: its size is no multiple of a record's, or a label is above 9.
    """
    size = path.stat().st_size
    if size == 0 or size % CIFAR_RECORD or size > LARGEST:
        raise bad(
            path,
            f"has {size} bytes",
            f"CIFAR-10's binary files hold records of {CIFAR_RECORD} bytes, 10000 in each. Get the archive "
            f"cifar-10-binary.tar.gz again.",
        )
    records = np.fromfile(path, np.uint8).reshape(-1, CIFAR_RECORD)
    labels = records[:, 0]
    if labels.max() > 9:
        raise bad(
            path,
            f"has the label {labels.max()}",
            "CIFAR-10's labels are 0 to 9. Is this CIFAR-100, or a file cut from a larger one?",
        )
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


# --- npz ---------------------------------------------------------------------------------------------------------


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images ``x`` (N, height, width) or (N, height, width, 3), uint8, and labels ``y`` (N,), integers from 0.

    Raises:
        DataError: an array is missing, or is not of that shape and type.
    """
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as arrays:
            missing = [n for n in ("x", "y") if n not in arrays]
            if missing:
                raise bad(
                    path,
                    f"has no array {' and no array '.join(missing)}; it has {', '.join(arrays.files) or 'none'}",
                    "Save it by numpy.savez_compressed(path, x=images, y=labels).",
                )
            x, y = arrays["x"], arrays["y"]
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, zlib.error) as failure:
        if isinstance(failure, DataError):
            raise
        raise bad(
            path,
            f"can't be read: {failure}",
            "Save it by numpy.savez_compressed(path, x=images, y=labels), with plain arrays: objects are refused, "
            "as they would be unpickled.",
        ) from failure
    problems = list(_npz_problems(path, x, y))
    if problems:
        raise DataError(problems)
    return (x[:, None] if x.ndim == 3 else np.moveaxis(x, 3, 1)), y


def _check_sizes(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        total = sum(entry.file_size for entry in archive.infolist())
    if total > LARGEST:
        raise bad(path, f"unpacks to {total} bytes", f"At most {LARGEST} bytes are read; save fewer images.")


def _npz_problems(path: Path, x: np.ndarray, y: np.ndarray) -> Iterator[Problem]:
    where = f"file {path}"
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] != 3):
        yield Problem(
            where,
            f"x is {x.dtype} of shape {x.shape}",
            "It must be uint8, (N, height, width) or (N, height, width, 3).",
        )
    elif not (x.size and max(x.shape[1:3]) <= 32):
        yield Problem(where, f"x has the shape {x.shape}", "Give at least one image, of at most 32 x 32 pixels.")
    if not np.issubdtype(y.dtype, np.integer) or y.ndim != 1:
        yield Problem(where, f"y is {y.dtype} of shape {y.shape}", "It must hold one integer label for each image.")
    elif len(y) != len(x):
        yield Problem(where, f"has {len(x)} images and {len(y)} labels", "Give one label for each image.")
    elif len(y) and not (y.min() >= 0 and y.max() < 1000):
        yield Problem(
            where, f"has labels from {y.min()} to {y.max()}", "Number the classes from 0, at most 1000 of them."
        )
