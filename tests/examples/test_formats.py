"""Image files in their standard formats, sound ones and broken ones."""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from examples.formats import CIFAR_RECORD, LARGEST, DataError, read_cifar, read_idx, read_npz


def idx(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def images(n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)


@pytest.mark.parametrize("name", ["x", "x.gz"])
def test_idx_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(idx(images())) if name.endswith(".gz") else idx(images()))
    assert np.array_equal(read_idx(path, 3), images())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "(none)"),
        (b"<!DOCTYPE html>", "3c 21 44 4f"),
        (idx(images())[:9], "ends within its header"),
        (idx(images())[:-1], "holds fewer values"),
        (idx(images()) + b"0", "holds more values"),
        (idx(np.zeros(3, np.uint8)), "00 00 08 01"),
        (bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1), "declares"),
        (bytes((0, 0, 8, 3)) + struct.pack(">3I", 0, 28, 28), "declares"),
    ],
)
def test_a_broken_idx_file_is_named_with_what_is_wrong(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(path, 3)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_damaged_gz_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    whole = gzip.compress(idx(images()))
    for content in (whole[: len(whole) // 2], whole[:-8] + bytes(8), b"not gzip"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="can't be read"):
            read_idx(path, 3)


def test_a_gz_is_unpacked_no_further_than_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((1, 28, 28), np.uint8)) + bytes(50_000_000)))
    with pytest.raises(DataError, match="more values"):
        read_idx(path, 3)


def test_cifar_is_read_as_it_was_written(tmp_path: Path) -> None:
    records = np.random.default_rng(0).integers(0, 256, (4, CIFAR_RECORD), dtype=np.uint8)
    records[:, 0] = [0, 9, 3, 5]
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(records.tobytes())
    x, y = read_cifar(path)
    assert x.shape == (4, 3, 32, 32)
    assert list(y) == [0, 9, 3, 5]
    assert x[2, 1, 0, 7] == records[2, 1 + 1024 + 7]  # green, first row


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "0 bytes"), (bytes(CIFAR_RECORD - 1), "3072 bytes"), (b"\x0a" + bytes(3072), "label 10")],
)
def test_a_broken_cifar_file_is_named_with_what_is_wrong(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_cifar(path)


@pytest.mark.parametrize("shape", [(5, 28, 28), (5, 32, 32, 3)])
def test_npz_gives_images_with_channels_first(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", x=x, y=np.arange(5))
    read, labels = read_npz(tmp_path / "a.npz")
    assert read.shape == ((5, 1, 28, 28) if len(shape) == 3 else (5, 3, 32, 32))
    assert read[4, -1, 2, 6] == (x[4, 2, 6] if len(shape) == 3 else x[4, 2, 6, 2])
    assert list(labels) == [0, 1, 2, 3, 4]


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


def test_an_npz_with_objects_is_refused_unopened(tmp_path: Path) -> None:
    trap = np.empty(1, object)
    trap[0] = Trap(tmp_path / "sprung")
    np.savez(tmp_path / "a.npz", x=images(1), y=trap)
    with pytest.raises(DataError, match="objects are refused"):
        read_npz(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(DataError, match="can't be read"):
        read_npz(tmp_path / "b.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (dict(x=images()), "no array y"),
        (dict(a=images()), "no array x and no array y"),
        (dict(x=images().astype(np.float32), y=np.zeros(3, int)), "x is float32"),
        (dict(x=images()[..., None], y=np.zeros(3, int)), "of shape"),
        (dict(x=np.zeros((2, 64, 64), np.uint8), y=np.zeros(2, int)), "at most 32 x 32"),
        (dict(x=images(), y=np.zeros(2, int)), "3 images and 2 labels"),
        (dict(x=images(), y=np.zeros(3)), "y is float64"),
        (dict(x=images(), y=np.array([0, -1, 2])), "labels from -1"),
    ],
)
def test_a_wrong_npz_is_named_with_what_is_wrong(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError) as caught:
        read_npz(tmp_path / "a.npz")
    assert said in str(caught.value)


def test_all_that_is_wrong_with_an_npz_is_said_at_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=images().astype(float), y=np.zeros(3))
    with pytest.raises(DataError) as caught:
        read_npz(tmp_path / "a.npz")
    assert len(caught.value.problems) == 2


def test_an_npz_that_unpacks_to_too_much_is_refused_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LARGEST >= 50000 * 3072  # CIFAR-10 fits
    monkeypatch.setattr("examples.formats.LARGEST", 1000)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((100, 28, 28), np.uint8), y=np.zeros(100, int))
    with pytest.raises(DataError, match="unpacks to"):
        read_npz(tmp_path / "a.npz")
