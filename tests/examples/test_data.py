"""Image sets: what a folder is taken for, how images are brought to 32 x 32 x 3, and the split."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from examples import data
from examples.data import CIFAR_FILES, MNIST_FILES, Images, as_32x32x3, load, split
from examples.formats import CIFAR_RECORD, KNOWN, DataError, checksum


def idx(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.tobytes()


def write_mnist(folder: Path, count: int = 12, labels: int | None = None, packed: bool = False) -> None:
    contents = np.full((count, 28, 28), 7, np.uint8), (np.arange(labels or count) % 10).astype(np.uint8)
    for name, content in zip(MNIST_FILES, contents, strict=True):
        (folder / f"{name}.gz" if packed else folder / name).write_bytes(
            gzip.compress(idx(content)) if packed else idx(content)
        )


def made(shape: tuple[int, ...], classes: int = 10) -> Images:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return Images("made", x, torch.arange(shape[0]) % classes, classes, "here")


def test_digits_need_no_files() -> None:
    images = load()
    assert images.x.shape == (1797, 1, 8, 8)
    assert images.x.dtype == torch.uint8
    assert int(images.x.max()) == 255
    assert sorted(set(images.y.tolist())) == list(range(10))


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_with_idx_files_is_read(tmp_path: Path, packed: bool, caplog: pytest.LogCaptureFixture) -> None:
    write_mnist(tmp_path, packed=packed)
    with caplog.at_level(logging.WARNING):
        images = load(tmp_path)
    assert images.x.shape == (12, 1, 28, 28)
    assert images.y.tolist() == [i % 10 for i in range(12)]
    assert images.name == "MNIST format"
    assert packed == ("checksums are not those" in caplog.text)


def test_published_checksums_name_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path, packed=True)
    monkeypatch.setattr(data, "KNOWN", {checksum(tmp_path / f"{n}.gz"): "MNIST" for n in MNIST_FILES})
    images = load(tmp_path)
    assert (images.name, images.source) == ("MNIST", "IDX files with the published checksums")
    assert all(len(md5) == 32 for md5 in KNOWN)


def test_counts_that_differ_are_an_error(tmp_path: Path) -> None:
    write_mnist(tmp_path, 12, 11)
    with pytest.raises(DataError, match="12 images, train-labels-idx1-ubyte 11 labels"):
        load(tmp_path)


def test_a_missing_companion_is_named(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / MNIST_FILES[1]).unlink()
    with pytest.raises(DataError, match="train-labels-idx1-ubyte"):
        load(tmp_path)


def test_a_folder_with_cifar_files_is_read_in_order(tmp_path: Path) -> None:
    for i, name in enumerate(CIFAR_FILES[:2]):
        (tmp_path / name).write_bytes((bytes([i]) + bytes(CIFAR_RECORD - 1)) * 3)
    images = load(tmp_path)
    assert images.x.shape == (6, 3, 32, 32)
    assert images.y.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("name", ["data_batch_1", "cifar-10-python.tar.gz"])
def test_pickled_cifar_is_refused_with_the_archive_to_get(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch sprung'\ntR.")
    with pytest.raises(DataError, match=r"pickles[\s\S]*cifar-10-binary.tar.gz"):
        load(tmp_path)


def test_an_npz_is_found_by_itself_or_in_its_folder(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=np.zeros((4, 28, 28), np.uint8), y=np.array([0, 1, 2, 11]))
    for where in (tmp_path, tmp_path / "mine.npz"):
        images = load(where)
        assert (images.name, len(images), images.classes) == ("mine", 4, 12)


def test_a_folder_without_images_says_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image set[\s\S]*data_batch_1.bin"):
        load(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 1, 28, 28), (2, 3, 32, 32), (2, 1, 20, 30)])
def test_every_image_becomes_32_by_32_in_three_channels(shape: tuple[int, ...]) -> None:
    images = made(shape)
    x = as_32x32x3(images).x
    assert x.shape == (2, 3, 32, 32)
    assert x.dtype == torch.uint8
    if shape[1:] == (1, 28, 28):
        assert torch.equal(x[:, 2, 2:30, 2:30], images.x[:, 0])
        assert int(x[:, :, :2].max()) == 0


def test_the_split_depends_on_the_generator_alone_and_shares_nothing() -> None:
    images = Images("made", torch.arange(100, dtype=torch.uint8).reshape(100, 1, 1, 1), torch.arange(100), 100, "here")
    one, same, other = (split(images, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(one.train.y, same.train.y)
    assert not torch.equal(one.train.y, other.train.y)
    assert sorted([*one.train.y.tolist(), *one.valid.y.tolist()]) == list(range(100))
    assert len(one.valid) == 20
    assert len(split(images, torch.Generator().manual_seed(0), limit=10).train) == 8


def test_pixels_are_normalised_by_the_training_images() -> None:
    parts = split(made((50, 1, 4, 4)), torch.Generator().manual_seed(0))
    x = parts.pixels(parts.train.x)
    assert float(x.mean()) == pytest.approx(0, abs=1e-5)
    assert float(x.std()) == pytest.approx(1, abs=1e-4)


def test_batches_are_whole_and_follow_the_generator() -> None:
    parts = split(made((50, 1, 4, 4)), torch.Generator().manual_seed(0))
    first = [y.tolist() for _, y in parts.training_batches(16, torch.Generator().manual_seed(3))]
    again = [y.tolist() for _, y in parts.training_batches(16, torch.Generator().manual_seed(3))]
    assert [len(b) for b in first] == [16, 16]
    assert first == again
    assert [len(y) for _, y in parts.training_batches(64, torch.Generator())] == [40]
    assert sum(len(y) for _, y in parts.validation_batches(3)) == 10


def test_one_image_is_too_few_to_split() -> None:
    with pytest.raises(DataError, match="at least two"):
        split(made((1, 1, 4, 4)), torch.Generator())
