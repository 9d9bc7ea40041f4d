"""JSON from anyone: one spelling, bounded before it is parsed."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ffebm_compiler.bundle.format import json_text, limits
from ffebm_compiler.bundle.format.json_text import dump, parse

SOUND: list[Any] = [None, [], {}, {"a": [1, -2.5, 'x\n"{[', True, None, 1e300, 1e-7]}, "é𝄞", [[[[]]]], {"": 0}]


@pytest.mark.parametrize("document", SOUND)
def test_what_is_written_is_read(document: Any) -> None:
    assert parse(dump(document)) == document == json.loads(dump(document))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"a": 1, "a": 1}', "'a' twice"),
        (b"[NaN]", "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"[1e999]", "no float"),
        (b"[" + b"9" * 5000 + b"]", "too large"),
        (b"[9007199254740992]", "too large"),
        (b"[" * 60 + b"]" * 60, "deeper"),
        (b'{"a":' * 60 + b"1" + b"}" * 60, "deeper"),
        (b"[1]", "another way"),
        (b"[\n 1\n]", "another way"),
        (b"[\n 1\n]\n\n", "another way"),
        (b"[\n 1.0e0\n]\n", "another way"),
        (b"[\n -0\n]\n", "another way"),
        (b'"\\u0041"\n', "another way"),
        (b'"\\ud800"\n', "UTF-8"),
        (b"\xff", "UTF-8"),
        (b"", "Expecting"),
        (b"{", "Expecting"),
        (b"nul", "Expecting"),
        (b"\xef\xbb\xbf1\n", "Unexpected UTF-8 BOM"),
        (b"[\n 0." + b"1" * 40 + b"\n]\n", "no float"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(text)


def test_brackets_in_texts_do_not_nest() -> None:
    deep = dump({"a": "[" * 100 + "{" * 100 + '\\"' + "," * 1000})
    assert parse(deep)["a"].count("[") == 100


@pytest.mark.parametrize(
    "text",
    [b"[" + b"0," * (limits.MOST_VALUES + 1) + b"0]", b'["' + b"\\\n" * 500_000, b'"' * 500_001, b"[" * 1_000_000],
    ids=["many values", "an open text", "quotes", "brackets"],
)
def test_much_of_a_thing_is_refused_in_no_time(text: bytes) -> None:
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"."):
        parse(text)
    assert time.perf_counter() - start < 10


def test_a_long_document_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "LARGEST_DOCUMENT", 10)
    with pytest.raises(ValueError, match="larger than"):
        parse(b" " * 11)
