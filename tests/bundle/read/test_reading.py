"""Reading: every error names the file in the bundle and says what to do; nothing is executed, and no size is
believed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_samples import variety, variety_files

from ffebm_compiler import InputError
from ffebm_compiler.bundle import read_bundle, write_bundle
from ffebm_compiler.bundle.format.archive import packed
from ffebm_compiler.bundle.format.json_text import dump
from ffebm_compiler.bundle.format.manifest import MANIFEST, checksum, is_file_name, signed
from ffebm_compiler.bundle.read import checking
from ffebm_compiler.bundle.write.writing import PROGRAM

Files = dict[str, bytes]


def signed_again(files: Mapping[str, bytes]) -> Files:
    manifest = json.loads(files[MANIFEST])
    others = {n: c for n, c in files.items() if n != MANIFEST}
    manifest["files"] = {n: {"size": len(c), "sha256": checksum(c)} for n, c in sorted(others.items())}
    return {MANIFEST: dump(signed(manifest)), **others}


def written(files: Mapping[str, bytes], path: Path) -> Path:
    path.write_bytes(packed(files))
    return path


def unfolded(files: Mapping[str, bytes], path: Path) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def refused(path: Path) -> InputError:
    with pytest.raises(InputError) as raised:
        read_bundle(path)
    for problem in raised.value.problems:
        assert str(path) in problem.where
        assert problem.remedy
    return raised.value


def test_a_path_without_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello")
    (tmp_path / "nothing").write_bytes(b"")
    for name, says in (
        ("missing", "does not exist"),
        ("empty", "has no manifest.json"),
        ("text", "no zip archive"),
        ("nothing", "no zip archive"),
    ):
        assert says in str(refused(tmp_path / name))


@pytest.mark.skipif(not hasattr(os, "mkfifo") or not Path("/dev/zero").exists(), reason="of Unix")
def test_a_pipe_or_a_device_does_not_hold_up_its_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in str(refused(tmp_path / "pipe"))
    assert "no regular file" in str(refused(Path("/dev/zero")))


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="of Unix")
def test_a_link_in_a_bundle_is_refused_and_one_to_a_bundle_is_followed(tmp_path: Path) -> None:
    folder = unfolded(variety_files(), tmp_path / "b")
    (tmp_path / "link").symlink_to(folder)
    assert read_bundle(tmp_path / "link").name == "Variety"
    (folder / PROGRAM).rename(tmp_path / PROGRAM)
    (folder / PROGRAM).symlink_to(tmp_path / PROGRAM)
    assert "'program.json', which is no regular file" in str(refused(folder))


@pytest.mark.parametrize("version", [2, 0, 99])
def test_another_version_says_what_to_do(tmp_path: Path, version: int) -> None:
    manifest = signed({**json.loads(variety_files()[MANIFEST]), "version": version})
    (problem,) = refused(written({**variety_files(), MANIFEST: dump(manifest)}, tmp_path / "b.ffebm")).problems
    assert f"version {version}" in problem.what
    assert ("Update ffebm_compiler" in problem.remedy) == (version > 1)


def test_every_problem_of_a_stage_is_told(tmp_path: Path) -> None:
    files = dict(variety_files())
    del files["gains.safetensors"]
    files["extra.txt"] = b"x"
    files["graph.json"] += b" "
    told = {p.where.rpartition(", ")[2]: p.what for p in refused(unfolded(files, tmp_path / "b")).problems}
    assert told["gains.safetensors"] == "is missing"
    assert told["extra.txt"] == "is not listed in the manifest"
    assert re.match(r"has \d+ bytes instead of \d+", told["graph.json"])


def test_a_changed_byte_is_told_by_its_checksum(tmp_path: Path) -> None:
    files = dict(variety_files())
    for name in ("report.html", "parameters.safetensors"):
        files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])
    problems = refused(unfolded(files, tmp_path / "b")).problems
    assert [p.where.rpartition(", ")[2] for p in problems] == ["parameters.safetensors", "report.html"]
    assert all("checksum" in p.what for p in problems)


def test_a_manifest_must_be_its_own(tmp_path: Path) -> None:
    manifest = json.loads(variety_files()[MANIFEST])
    manifest["model"] = "Other"
    assert "checksum that is not its own" in str(
        refused(written({**variety_files(), MANIFEST: dump(manifest)}, tmp_path / "a.ffebm"))
    )
    assert "says something that is not read" in str(
        refused(written({**variety_files(), MANIFEST: dump(signed(manifest))}, tmp_path / "b.ffebm"))
    )


@pytest.mark.parametrize("name", ["Program.json", "PROGRAM.JSON"])
def test_names_that_are_one_on_some_disks_are_refused(tmp_path: Path, name: str) -> None:
    files = signed_again({**variety_files(), name: b"{}"})
    assert "but for capitals" in str(refused(written(files, tmp_path / "b.ffebm")))


NAMES = {
    "a.json": True,
    "digital1.vjp.onnx": True,
    "x" * 200: True,
    "../a": False,
    "/a": False,
    "a/b": False,
    "a\\b": False,
    "a\0b": False,
    "a\n": False,
    "": False,
    ".": False,
    ".hidden": False,
    "con": False,
    "COM1.txt": False,
    "a.": False,
    "x" * 201: False,
    "é": False,
    "a b": False,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_has_a_name_that_any_disk_takes(name: str) -> None:
    assert is_file_name(name) is NAMES[name]


def test_no_more_is_read_than_a_bundle_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unfolded(variety_files(), tmp_path / "b")
    monkeypatch.setattr(checking, "LARGEST_BUNDLE", 1000)
    assert "are larger than" in str(refused(folder))
    monkeypatch.setattr(checking, "LARGEST_DOCUMENT", 1000)
    assert "manifest.json: is larger than" in str(refused(folder))


def test_a_file_that_announces_more_than_it_has_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A sparse file of a terabyte takes no disk, and would take all memory."""
    folder = unfolded(variety_files(), tmp_path / "b")
    with (folder / "samples.safetensors").open("r+b") as file:
        file.truncate(1 << 40)
    assert "samples.safetensors: has 1099511627776 bytes" in str(refused(folder))


