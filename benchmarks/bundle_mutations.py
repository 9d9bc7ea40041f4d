"""Bundles that someone has tampered with, each from a number: bit flips, tricks of containers, forged headers, documents and graphs.

A mutation is *signed* where every size and checksum is made right again after it, so that only what the bundle says can give
it away; without that, reading must refuse it. A signed one may be a bundle like any other (another weight is another bundle), but
then all that it says must be read.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor, nn

from ffebm_compiler.bundle.archive import archived
from ffebm_compiler.bundle.manifest import MANIFEST, checksum, signed
from ffebm_compiler.bundle.writing import GAINS, PARAMETERS, PROGRAM, SAMPLES

Files = dict[str, bytes]


class Variety(nn.Module):
    """A bit of everything that a bundle holds: pooling, a norm, dropout, potentials with options, tied weights, two results."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = (
            nn.Conv2d(1, 2, 3, padding=1),
            nn.BatchNorm2d(2),
            nn.Conv2d(2, 3, 3, padding=1),
        )
        self.fc1, self.fc2, self.head = nn.Linear(12, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.again = self.fc2
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = torch.relu(self.norm(self.conv1(x)))
        h = nn.functional.max_pool2d(torch.relu(self.conv2(h)), 2)
        h = nn.functional.hardtanh(self.fc1(h.flatten(1)), -0.5, 1.5)
        h = self.drop(nn.functional.leaky_relu(self.again(torch.sigmoid(self.fc2(h))), 0.1))
        return {"logits": self.head(h), "features": h}


@dataclass(frozen=True)
class Mutant:
    """A bundle that was tampered with.

    Attributes:
        path: where it stands.
        kind: what was done to it.
        signed: whether all checksums are right again.
    """

    path: Path
    kind: str
    signed: bool


def mutant(files: Mapping[str, bytes], seed: int, place: Path) -> Mutant:
    """The mutant of that number, written into a folder of its own.

    Args:
        files: of a sound bundle.
        seed: which; the same one gives the same bytes.
        place: a folder that exists.
    """
    draw = random.Random(seed)
    family = draw.choices(FAMILIES, [f.weight for f in FAMILIES])[0]
    kind = draw.choice([*family.mutations])
    path = family.write(family.mutations[kind], dict(files), draw, place / f"{seed}")
    return Mutant(path, f"{family.name}: {kind}", family.signed)


@dataclass(frozen=True)
class Family:
    """Mutations that are written in one way.

    Attributes:
        mutations: by what they do.
        write: applies one and writes what comes of it.
        signed: whether the checksums are made right again.
        weight: how often it is chosen, against the others.
    """

    name: str
    mutations: Mapping[str, Callable[..., Any]]
    write: Callable[[Callable[..., Any], Files, random.Random, Path], Path]
    signed: bool
    weight: float


def _written(files: Mapping[str, bytes], draw: random.Random, path: Path) -> Path:
    """As a folder or as an archive, as it is drawn."""
    if draw.random() < 0.5:
        return _as_archive(b"".join(archived(files)), path)
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def _as_archive(content: bytes, path: Path) -> Path:
    file = path.with_suffix(".ffebm")
    file.write_bytes(content)
    return file


def _until_changed(mutate: Callable[..., Any], files: Files, draw: random.Random) -> Files:
    """A mutation that changes nothing is drawn again."""
    while True:
        changed = dict(files)
        mutate(changed, draw)
        if changed != files:
            return changed


# --- files that are damaged, the manifest as it was ---------------------------------------------------------------


def _flip(content: bytes, draw: random.Random, count: int = 1) -> bytes:
    flipped = bytearray(content)
    for _ in range(count):
        flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
    return bytes(flipped)


def _one(files: Files, draw: random.Random) -> str:
    return draw.choice([n for n, c in files.items() if c])


def _flip_file(files: Files, draw: random.Random) -> None:
    name = _one(files, draw)
    files[name] = _flip(files[name], draw, draw.choice((1, 1, 2, 8)))


def _truncate(files: Files, draw: random.Random) -> None:
    name = _one(files, draw)
    files[name] = files[name][: draw.randrange(len(files[name]))]


def _extend(files: Files, draw: random.Random) -> None:
    name = _one(files, draw)
    extra = draw.randbytes(draw.choice((1, 8, 100)))
    files[name] = files[name] + extra if draw.random() < 0.5 else extra + files[name]


def _swap(files: Files, draw: random.Random) -> None:
    one, other = draw.sample([*files], 2)
    files[one], files[other] = files[other], files[one]


def _remove(files: Files, draw: random.Random) -> None:
    del files[_one(files, draw)]


def _add(files: Files, draw: random.Random) -> None:
    name = draw.choice(("extra", "manifest2.json", "digital9.onnx", "Program.json", ".hidden", "x" * 250, "é", "nul"))
    files[name] = draw.choice([b"", b"x", *files.values()])


def _rename(files: Files, draw: random.Random) -> None:
    name = _one(files, draw)
    files[draw.choice((name.upper(), f"{name}.bak", f" {name}", name[:-1], f"{name}."))] = files.pop(name)


DAMAGED = {
    "flip bits of a file": _flip_file, "truncate a file": _truncate, "extend a file": _extend, "swap two files": _swap,
    "remove a file": _remove, "add a file": _add, "rename a file": _rename,
}  # fmt: skip


def _write_damaged(mutate: Callable[..., Any], files: Files, draw: random.Random, path: Path) -> Path:
    return _written(_until_changed(mutate, files, draw), draw, path)


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


def _write_folder(mutate: Callable[..., Any], files: Files, draw: random.Random, path: Path) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    mutate(path, draw.choice([*files]))
    return path


# --- archives ---------------------------------------------------------------------------------------------------------


def _flip_archive(files: Files, content: bytes, draw: random.Random) -> bytes:
    return _flip(content, draw, draw.choice((1, 1, 2, 8)))


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
    "flip bits": _flip_archive, "flip bits of headers": _flip_headers, "cut short": _cut, "something before": _before,
    "something behind": _behind, "a comment": _comment, "a member twice": _twice, "another name": _other_name,
    "compressed": _compressed, "other modes": _linked, "other dates": _dated, "a bomb": _bomb, "overlapping": _overlap, "huge": _huge,
}  # fmt: skip


