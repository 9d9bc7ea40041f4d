"""Data files and factories: what they may hold, and one clear error for what they may not."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ffebm_compiler.errors import InputError
from ffebm_compiler.study import Samples, load_npz, samples_from
from ffebm_compiler.study import samples as module


def saved(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


X = np.arange(12.0).reshape(4, 3)


def test_real_inputs_and_classes(tmp_path: Path) -> None:
    found = load_npz(saved(tmp_path, x=X, y=np.array([0, 1, 2, 1], dtype=np.int32)))
    assert (found.inputs[0].dtype, found.targets.dtype) == (torch.float32, torch.int64)
    assert found.inputs[0].tolist() == X.tolist()
    assert found.targets.tolist() == [0, 1, 2, 1]


def test_pixels_become_fractions_and_tokens_stay(tmp_path: Path) -> None:
    assert load_npz(saved(tmp_path, x=np.array([[0, 51, 255]], dtype=np.uint8))).inputs[0].tolist() == [
        pytest.approx([0, 0.2, 1])
    ]
    assert load_npz(saved(tmp_path, x=np.array([[3, 7]], dtype=np.int16))).inputs[0].dtype == torch.int64


def test_targets_may_be_missing_or_real(tmp_path: Path) -> None:
    assert load_npz(saved(tmp_path, x=X)).targets is None
    assert load_npz(saved(tmp_path, x=X, y=X[:, :1])).targets.dtype == torch.float32


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"images": X}, "has no array x; it has images"),
        ({"x": X, "y": np.arange(3)}, "has 4 samples in x, but y is 3"),
        ({"x": X, "y": np.array(3)}, "y is a single number"),
        ({"x": X[:0]}, "x has the shape (0, 3)"),
        ({"x": np.array(1.0)}, "x has the shape ()"),
        ({"x": np.where(X == 5, np.nan, X)}, "1 of 12 values of x are NaN or infinite"),
        ({"x": X, "y": np.array([0.0, np.inf, 0, 0])}, "some values of y are NaN"),
        ({"x": X, "y": np.array([0, -1, 0, 0])}, "y has the class -1"),
        ({"x": X.astype(complex)}, "complex"),
        ({"x": X.astype(str)}, "x is of type <U"),
        ({"x": np.array([{}, {}], dtype=object)}, "objects are refused"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, arrays: dict[str, Any], what: str) -> None:
    path = saved(tmp_path, **arrays)
    with pytest.raises(InputError) as raised:
        load_npz(path)
    (problem,) = raised.value.problems
    assert problem.where == f"data {path}"
    assert what in str(problem)


def test_what_is_no_npz_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("x, y")
    np.save(tmp_path / "array.npy", X)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("x.npy", b"no array")
    for name in ("text.npz", "array.npz", "zip.npz"):
        with pytest.raises(InputError, match=r"can't be read|no array x|its x is"):
            load_npz(tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        load_npz(tmp_path / "none.npz")
    with pytest.raises(InputError, match="is a folder"):
        load_npz(tmp_path)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 1000)
    np.savez_compressed(tmp_path / "big.npz", x=np.zeros((1000, 10)))
    with pytest.raises(InputError, match="unpacks to 80128 bytes"):
        load_npz(tmp_path / "big.npz")


def test_a_factory_may_give_tensors_arrays_and_several_inputs() -> None:
    x = torch.randn(4, 3, dtype=torch.float64)
    found = samples_from(((x, X), np.array([0, 1, 0, 1])), "data 'd:make'")
    assert [i.dtype for i in found.inputs] == [torch.float32] * 2
    assert len(found) == 4
    assert samples_from(x, "d").targets is None


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (None, "gave input 0 as NoneType"),
        ((X.tolist(), [1, 2]), "gave input 0 as list"),
        ((X, "labels"), "gave y as str"),
        (((X, X[:2]), np.arange(4)), "its inputs have 2, 4 samples"),
        (((), None), "gave no input"),
        ((X, X, "z"), "gave input 2 as str"),
    ],
)
def test_a_factory_that_gives_something_else_is_told(value: Any, what: str) -> None:
    with pytest.raises(InputError, match="data 'd:make'") as raised:
        samples_from(value, "data 'd:make'")
    assert what in str(raised.value)


def test_parts_batches_and_digests() -> None:
    samples = Samples((torch.arange(10.0)[:, None],), torch.arange(10))
    assert [b.targets.tolist() for b in samples.part(3, 8).batches(2)] == [[3, 4], [5, 6], [7]]
    same = Samples((torch.arange(10.0)[:, None].clone(),), torch.arange(10))
    other = Samples((torch.arange(10.0)[:, None],), torch.arange(10).flip(0))
    assert samples.digest == same.digest != other.digest
    assert Samples(samples.inputs).digest != samples.digest
