"""Plain values as JSON and back."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ffebm_compiler.bundle.format.json_text import dump, parse
from ffebm_compiler.bundle.format.values import NotPlainError, decode, encode, plain
from ffebm_compiler.ir import Ref, Weight
from ffebm_compiler.rules.shapes import Sizes

NUMBERS = st.integers(-(1 << 53) + 1, (1 << 53) - 1) | st.floats(allow_nan=False)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
LEAVES = (
    st.none() | st.booleans() | NUMBERS | TEXTS | st.builds(Ref, NAMES) | st.builds(Weight, NAMES)
    | st.sampled_from([torch.float32, torch.bfloat16, torch.bool, ..., slice(0, None, 2), slice(None)])
)  # fmt: skip
NESTS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXTS | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=8,
)


def typed(value: Any) -> Any:
    """With the type of every number, which ``==`` does not see: 1, 1.0 and True are equal."""
    if isinstance(value, dict):
        return [(typed(k), typed(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [typed(v) for v in value]
    return type(value), repr(value)


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=300)
@given(NESTS)
def test_a_value_comes_back_through_a_document(value: Any) -> None:
    document = parse(dump(encode(value)))
    assert typed(decode(document)) == typed(value)
    assert encode(decode(document)) == document


def test_what_is_no_number_comes_back() -> None:
    assert encode((1.0, math.inf, -math.inf)) == {"tuple": [1.0, {"number": "inf"}, {"number": "-inf"}]}
    assert math.isnan(decode(encode(math.nan)))


def test_a_tuple_of_another_class_is_a_tuple() -> None:
    assert decode(encode(Sizes((None, 3)))) == (None, 3)


@pytest.mark.parametrize("value", [object(), {1, 2}, torch.ones(1), b"x", 1 << 60, 1j, torch.complex64, lambda: 0])
def test_what_is_not_plain_is_refused(value: Any) -> None:
    with pytest.raises(NotPlainError):
        encode({"nested": [value]})


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"tuple": 1},
        {"tuple": [1], "dict": []},
        {"number": "1"},
        {"number": 3},
        {"value": ""},
        {"value": 3},
        {"eval": "x"},
        {"dtype": "object"},
        {"slice": [1, 2]},
        {"slice": [1.5, 2, 3]},
        {"slice": "abc"},
        {"ellipsis": 1},
        {"dict": [[1, 2, 3]]},
        {"dict": [["a", 1], ["a", 2]]},
        {"dict": [[[1], 2]]},
        {"dict": {"a": 1}},
        {"weight": None},
        [{"tuple": [{}]}],
    ],
)
def test_what_stands_for_no_value_is_refused(document: Any) -> None:
    with pytest.raises(NotPlainError):
        decode(document)


def test_options_for_people_are_json() -> None:
    found = plain({"a": (1, math.inf), 2: {"b": object}, "c": None})
    assert json.loads(json.dumps(found)) == found
    assert found["a"] == [1, "inf"]