def _write_archive(mutate: Callable[..., Any], files: Files, draw: random.Random, path: Path) -> Path:
    content = b"".join(archived(files))
    while True:
        changed = mutate(files, content, draw)
        if changed != content:
            return _as_archive(changed, path)


# --- signed: documents --------------------------------------------------------------------------------------------------

HUGE = (1 << 31, 1 << 53, 1 << 63, 10**30, -1, 1e308, -1e308, 5e-324)
ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    0.5,
    "",
    "x",
    "../x",
    "\x00",
    "x" * 5000,
    [],
    {},
    [[]],
    {"a": 1},
    *HUGE,
)


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a document: the container and the key or index."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in [*items]:
        yield document, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def _change_document(document: Any, draw: random.Random) -> None:
    places = [*_places(document)]
    container, key = draw.choice(places)
    other, elsewhere = draw.choice(places)
    value = container[key]
    action = draw.choice(("odd", "odd", "other", "other", "delete", "repeat", "rename", "nest", "number", "text"))
    if action == "odd":
        container[key] = draw.choice(ODD)
    elif action == "other":
        container[key] = json.loads(json.dumps(other[elsewhere]))
    elif action == "delete":
        del container[key]
    elif action == "repeat" and isinstance(container, list):
        container.insert(key, json.loads(json.dumps(value)))
    elif action == "rename" and isinstance(container, dict):
        container[draw.choice(("x", "", "value", "tuple", "name", "9"))] = container.pop(key)
    elif action == "nest":
        container[key] = _nested(draw.choice((2, 30, 60, 900)))
    elif action == "number":
        container[key] = (
            draw.choice(HUGE) if not isinstance(value, (int, float)) else value * draw.choice((-1, 2, 0, 1e9)) + 1
        )
    elif action == "text":
        container[key] = value[::-1] if isinstance(value, str) else str(value)[:200]


def _in_program(files: Files, draw: random.Random) -> None:
    document = json.loads(files[PROGRAM])
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        _change_document(document, draw)
    files[PROGRAM] = _text(document)


