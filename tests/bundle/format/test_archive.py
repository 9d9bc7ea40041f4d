"""The archive: what any zip program opens, and nothing but what follows from names and contents."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffebm_compiler.bundle.format import archive
from ffebm_compiler.bundle.format.archive import packed, unpacked

FILES = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9._-]{0,9}", fullmatch=True), st.binary(max_size=60), min_size=1, max_size=4
)
SOUND = {"manifest.json": b"{}", "a.onnx": b"\0" * 40, "b": b""}


def read(content: bytes) -> dict[str, bytes]:
    return unpacked(io.BytesIO(content), len(content))


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=60)
@given(FILES)
def test_python_reads_what_is_written(files: dict[str, bytes]) -> None:
    content = packed(files)
    with zipfile.ZipFile(io.BytesIO(content)) as found:
        assert found.testzip() is None
        assert {i.filename: found.read(i) for i in found.infolist()} == files
        assert {(i.date_time, i.compress_type, i.external_attr >> 16) for i in found.infolist()} == {
            ((1980, 1, 1, 0, 0, 0), 0, 0o100644)
        }
    assert read(content) == files
    assert [*read(content)] == [*files]


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.data())
def test_no_bit_of_an_archive_can_be_another(data: st.DataObject) -> None:
    content = bytearray(packed(SOUND))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError, match=r"."):
        read(bytes(content))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.data())
def test_no_byte_of_an_archive_can_be_missing_or_added(data: st.DataObject) -> None:
    content = packed(SOUND)
    place = data.draw(st.integers(0, len(content) - 1))
    for other in (
        content[:place],
        content[:place] + content[place + 1 :],
        content[:place] + b"\0" + content[place:],
        content + b"\0",
    ):
        if other != content:
            with pytest.raises(ValueError, match=r"."):
                read(other)


def test_an_archive_of_another_program_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as other:
        other.writestr("manifest.json", b"{}")
    with pytest.raises(ValueError, match="not stored plainly"):
        read(out.getvalue())


def test_what_is_too_large_for_its_counters_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LARGEST_ARCHIVE", 1000)
    with pytest.raises(ValueError, match="32 bits"):
        packed({"a": b"\0" * 900})


def test_more_members_than_any_bundle_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = packed({f"f{i}": b"" for i in range(5)})
    monkeypatch.setattr(archive, "MOST_FILES", 4)
    with pytest.raises(ValueError, match="directory"):
        read(content)


def test_a_second_directory_is_not_followed() -> None:
    """The extension for archives beyond 4 GiB names a directory of its own, of any length."""
    entry = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1 << 40, 1 << 40, 1 << 40, 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0, 0, 0, len(entry) + len(locator), 0)
    with pytest.raises(ValueError, match="directory of another place"):
        read(entry + locator + end)


def test_members_take_no_more_memory_than_they_have_bytes() -> None:
    content = bytearray(packed(SOUND))
    entries = [i for i in range(len(content)) if content[i : i + 4] == b"PK\1\2"]
    for place in entries:
        content[place + 20 : place + 28] = struct.pack("<2I", len(content), len(content))
        content[place + 42 : place + 46] = bytes(4)  # all of them at the first one's place
    with pytest.raises(ValueError, match="overlap"):
        read(bytes(content))