# --- what a program says ------------------------------------------------------------------------------------------


def _block(document: dict[str, Any]) -> dict[str, Any]:
    return next(s for s in document["modes"]["evaluation"]["steps"] if "block" in s and len(s["states"]) > 2)


def _term(document: dict[str, Any], operation: str) -> dict[str, Any]:
    steps = document["modes"]["evaluation"]["steps"]
    terms = [t for s in steps if "block" in s for x in s["states"] for t in x["drive"]["terms"]]
    found: dict[str, Any] = next(t for t in terms if t["operation"] == operation)
    return found


def _gains(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(iter(document["gains"].values()))
    return found


def _options(operation: str, **options: Any) -> Callable[[dict[str, Any]], object]:
    return lambda d: _term(d, operation)["options"].update(options)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "an operation that is not known": (
        lambda d: _term(d, "conv2d").update(operation="exec"),
        r"layer conv1 .*the operation 'exec' is not known",
    ),
    "an option of no sane size": (_options("conv2d", padding={"tuple": [1 << 40, 0]}), r"layer conv1 .*padding = "),
    "an option of another name": (_options("conv2d", evil=1), r"an option evil, which it does not know"),
    "an option that is no value": (_options("conv2d", groups={"eval": "1"}), r"groups wrong|stands for no value"),
    "a potential that is not known": (
        lambda d: _block(d)["states"][0]["potential"].update(name="x"),
        r"the potential 'x' is not known",
    ),
    "a potential of other options": (
        lambda d: _block(d)["states"][0]["potential"]["options"].update(scale=2.0),
        r"the potential relu has scale = 2.0",
    ),
    "a state that is read too early": (lambda d: _block(d)["states"].reverse(), r"is not an earlier one"),
    "a weight that there is not": (
        lambda d: d["modes"]["evaluation"]["steps"][0]["states"][0]["drive"]["terms"][0]["operands"].__setitem__(
            1, {"weight": "x"}
        ),
        r"the weight x or reads it",
    ),
    "a layer weight of zero": (
        lambda d: _gains(d)["layer_weights"].update({k: 0 for k in _gains(d)["layer_weights"]}),
        r"layer_weights",
    ),
    "a layer weight less": (
        lambda d: _gains(d)["layer_weights"].popitem(),
        r"its layer weights are not those of its states",
    ),
    "gains of another block": (
        lambda d: d["gains"].update({"x|0.1": _gains(d)}),
        r"no block and loop gain|other tensors",
    ),
    "a direction that there is not": (
        lambda d: _gains(d)["directions"][0].update(tensor="77"),
        r"other tensors than the directions",
    ),
    "a tensor that is not listed": (lambda d: d["tensors"].pop(), r"which is not listed"),
    "a tensor that there is not": (lambda d: d["tensors"].append("x"), r"has no tensor x"),
    "a parameter that there is not": (lambda d: d["parameters"].append("x"), r"there is no tensor x"),
    "an alias of itself": (lambda d: d["aliases"].update({"fc2.weight": "fc2.weight"}), r"is tied to fc2.weight"),
    "a path that no layer has": (lambda d: d["aliases"].update({"a.__class__": "fc2.weight"}), r"the name '__class__'"),
    "a tensor that is a layer": (lambda d: d["aliases"].update({"fc2": "fc2.weight"}), r"of a module and of a tensor"),
    "a result that nothing writes": (
        lambda d: d["modes"]["evaluation"].update(result={"value": "nothing"}),
        r"its result reads nothing",
    ),
    "a port of another shape": (
        lambda d: d["modes"]["evaluation"]["parts"]["digital1"]["forward"]["parameters"][0].update(shape=[3]),
        r"digital1.onnx: has|the port",
    ),
    "a port of another name": (
        lambda d: d["modes"]["evaluation"]["parts"]["digital1"]["forward"]["values"][0].update(name="x"),
        r"digital1.onnx: has the inputs",
    ),
    "a part less": (lambda d: d["modes"]["evaluation"]["parts"].pop("digital1"), r"has no graph|graph of no part"),
    "sweeps without end": (lambda d: d["execution"].update(max_sweeps=10**9), r"max_sweeps wrong"),
    "a size that is no whole number": (lambda d: d["execution"].update(max_sweeps=2.0), r"max_sweeps wrong"),
    "a field more": (lambda d: d.update(evil=1), r"evil"),
    "a field less": (lambda d: d.pop("gains"), r"gains"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", WRONG)
def test_what_a_program_says_wrong_is_refused_with_its_place(tmp_path: Path, what: str) -> None:
    change, says = WRONG[what]
    document = json.loads(variety_files()[PROGRAM])
    change(document)
    files = signed_again({**variety_files(), PROGRAM: dump(document)})
    assert re.search(says, str(refused(written(files, tmp_path / "b.ffebm")))), str(refused(tmp_path / "b.ffebm"))


def test_nothing_in_a_bundle_is_executed(tmp_path: Path) -> None:
    """The pages for people are bytes, whatever is in them."""
    page = b"import os; os.abort()"
    files = signed_again(
        {**variety_files(), "training_loop.py": page, "graph.json": b"[" * 100_000, "x.pkl": b"cos\nabort\n(tR."}
    )
    read = read_bundle(written(files, tmp_path / "b.ffebm"))
    assert read.files["training_loop.py"] == page
    assert read.files["x.pkl"].startswith(b"cos")


def test_a_bundle_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = variety()
    second = replace(first, tensors={n: t + 1 if t.is_floating_point() else t for n, t in first.tensors.items()})
    path, problems, swaps = write_bundle(first, tmp_path / "b"), checking.manifest_problems, [second, first, second]

    def replacing(document: Any) -> Any:
        found = list(problems(document))
        if swaps:
            write_bundle(swaps.pop(), path, overwrite=True)
        return found

    monkeypatch.setattr(checking, "manifest_problems", replacing)
    read = read_bundle(path)
    assert not swaps
    assert all(torch.equal(read.tensors[n], t) for n, t in second.tensors.items())