def _in_manifest(files: Files, draw: random.Random) -> None:
    document = json.loads(files[MANIFEST])
    _change_document(document, draw)
    files[MANIFEST] = _text(document)


def _text(document: Any) -> bytes:
    return f"{json.dumps(document, indent=1, ensure_ascii=False)}\n".encode("utf-8", "surrogatepass")


def _spelled(files: Files, draw: random.Random) -> None:
    """The program's document in another spelling, or with what is no JSON."""
    text = files[PROGRAM]
    document = json.loads(text)
    lines = text.splitlines(keepends=True)
    place = draw.randrange(len(lines))
    files[PROGRAM] = draw.choice(
        (
            json.dumps(document).encode(), json.dumps(document, indent=2).encode(), json.dumps(document, indent=1, sort_keys=True).encode(),
            text.replace(b'"model":', b'"model": "x",\n "model":', 1), b"\xef\xbb\xbf" + text, text + b" ", text.replace(b"200", b"2e2", 1),
            text.replace(b"200", b"NaN", 1), text.replace(b"200", b"-Infinity", 1), text.replace(b"200", b"9" * 5000, 1), text[:-2],
            text.replace(b'"model":', b"[" * 10_000 + b'"model":', 1), b"[" * 1_000_000, text.replace(b"1", b"1\x00", 1),
            b"".join((*lines[:place], lines[place], *lines[place:])), b"".join((*lines[:place], *lines[place + 1 :])),
        )
    )  # fmt: skip


# --- signed: tensors ----------------------------------------------------------------------------------------------------


