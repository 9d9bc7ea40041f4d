"""Image sets for the examples and benchmarks, as uint8 tensors, with a reproducible split.

scikit-learn's digits need no download; MNIST (and what shares its format), CIFAR-10 and ``.npz`` files are read from
where ``--data`` points (see :mod:`examples.formats`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ffebm_compiler.errors import Problem

from .formats import KNOWN, DataError, bad, checksum, read_cifar, read_idx, read_npz

logger = logging.getLogger(__name__)

MNIST_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
CIFAR_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
FORMATS = (
    f"MNIST: {MNIST_FILES[0]} and {MNIST_FILES[1]}, as they are or .gz.\n"
    "CIFAR-10: data_batch_1.bin ... of cifar-10-binary.tar.gz, unpacked. Any other set: one .npz file with "
    "uint8 images x and labels y."
)


@dataclass(frozen=True)
class Images:
    """Images and their labels.

    Attributes:
        name: ``"digits"``, ``"MNIST"``, ...
        x: (N, channels, height, width), uint8.
        y: (N,), int64.
        classes: the number of classes.
        source: where they came from, and whether the files are the published ones.
    """

    name: str
    x: Tensor
    y: Tensor
    classes: int
    source: str

    def __len__(self) -> int:
        return len(self.y)

    def select(self, index: Tensor) -> Images:
        return replace(self, x=self.x[index], y=self.y[index])


@dataclass(frozen=True)
class Split:
    """Training and validation images, and the pixel statistics of the training ones."""

    train: Images
    valid: Images
    mean: float
    std: float

    def pixels(self, x: Tensor) -> Tensor:
        """uint8 pixels as the network's input: zero mean and unit variance over the training images."""
        return (x.float() - self.mean) / self.std

    def training_batches(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled batches of one epoch; a last one of fewer images is left out, for batch norm's sake."""
        order = torch.randperm(len(self.train), generator=generator)
        for index in order.split(size):
            if len(index) == size or len(order) < size:
                yield self.pixels(self.train.x[index]), self.train.y[index]

    def validation_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in zip(self.valid.x.split(size), self.valid.y.split(size), strict=True):
            yield self.pixels(x), y


def load(where: Path | None = None) -> Images:
    """The digits, or the image set at ``where``.

    Raises:
        DataError: there is no image set, or its files are not what they should be.
    """
    if where is None:
        return digits()
    if not where.exists():
        raise DataError(
            Problem("option --data", f"{where} does not exist", f"Give a folder or an .npz file. {FORMATS}")
        )
    if where.is_file():
        return _npz(where)
    return _folder(where)


def digits() -> Images:
    """scikit-learn's 1797 handwritten digits of 8 x 8 pixels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    return Images("digits", x, torch.from_numpy(bunch.target).long(), 10, "scikit-learn's load_digits")


def _folder(where: Path) -> Images:
    found = {p.name: p for p in where.iterdir()} if where.is_dir() else {}
    if any(n in found or f"{n}.gz" in found for n in MNIST_FILES):
        return _mnist(where)
    if any(n in found for n in CIFAR_FILES):
        return _cifar([found[n] for n in CIFAR_FILES if n in found])
    if "cifar-10-batches-bin" in found:
        return _folder(found["cifar-10-batches-bin"])
    if any(n in found for n in ("data_batch_1", "cifar-10-batches-py", "cifar-10-python.tar.gz")):
        raise bad(
            where,
            "is CIFAR-10's python version, which consists of pickles",
            "A pickle runs code when it is opened, so it is refused. Get the binary version, "
            "cifar-10-binary.tar.gz, and unpack it here.",
        )
    if "cifar-10-binary.tar.gz" in found:
        raise bad(
            found["cifar-10-binary.tar.gz"], "is still packed", "Unpack it there: tar xzf cifar-10-binary.tar.gz."
        )
    arrays = [p for p in found.values() if p.suffix == ".npz"]
    if len(arrays) == 1:
        return _npz(arrays[0])
    raise DataError(
        Problem(
            "option --data",
            f"{where} holds no image set that is known here"
            if not arrays
            else f"{where} holds {len(arrays)} .npz files",
            f"Name one. {FORMATS}",
        )
    )


def _mnist(where: Path) -> Images:
    paths = []
    for name in MNIST_FILES:
        present = [p for p in (where / name, where / f"{name}.gz") if p.is_file()]
        if not present:
            raise bad(
                where / name, "is missing, its companion is there", f"Put {' and '.join(MNIST_FILES)} into one folder."
            )
        paths.append(present[0])
    x, y = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if len(x) != len(y):
        raise bad(
            paths[0], f"has {len(x)} images, {paths[1].name} {len(y)} labels", "Take both files from one archive."
        )
    if max(x.shape[1:]) > 32 or y.max() > 99:
        raise bad(
            paths[0],
            f"has images of {x.shape[1]} x {x.shape[2]} and labels up to {y.max()}",
            "At most 32 x 32 pixels and 100 classes are read.",
        )
    name, source = _identify(paths)
    return Images(
        name,
        torch.from_numpy(x.copy())[:, None],
        torch.from_numpy(y.astype(np.int64)),
        max(10, int(y.max()) + 1),
        source,
    )


def _identify(paths: list[Path]) -> tuple[str, str]:
    """The name of a set in IDX files, by the published checksums of its archives."""
    names = {KNOWN.get(checksum(p)) for p in paths if p.suffix == ".gz"}
    if len(names) == 1 and None not in names and all(p.suffix == ".gz" for p in paths):
        (name,) = names
        return str(name), "IDX files with the published checksums"
    if names:
        logger.warning(
            "%s: the checksums are not those of the published MNIST archives; its structure is sound, so it is used.",
            paths[0].parent,
        )
    return "MNIST format", "IDX files whose checksums are not known"


def _cifar(paths: list[Path]) -> Images:
    parts = [read_cifar(p) for p in paths]
    x, y = np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])
    return Images(
        "CIFAR-10",
        torch.from_numpy(x),
        torch.from_numpy(y.astype(np.int64)),
        10,
        f"{len(paths)} files of CIFAR-10's binary version",
    )


def _npz(path: Path) -> Images:
    x, y = read_npz(path)
    return Images(
        path.stem,
        torch.from_numpy(np.ascontiguousarray(x)),
        torch.from_numpy(y.astype(np.int64)),
        max(10, int(y.max()) + 1),
        f"the arrays of {path.name}",
    )


def as_32x32x3(images: Images) -> Images:
    """Images of 32 x 32 pixels in three channels: small ones (up to 16 x 16) are enlarged, others get a margin; grey is
    repeated.
    """
    x, (height, width) = images.x, images.x.shape[2:]
    if max(height, width) <= 16:
        x = F.interpolate(x.float(), size=(32, 32), mode="bilinear", align_corners=False).round().to(torch.uint8)
    elif (height, width) != (32, 32):
        top, left = (32 - height) // 2, (32 - width) // 2
        x = F.pad(x, (left, 32 - width - left, top, 32 - height - top))
    return replace(images, x=x.expand(-1, 3, -1, -1))


def split(images: Images, generator: torch.Generator, fraction: float = 0.2, limit: int | None = None) -> Split:
    """Training and validation images, drawn by ``generator``.

    Args:
        fraction: the share of the validation images.
        limit: use at most so many images in all.
    """
    order = torch.randperm(len(images), generator=generator)[:limit]
    held = max(1, round(fraction * len(order)))
    if len(order) - held < 1:
        raise DataError(
            Problem(
                f"data {images.name}",
                f"has {len(order)} images",
                "Give at least two, one to train on and one to validate with.",
            )
        )
    train, valid = images.select(order[held:]), images.select(order[:held])
    pixels = train.x.float()
    return Split(train, valid, float(pixels.mean()), max(float(pixels.std()), 1.0))
