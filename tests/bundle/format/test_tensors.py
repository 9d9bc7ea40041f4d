"""Files of tensors: as the safetensors library reads them, and with no header but the one that follows from the
tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ffebm_compiler.bundle.format.tensors import layout_of, read_tensors, same_tensors, written_tensors
from ffebm_compiler.bundle.format.values import DTYPES

SHAPES = st.lists(st.integers(0, 3), max_size=3)


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Tensor]:
    names = draw(st.lists(st.sampled_from(["a", "b.weight", "é", "0", "long" * 9]), unique=True))
    found = {}
    for name in names:
        dtype = DTYPES[draw(st.sampled_from([*DTYPES]))]
        found[name] = (3 * torch.randn(draw(SHAPES))).to(dtype)
    return found


@settings(deadline=None, derandomize=True, max_examples=60)
@given(tensors())
def test_the_library_reads_what_is_written(given: dict[str, Tensor]) -> None:
    content = written_tensors(given)
    assert same_tensors(safetensors.torch.load(content), given)
    assert same_tensors(read_tensors(content), given)
    for name, stored in layout_of(content).items():
        values = given[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        assert content[stored.start : stored.start + stored.size] == values
        assert stored.size == 0 or stored.start % given[name].element_size() == 0
    assert written_tensors(dict(reversed(given.items()))) == content


def test_views_of_one_memory_are_stored_apart() -> None:
    whole = torch.arange(6.0)
    found = read_tensors(written_tensors({"a": whole, "b": whole[2:4], "c": whole.view(2, 3).T}))
    assert found["b"].tolist() == [2.0, 3.0]
    assert found["c"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


@pytest.mark.parametrize("tensor", [torch.ones(2, dtype=torch.complex64), torch.ones(2, device="meta")])
def test_what_a_file_can_not_hold_is_refused(tensor: Tensor) -> None:
    with pytest.raises(ValueError, match=r"complex64|no values"):
        written_tensors({"a": tensor})


SOUND = {"a": torch.ones(2, 3), "b": torch.arange(4)}


def forged(change: Callable[[dict[str, Any]], object]) -> bytes:
    content = written_tensors(SOUND)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "does not have"),
        (b"\xff" * 8, "does not have"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "does not have"),
        ((8).to_bytes(8, "little") + b"[" * 8, "."),
        ((8).to_bytes(8, "little") + b"[1]     ", "no table"),
        ((4).to_bytes(8, "little") + b"\xff{} ", "no header"),
        (written_tensors(SOUND) + b"\0", "more than its header"),
        (written_tensors(SOUND)[:-1], "more than its header"),
        (forged(lambda h: h["a"].update(shape=[1 << 40, 3])), "larger than any"),
        (forged(lambda h: h["a"].update(shape=[3])), "bytes instead of"),
        (forged(lambda h: h["a"].update(shape=[-2, -3])), "is none"),
        (forged(lambda h: h["a"].update(shape=[True, 6])), "is none"),
        (forged(lambda h: h["a"].update(dtype="F8_E4M3")), "F8_E4M3"),
        (forged(lambda h: h["a"].update(dtype=["F32"])), "of type"),
        (forged(lambda h: h["a"].update(data_offsets=[0, 24])), "overlap"),
        (forged(lambda h: h["a"].update(data_offsets=[0])), "is none"),
        (forged(lambda h: h["a"].pop("dtype")), "another way than by"),
        (forged(lambda h: h.update(c=dict(h["a"]))), "overlap"),
        (forged(lambda h: h.update({"__metadata__": {"a": "b"}})), "another way than by"),
        (forged(lambda h: h.pop("b")), "overlap"),
        (forged(lambda h: h.update(a=h.pop("a"), b=h.pop("b"))), "spelled in another way"),
        (forged(lambda h: h["a"].update(shape=[3, 2])), ""),
    ],
)
def test_a_header_must_say_what_follows_it(content: bytes, says: str) -> None:
    if not says:  # another shape of as many numbers is another file
        assert read_tensors(content)["a"].shape == (3, 2)
        return
    with pytest.raises(ValueError, match=says):
        read_tensors(content)


def test_a_truth_value_is_zero_or_one() -> None:
    content = bytearray(written_tensors({"a": torch.tensor([True, False])}))
    content[-1] = 2
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        read_tensors(bytes(content))


def test_a_name_that_stands_twice_in_a_header_is_refused() -> None:
    text = b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    with pytest.raises(ValueError, match="a name twice"):
        read_tensors(len(text).to_bytes(8, "little") + text)