def _forged(files: Files, draw: random.Random) -> None:
    name = draw.choice((PARAMETERS, GAINS, SAMPLES))
    content = files[name]
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    _change_header(header, draw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    announced = draw.choice((len(text),) * 6 + (0, len(text) + 8, 1 << 40, (1 << 64) - 1))
    files[name] = announced.to_bytes(8, "little") + text + data


def _change_header(header: dict[str, Any], draw: random.Random) -> None:
    tensor = draw.choice([*header])
    entry = header[tensor]
    changes: dict[str, Callable[[], Any]] = {
        "dtype": lambda: entry.update(dtype=draw.choice(("F64", "F16", "I32", "U8", "BOOL", "F8_E4M3", "object", 3, None))),
        "shape": lambda: entry.update(shape=draw.choice(([1 << 40], [0], [-1], [1] * 40, [1.5], "x", [[1]], [*entry["shape"], 1], entry["shape"][::-1]))),
        "offsets": lambda: entry.update(data_offsets=draw.choice(([0, 4], [0, 1 << 50], [8, 4], [-4, 0], [0], [entry["data_offsets"][0] + 4, entry["data_offsets"][1] + 4]))),
        "remove": lambda: header.pop(tensor),
        "rename": lambda: header.update({draw.choice(("x", "", "a.b", "fc1", "__class__", "training", "forward")): header.pop(tensor)}),
        "again": lambda: header.update({"again": dict(entry)}),
        "metadata": lambda: header.update({"__metadata__": draw.choice(({"a": "b"}, {}, 3, {"a": 1}))}),
        "odd": lambda: entry.update({draw.choice([*entry, "x"]): draw.choice(ODD)}),
        "exchange": lambda: header.update({tensor: header[draw.choice([*header])]}),
    }  # fmt: skip
    changes[draw.choice([*changes])]()


def _other_numbers(files: Files, draw: random.Random) -> None:
    """The values of a tensor: another bundle, which is none the worse."""
    name = draw.choice((PARAMETERS, SAMPLES))
    content = files[name]
    start = 8 + int.from_bytes(content[:8], "little")
    files[name] = content[:start] + _flip(content[start:], draw, draw.choice((1, 8)))


# --- signed: graphs -----------------------------------------------------------------------------------------------------


def _in_graph(files: Files, draw: random.Random) -> None:
    name = draw.choice([n for n in files if n.endswith(".onnx")])
    model = onnx.load_model_from_string(files[name])
    _change_graph(model, draw)
    files[name] = model.SerializeToString(deterministic=True)


OPERATORS = (
    "If",
    "Loop",
    "Scan",
    "ConstantOfShape",
    "Expand",
    "Tile",
    "Foo",
    "Identity",
    "Add",
    "Reshape",
    "Conv",
    "Gather",
    "Cast",
    "Range",
)
LOCATIONS = (
    "../parameters.safetensors",
    "/etc/passwd",
    "samples.safetensors",
    "",
    "parameters.safetensors\0",
    "*/_ORT_MEM_ADDR_/*",
)


def _change_graph(model: ModelProto, draw: random.Random) -> None:
    graph = model.graph
    node = draw.choice(graph.node) if graph.node else graph.node.add()
    tensor = draw.choice(graph.initializer) if graph.initializer else graph.initializer.add()
    port = draw.choice([*graph.input, *graph.output])
    changes: dict[str, Callable[[], Any]] = {
        "operator": lambda: setattr(node, "op_type", draw.choice(OPERATORS)),
        "domain": lambda: setattr(node, "domain", draw.choice(("com.microsoft", "ai.onnx.ml", "evil", "ai.onnx"))),
        "another node": lambda: graph.node.append(helper.make_node(draw.choice(OPERATORS), [*node.input], ["more"])),
        "repeated node": lambda: graph.node.append(node),
        "one node less": lambda: graph.node.remove(node),
        "order": lambda: graph.node.insert(0, graph.node.pop()),
        "input": lambda: node.input.append(draw.choice(("", "nothing", *node.input, *node.output))),
        "cycle": lambda: node.input.__setitem__(0, node.output[0]) if node.input else node.input.append("x"),
        "attribute": lambda: node.attribute.append(helper.make_attribute(draw.choice(("axis", "value", "pads", "to")), draw.choice((1, [1 << 40] * 4, "x", 1.5)))),
        "graph inside": lambda: node.attribute.append(helper.make_attribute("body", graph)),
        "large attribute": lambda: [a.ints.__setitem__(slice(None), [1 << 40] * len(a.ints)) for a in node.attribute if a.ints] or setattr(node, "name", "x"),
        "function": lambda: model.functions.append(helper.make_function("evil", "f", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], model.opset_import)),
        "opset": lambda: setattr(model.opset_import[0], "version", draw.choice((0, 1, 7, 999, -1))),
        "opsets": lambda: model.opset_import.append(helper.make_opsetid(draw.choice(("", "evil")), 1)),
        "ir version": lambda: setattr(model, "ir_version", draw.choice((0, 1, 3, 99))),
        "port's name": lambda: setattr(port, "name", draw.choice(("", "x", f"{port.name}2"))),
        "port's type": lambda: setattr(port.type.tensor_type, "elem_type", draw.choice((0, 1, 7, 8, 11, 99))),
        "port's shape": lambda: port.type.tensor_type.shape.dim.add(dim_value=draw.choice((1, -1, 1 << 50))),
        "port's sizes": lambda: [d.__setattr__("dim_value", draw.choice((0, 1 << 40))) for d in port.type.tensor_type.shape.dim],
        "port's kind": lambda: port.type.sequence_type.elem_type.tensor_type.__setattr__("elem_type", 1),
        "one output less": lambda: graph.output.pop(),
        "one input more": lambda: graph.input.append(port),
        "tensor's sizes": lambda: tensor.dims.append(draw.choice((0, -1, 1 << 40))),
        "tensor's type": lambda: setattr(tensor, "data_type", draw.choice((0, 7, 8, 11, 16, 99))),
        "tensor's data": lambda: setattr(tensor, "raw_data", draw.randbytes(draw.choice((0, 8, 64)))),
        "tensor's name": lambda: setattr(tensor, "name", draw.choice(("", "x", *[t.name for t in graph.initializer]))),
        "tensor twice": lambda: graph.initializer.append(tensor),
        "place": lambda: _change_place(tensor, draw),
        "large constant": lambda: _large_constant(model, draw),
        "sparse": lambda: graph.sparse_initializer.add(),
        "training": lambda: model.training_info.add(),
        "note": lambda: setattr(model, "doc_string", "x" * 100),
        "metadata": lambda: model.metadata_props.add(key="a", value="b"),
    }  # fmt: skip
    changes[draw.choice([*changes])]()


