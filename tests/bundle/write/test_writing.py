"""Writing: the same contents give the same bytes, whole or not at all, and what a bundle can't hold is said with the
layer's name.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_samples import variety, variety_files
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler import OptionError
from ffebm_compiler.bundle import Contents, Mode, read_bundle, write_bundle
from ffebm_compiler.bundle.format.tensors import same_tensors
from ffebm_compiler.bundle.write.own_rules import own_rule_problems
from ffebm_compiler.ir import Kind, Operation
from ffebm_compiler.rules import FORMS, Reading, Role, Rule
from ffebm_compiler.rules.forms import plain
from ffebm_compiler.solve import Gains


def contents_of(model: fc.FFEBM) -> Contents:
    """Of a model without digital parts."""
    program = replace(model.program, output=None)
    mode = Mode(program, {}, None)
    tensors = {n: t.detach() for n, t in (*model.network.named_parameters(), *model.network.named_buffers())}
    execution = dict(loop_gain=None, tolerance=None, max_sweeps=200, estimator=dict(name="CenteredEP", options={}))
    names = tuple(n for n, _ in model.network.named_parameters())
    return Contents(type(model.network).__name__, False, {False: mode, True: mode}, tensors, names, execution)


def test_a_folder_and_a_file_hold_the_same(tmp_path: Path) -> None:
    folder, file = write_bundle(variety(), tmp_path / "b"), write_bundle(variety(), tmp_path / "b.ffebm")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == variety_files()
    first, second = read_bundle(folder), read_bundle(file)
    assert same_tensors(first.tensors, second.tensors)
    for read in (first, second):
        write_bundle(read, tmp_path / "again.ffebm", overwrite=True)
        assert (tmp_path / "again.ffebm").read_bytes() == file.read_bytes()


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    read = read_bundle(write_bundle(variety(), tmp_path / "b"))
    own = variety()
    for name in (
        "name",
        "training",
        "parameters",
        "frozen",
        "aliases",
        "hidden",
        "execution",
        "refused",
        "options",
        "graphs",
        "files",
    ):
        assert getattr(read, name) == getattr(own, name), name
    assert [*read.tensors] == [*own.tensors]
    assert same_tensors(read.tensors, own.tensors)
    assert same_tensors(read.samples, own.samples)
    for key, gains in own.gains.items():
        assert (read.gains[key].layer_weights, read.gains[key].norms) == (gains.layer_weights, gains.norms)
        assert all(torch.equal(read.gains[key].directions[e], d) for e, d in gains.directions.items())
    for training, mode in own.modes.items():
        assert read.modes[training].parts == mode.parts
        assert (read.modes[training].result, read.modes[training].call) == (mode.result, mode.call)
    assert own.gains
    assert own.aliases


def test_a_mode_that_is_both_is_read_as_one(tmp_path: Path) -> None:
    contents = contents_of(fc.convert(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), block_size=2))
    read = read_bundle(write_bundle(contents, tmp_path / "b.ffebm"))
    assert read.modes[True] is read.modes[False]
    assert read_bundle(write_bundle(variety(), tmp_path / "v.ffebm")).modes[True] is not variety().modes[False]


def test_a_bundle_replaces_a_bundle_only(tmp_path: Path) -> None:
    write_bundle(variety(), tmp_path / "b")
    with pytest.raises(OptionError, match="exists"):
        write_bundle(variety(), tmp_path / "b")
    write_bundle(variety(), tmp_path / "b", overwrite=True)
    write_bundle(variety(), tmp_path / "b.ffebm")
    with pytest.raises(OptionError, match="exists"):
        write_bundle(variety(), tmp_path / "b.ffebm")
    (tmp_path / "extension").mkdir()
    (tmp_path / "extension" / "manifest.json").write_text('{"name": "of a browser"}')
    with pytest.raises(OptionError, match="something else than a bundle"):
        write_bundle(variety(), tmp_path / "extension", overwrite=True)
    (tmp_path / "d.ffebm").mkdir()
    with pytest.raises(OptionError, match="is a folder"):
        write_bundle(variety(), tmp_path / "d.ffebm", overwrite=True)
    with pytest.raises(OptionError, match="mkdir -p"):
        write_bundle(variety(), tmp_path / "no" / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "b.ffebm", "d.ffebm", "extension"]


def test_a_failure_leaves_the_bundle_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_bundle(variety(), tmp_path / "b.ffebm")
    before = file.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    other = replace(variety(), name="Other")
    for path in (file, tmp_path / "b"):
        with pytest.raises(OptionError, match="No space left"):
            write_bundle(other, path, overwrite=True)
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["b.ffebm"]


def test_what_is_too_large_for_one_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ffebm_compiler.bundle.format import archive

    monkeypatch.setattr(archive, "LARGEST_ARCHIVE", 1000)
    with pytest.raises(OptionError, match="Write a folder"):
        write_bundle(variety(), tmp_path / "b.ffebm")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "manifest.json", "digital1.onnx", "", ".x", "nul", "x" * 300, "é.txt", "a\n"]
)
def test_a_page_needs_a_name_that_any_disk_takes(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match="is no name for a file"):
        write_bundle(replace(variety(), files={name: b"x"}), tmp_path / "b")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a parameter without a tensor": (dict(parameters=("nothing",)), "there is no tensor nothing"),
    "an alias of nothing": (dict(aliases={"x": "nothing"}), "x is tied to nothing"),
    "gains of no block": (dict(gains={"x|0.1": Gains({"x": 1.0})}), "no block and loop gain"),
    "no gradients": (
        dict(execution=dict(loop_gain=-1.0, tolerance=None, max_sweeps=1, estimator=dict(name="x", options={}))),
        "loop_gain wrong",
    ),
    "a constant that is no value": (
        dict(
            execution=dict(
                loop_gain=None, tolerance=None, max_sweeps=1, estimator=dict(name="x", options={"a": object()})
            )
        ),
        "no plain value",
    ),
    "a missing graph": (dict(graphs={}), "there is no digital1.onnx"),
}


@pytest.mark.parametrize("what", WRONG)
def test_contents_that_would_not_be_read_are_not_written(tmp_path: Path, what: str) -> None:
    change, says = WRONG[what]
    with pytest.raises(OptionError, match=says):
        write_bundle(replace(variety(), **change), tmp_path / "b")
    assert not [*tmp_path.iterdir()]


# --- rules of a user's own --------------------------------------------------------------------------------------


class Flipped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.flip(torch.relu(self.a(x)), (1,)))


def _flip(x: Tensor) -> Tensor:
    return x.flip(1)


TURN = Kind("turn", __name__)
FLIP = Operation(name="turn", function=_flip, text="turn({0})", tex=r"\mathrm{{turn}}({0})", kind=TURN)
OWN = Rule(
    "turn",
    Role.COUPLING,
    lambda call: Reading((call.as_operand(call.value()),), FLIP),
    "turned round",
    functions=(torch.flip,),
    signature=("input", "dims"),
    forms={TURN: plain(FLIP)},
)


def own_model(rule: Rule = OWN) -> fc.FFEBM:
    return fc.convert(Flipped(), block_size=2, rules=[rule])


def test_an_operation_of_a_users_own_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as raised:
        write_bundle(contents_of(own_model()), tmp_path / "b")
    (problem,) = raised.value.problems
    assert problem.where.startswith("layer flip (flip")
    assert "operation turn" in problem.what
    assert 'digital=["flip"]' in problem.remedy
    assert "kind=Kind('turn', __name__)" in problem.remedy
    assert "known=FORMS.extended([rule])" in problem.remedy


def test_an_operation_of_a_users_own_is_written_and_read_where_it_is_registered(tmp_path: Path) -> None:
    known = FORMS.extended([OWN])
    path = write_bundle(contents_of(own_model()), tmp_path / "b", known=known)
    read = read_bundle(path, known)
    (term,) = [
        t
        for b in read.modes[False].program.energy_blocks
        for s in b.states
        for t in s.drive.terms
        if t.operation.name == "turn"
    ]
    assert term.operation is FLIP
    with pytest.raises(fc.InputError, match=r"layer flip \(flip.*: the operation 'turn' is not known here"):
        read_bundle(path)


def test_an_operation_that_takes_a_name_of_the_librarys_is_told_apart() -> None:
    false = replace(FLIP, name="contiguous", text="{0}", tex="{0}")
    rule = replace(OWN, read=lambda call: Reading((call.as_operand(call.value()),), false))
    (problem,) = own_rule_problems(contents_of(own_model(rule)), FORMS)
    assert "operation contiguous of a rule of your own" in problem.what


def test_documents_are_for_people_too() -> None:
    for name in ("manifest.json", "program.json"):
        text = variety_files()[name].decode()
        assert json.loads(text)
        assert text.count("\n") > 50
