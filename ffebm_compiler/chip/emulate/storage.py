"""A chip in a file: a numpy archive (.npz) of its devices, with a manifest that is read and checked first.

Nothing in it is executed: no pickle, names and sizes are checked before anything is unpacked, and every array's
checksum after.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import FFEBMError, InputError, Problem
from ...files import write_whole
from ..hardware.crossbar import Crossbar, from_arrays
from ..hardware.documents import from_dict, to_dict
from ..hardware.mapping import array_of, kind_on_arrays
from .chip import Chip, Devices, Layout
from .converters import Range

FORMAT = "ffebm chip 1"
MANIFEST = "manifest.json"
LARGEST, LARGEST_MANIFEST, MOST_MEMBERS = 16 << 30, 16 << 20, 100_000
_DTYPES = ("float32", "float64", "float16", "int8", "uint8")
_USES = ("drive", "feedback")


def save_chip(chip: Chip, path: str | os.PathLike[str]) -> Path:
    """Writes a chip as it is now: devices, ranges and the state of its noise.

    Raises:
        OptionError: the file can't be written.
    """
    arrays = dict(_arrays(chip))
    files = {name: _npy(value) for name, value in arrays.items()}
    manifest = {
        "format": FORMAT,
        "hardware": to_dict(chip.hardware),
        "seed": chip.seed,
        "writes": chip.writes,
        "ranges": {n: [r.high, r.signed] for n, r in chip.ranges.items()},
        "devices": {path: _described(d) for path, d in chip.devices.items()},
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as out:
        out.writestr(_member(MANIFEST), json.dumps(manifest, indent=1))
        for name, content in files.items():
            out.writestr(_member(f"{name}.npy"), content)
    return write_whole(path, archive.getvalue(), "chip")


def _member(name: str) -> zipfile.ZipInfo:
    """With a fixed date: the same chip gives the same bytes."""
    return zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))


def _arrays(chip: Chip) -> Iterator[tuple[str, Tensor]]:
    yield "reads", chip.reads.get_state()
    for i, d in enumerate(chip.devices.values()):
        yield f"{i}/written", d.written
        yield f"{i}/asked", d.asked
        for use, crossbar in zip(_USES, (d.crossbar,) if d.back is d.crossbar else (d.crossbar, d.back), strict=False):
            for name, value in crossbar.arrays().items():
                yield f"{i}/{use}/{name}", value


def _described(d: Devices) -> dict[str, Any]:
    layout = {"operation": d.layout.kind.name, "options": dict(d.layout.options)}
    return {**layout, "bidirectional": d.back is d.crossbar, "dtype": str(d.written.dtype).removeprefix("torch.")}


def _npy(value: Tensor) -> bytes:
    buffer = io.BytesIO()
    held = value.detach().cpu().contiguous()
    np.save(buffer, (held.float() if held.dtype == torch.bfloat16 else held).numpy(), allow_pickle=False)
    return buffer.getvalue()


# --- reading, of a file that anyone may have written ------------------------------------------------------


def load_chip(path: str | os.PathLike[str]) -> Chip:
    """The chip of a file.

    Raises:
        InputError: it is missing, no chip, or damaged; it names the part.
    """
    where = f"chip {os.fspath(path)}"
    try:
        with zipfile.ZipFile(path) as archive:
            return _chip(archive, where)
    except FileNotFoundError as failure:
        raise InputError.at(where, "does not exist", "Save one with emulated.save_chip(path).") from failure
    except IsADirectoryError as failure:
        raise InputError.at(where, "is a folder", "Name the file of save_chip(path).") from failure
    except FFEBMError as failure:
        raise InputError(failure.problems) from failure
    except Exception as failure:  # a file may hold anything, and so make any of the readers fail in any way
        raise InputError(_damaged(where, str(failure) or type(failure).__name__)) from failure


def _damaged(where: str, why: str) -> Problem:
    return Problem(
        where, f"is damaged, or no chip of this program: {why}", "Save it again from the model it came from."
    )


def _chip(archive: zipfile.ZipFile, where: str) -> Chip:
    members = archive.infolist()
    if len(members) > MOST_MEMBERS or sum(m.file_size for m in members) > LARGEST:
        raise ValueError("larger than any chip")
    if any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise ValueError("its members are compressed")
    if len({m.filename for m in members}) != len(members):
        raise ValueError("two of its members have one name")
    manifest = _manifest(archive)
    arrays = {name: _array(archive, name, checksum) for name, checksum in manifest["sha256"].items()}
    if {f"{n}.npy" for n in arrays} | {MANIFEST} != {m.filename for m in members}:
        raise ValueError("its members are not those of its manifest")
    hardware = from_dict(manifest["hardware"], f"{where}, hardware")
    reads = torch.Generator()
    reads.set_state(arrays["reads"])
    chip = Chip(hardware, _count(manifest["seed"]), reads, writes=_count(manifest["writes"]))
    for i, (path, described) in enumerate(manifest["devices"].items()):
        chip.devices[path] = _devices(i, described, arrays, chip, f"{where}, layer {path}")
    for name, (high, signed) in manifest["ranges"].items():
        if not (isinstance(high, (int, float)) and math.isfinite(high) and high > 0 and isinstance(signed, bool)):
            raise ValueError(f"the range of {name} is {high!r}")
        chip.ranges[name] = Range(float(high), signed)
    return chip


def _manifest(archive: zipfile.ZipFile) -> dict[str, Any]:
    if archive.getinfo(MANIFEST).file_size > LARGEST_MANIFEST:
        raise ValueError("its manifest is larger than any chip's")
    content = json.loads(archive.read(MANIFEST).decode())
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"not of the format {FORMAT!r}")
    for key in ("hardware", "ranges", "devices", "sha256"):
        if not isinstance(content.get(key), dict):
            raise ValueError(f"its manifest has no {key}")
    return content


def _array(archive: zipfile.ZipFile, name: str, checksum: str) -> Tensor:
    content = archive.read(f"{name}.npy")
    if hashlib.sha256(content).hexdigest() != checksum:
        raise ValueError(f"the checksum of {name} is wrong")
    value = np.lib.format.read_array(_announced(content, name), allow_pickle=False)
    return torch.from_numpy(value.copy())


def _announced(content: bytes, name: str) -> io.BytesIO:
    """The content as a stream, if its header announces what follows: a false one could ask for any memory."""
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError(f"{name} is of another version of the format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if str(dtype) not in _DTYPES:
        raise ValueError(f"{name} is of type {dtype}")
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ValueError(f"{name} is not of the size that it announces")
    stream.seek(0)
    return stream


def _devices(i: int, described: Mapping[str, Any], arrays: Mapping[str, Tensor], chip: Chip, where: str) -> Devices:
    layout = _layout(described)
    written, asked = (arrays[f"{i}/{n}"].to(getattr(torch, _dtype(described["dtype"]))) for n in ("written", "asked"))
    shape = tuple(layout.matrix(written).shape)
    drive = _crossbar(i, "drive", shape, arrays, chip, where)
    back = drive if described["bidirectional"] is True else _crossbar(i, "feedback", shape, arrays, chip, where)
    if asked.shape != written.shape or not all(bool(torch.isfinite(w).all()) for w in (written, asked)):
        raise ValueError(f"{where} has weights that are not finite, or of two shapes")
    return Devices(layout, drive, back, written, asked)


def _layout(described: Mapping[str, Any]) -> Layout:
    name, options = described["operation"], described["options"]
    kind = kind_on_arrays(name)
    array = None if kind is None else array_of(kind)
    if kind is None or array is None:
        raise ValueError(f"no array holds the weights of {name!r}")
    if options.keys() != set(array.options) or not all(isinstance(v, int) for v in options.values()):
        raise ValueError(f"the options of a {name} are {options!r}")
    return Layout(kind, dict(options))


def _crossbar(
    i: int, use: str, shape: tuple[int, ...], arrays: Mapping[str, Tensor], chip: Chip, where: str
) -> Crossbar:
    prefix = f"{i}/{use}/"
    own = {n.removeprefix(prefix): v for n, v in arrays.items() if n.startswith(prefix)}
    groups, rows, columns = shape
    return from_arrays(own, (groups, rows, columns), chip.hardware, where)


def _dtype(name: object) -> str:
    if name not in ("float32", "float64", "bfloat16", "float16"):
        raise ValueError(f"no model has weights of type {name!r}")
    return str(name)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r} is no count")
    return value