def _change_place(tensor: TensorProto, draw: random.Random) -> None:
    """Where the data of a weight stands."""
    tensor.data_location = TensorProto.EXTERNAL
    if not tensor.external_data or draw.random() < 0.2:
        tensor.external_data.add(
            key=draw.choice(("location", "offset", "length", "checksum", "basepath")),
            value=draw.choice(("0", *LOCATIONS)),
        )
        return
    entry = draw.choice(tensor.external_data)
    entry.value = draw.choice(LOCATIONS) if entry.key == "location" else draw.choice(("0", "-8", "1", str(1 << 62), "", "0x10", f" {entry.value}", f"0{entry.value}", str(int(entry.value) + 4)))  # fmt: skip


def _large_constant(model: ModelProto, draw: random.Random) -> None:
    """A computation of a size that no memory has, all from constants."""
    sizes = draw.choice(([1 << 40], [1 << 20, 1 << 20], [1 << 62, 1 << 62], [-1], [0], [1 << 33]))
    given = helper.make_tensor("sizes", TensorProto.INT64, [len(sizes)], sizes)
    model.graph.initializer.append(given)
    model.graph.node.insert(
        0,
        helper.make_node(
            draw.choice(("ConstantOfShape", "Expand")), ["sizes", "sizes"][: draw.choice((1, 2))], ["large"]
        ),
    )
    if draw.random() < 0.5:
        model.graph.node.append(helper.make_node("ReduceSum", ["large"], ["summed"]))


def _flip_signed(files: Files, draw: random.Random) -> None:
    name = _one({n: c for n, c in files.items() if n != MANIFEST}, draw)
    files[name] = _flip(files[name], draw, draw.choice((1, 2, 8)))


def _flip_graph(files: Files, draw: random.Random) -> None:
    name = draw.choice([n for n in files if n.endswith(".onnx")])
    files[name] = _flip(files[name], draw, draw.choice((1, 1, 2, 4, 16)))


def _others(files: Files, draw: random.Random) -> None:
    """Damage of files, as it is without checksums."""
    DAMAGED[draw.choice([*DAMAGED])](files, draw)


DOCUMENTS = {
    "in the program": _in_program,
    "in the program again": _in_program,
    "in the manifest": _in_manifest,
    "in its spelling": _spelled,
}
TENSORS = {"forge a header": _forged, "other numbers": _other_numbers}
GRAPHS = {"in a graph": _in_graph, "flip bits of a graph": _flip_graph}
OTHERS = {"flip bits of a file": _flip_signed, "damage a file": _others}


def _write_signed(mutate: Callable[..., Any], files: Files, draw: random.Random, path: Path) -> Path:
    changed = _until_changed(mutate, files, draw)
    return _written(_signed(changed, files), draw, path)


def _signed(changed: Files, before: Files) -> Files:
    """The files with sizes and checksums as they are now; a manifest that was changed keeps its own, and is signed."""
    try:
        manifest = json.loads(changed[MANIFEST])
    except (KeyError, ValueError):
        return changed
    if not isinstance(manifest, dict):
        return changed
    if changed[MANIFEST] == before[MANIFEST]:
        named = {n: c for n, c in changed.items() if n != MANIFEST}
        manifest["files"] = {n: {"size": len(c), "sha256": checksum(c)} for n, c in sorted(named.items())}
    try:
        text = _text(signed(manifest))
    except ValueError:
        text = _text(manifest)
    return {MANIFEST: text, **{n: c for n, c in changed.items() if n != MANIFEST}}


FAMILIES = (
    Family("damaged", DAMAGED, _write_damaged, False, 3),
    Family("folder", FOLDERS, _write_folder, False, 1),
    Family("archive", ARCHIVES, _write_archive, False, 4),
    Family("document", DOCUMENTS, _write_signed, True, 6),
    Family("tensors", TENSORS, _write_signed, True, 3),
    Family("graph", GRAPHS, _write_signed, True, 5),
    Family("other", OTHERS, _write_signed, True, 1),
)


def clear(place: Path) -> None:
    """Removes what the mutants left in a folder."""
    for left in place.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()
