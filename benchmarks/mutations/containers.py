"""Files that are damaged, folders with things that are no files, archives with tricks; the manifest stays as it was."""

from __future__ import annotations

import io
import os
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ffebm_compiler.bundle.format.archive import packed

from .shared import Files, as_archive, flip, one, until_changed, written


def _flip_file(files: Files, draw: random.Random) -> None:
    name = one(files, draw)
    files[name] = flip(files[name], draw, draw.choice((1, 1, 2, 8)))


def _truncate(files: Files, draw: random.Random) -> None:
    name = one(files, draw)
    files[name] = files[name][: draw.randrange(len(files[name]))]


def _extend(files: Files, draw: random.Random) -> None:
    name = one(files, draw)
    extra = draw.randbytes(draw.choice((1, 8, 100)))
    files[name] = files[name] + extra if draw.random() < 0.5 else extra + files[name]


def _swap(files: Files, draw: random.Random) -> None:
    one, other = draw.sample([*files], 2)
    files[one], files[other] = files[other], files[one]


def _remove(files: Files, draw: random.Random) -> None:
    del files[one(files, draw)]


def _add(files: Files, draw: random.Random) -> None:
    name = draw.choice(("extra", "manifest2.json", "digital9.onnx", "Program.json", ".hidden", "x" * 250, "é", "nul"))
    files[name] = draw.choice([b"", b"x", *files.values()])


def _rename(files: Files, draw: random.Random) -> None:
    name = one(files, draw)
    files[draw.choice((name.upper(), f"{name}.bak", f" {name}", name[:-1], f"{name}."))] = files.pop(name)


DAMAGED = {
    "flip bits of a file": _flip_file, "truncate a file": _truncate, "extend a file": _extend, "swap two files": _swap,
    "remove a file": _remove, "add a file": _add, "rename a file": _rename,
}  # fmt: skip


def write_damaged(mutate: Callable[..., Any], files: Files, draw: random.Random, path: Path) -> Path:
    return written(until_changed(mutate, files, draw), draw, path)


# --- folders with things that are no files --------------------------------------------------------------------------


def _link_out(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / f"outside-{folder.name}")
    (folder / name).symlink_to(folder.parent / f"outside-{folder.name}")


def _link_inside(folder: Path, name: str) -> None:
    (folder / "other").symlink_to(name)


def _folder_inside(folder: Path, name: str) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / name).write_bytes(b"x")


def _folder_instead(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()


def _pipe_instead(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)


def _device_instead(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")


FOLDERS = {
    "a link to outside": _link_out, "a link inside": _link_inside, "a folder inside": _folder_inside,
    "a folder for a file": _folder_instead, "a pipe for a file": _pipe_instead, "a device for a file": _device_instead,
}  # fmt: skip


def write_folder(mutate: Callable[..., Any], files: Files, draw: random.Random, path: Path) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    mutate(path, draw.choice([*files]))
    return path


# --- archives ---------------------------------------------------------------------------------------------------------


def _flip_archive(files: Files, content: bytes, draw: random.Random) -> bytes:
    return flip(content, draw, draw.choice((1, 1, 2, 8)))


def _flip_headers(files: Files, content: bytes, draw: random.Random) -> bytes:
    """In the headers and the directory, which are a small part of an archive."""
    starts = [i for i in range(len(content)) if content[i : i + 4] in (b"PK\1\2", b"PK\3\4", b"PK\5\6")]
    place = draw.choice(starts) + draw.randrange(4, 46)
    place = min(place, len(content) - 1)
    return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]


def _cut(files: Files, content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def _before(files: Files, content: bytes, draw: random.Random) -> bytes:
    return draw.randbytes(draw.choice((1, 30, 512))) + content


def _behind(files: Files, content: bytes, draw: random.Random) -> bytes:
    return content + draw.choice((b"\0", b"PK\5\6" + bytes(18), draw.randbytes(64), content[-22:]))


def _comment(files: Files, content: bytes, draw: random.Random) -> bytes:
    text = draw.randbytes(draw.randrange(1, 40))
    return content[:-2] + struct.pack("<H", len(text)) + text


def _twice(files: Files, content: bytes, draw: random.Random) -> bytes:
    """One member twice, with two contents: readers differ in which they take."""
    name = draw.choice([*files])
    return _zipped([*((n, c) for n, c in files.items()), (name, b"x")])


def _other_name(files: Files, content: bytes, draw: random.Random) -> bytes:
    given = draw.choice(
        ("../evil", "/etc/evil", "a/b.json", "a\\b.json", "manifest.json/", "C:evil", "\u202egnp.exe", "..", "")
    )
    name = draw.choice([*files])
    return _zipped([(given if n == name else n, c) for n, c in files.items()])


def _compressed(files: Files, content: bytes, draw: random.Random) -> bytes:
    return _zipped([*files.items()], compression=zipfile.ZIP_DEFLATED)


def _linked(files: Files, content: bytes, draw: random.Random) -> bytes:
    return _zipped([*files.items()], mode=draw.choice((0o120777, 0o040755, 0o020666, 0o100755)))


def _dated(files: Files, content: bytes, draw: random.Random) -> bytes:
    return _zipped([*files.items()], year=draw.randrange(1981, 2100))


def _bomb(files: Files, content: bytes, draw: random.Random) -> bytes:
    """A few bytes that unpack to many."""
    name = draw.choice([*files])
    return _zipped([(n, bytes(50 << 20) if n == name else c) for n, c in files.items()], zipfile.ZIP_DEFLATED)


def _overlap(files: Files, content: bytes, draw: random.Random) -> bytes:
    """Every entry of the directory at the first member's place."""
    changed = bytearray(content)
    for i in range(len(content)):
        if content[i : i + 4] == b"PK\1\2" and draw.random() < 0.5:
            changed[i + 42 : i + 46] = bytes(4)
    return bytes(changed) if changed != content else _flip_headers(files, content, draw)


def _huge(files: Files, content: bytes, draw: random.Random) -> bytes:
    """A size of 4 GiB in a header or in the directory."""
    starts = [i for i in range(len(content)) if content[i : i + 4] == b"PK\1\2"]
    place = draw.choice(starts) + draw.choice((20, 24))
    return content[:place] + b"\xff\xff\xff\xff" + content[place + 4 :]


def _zipped(
    files: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED, mode: int = 0o100644, year: int = 1980
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in files:
            info = zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0))
            info.external_attr, info.create_system, info.compress_type = mode << 16, 3, compression
            known = archive.NameToInfo.pop(name, None)  # it would warn of the second
            archive.writestr(info, content)
            if known is not None:
                archive.NameToInfo[name] = known
    return out.getvalue()


ARCHIVES = {
    "flip bits": _flip_archive,
    "flip bits of headers": _flip_headers,
    "cut short": _cut,
    "something before": _before,
    "something behind": _behind,
    "a comment": _comment,
    "a member twice": _twice,
    "another name": _other_name,
    "compressed": _compressed,
    "other modes": _linked,
    "other dates": _dated,
    "a bomb": _bomb,
    "overlapping": _overlap,
    "huge": _huge,
}


def write_archive(mutate: Callable[..., Any], files: Files, draw: random.Random, path: Path) -> Path:
    content = packed(files)
    while True:
        changed = mutate(files, content, draw)
        if changed != content:
            return as_archive(changed, path)
