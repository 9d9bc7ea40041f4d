"""A program as a document and back computes the same, to the last bit, in both modes."""

from __future__ import annotations

import copy
import re
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from models import ZOO, Entry
from torch import Tensor

import ffebm_compiler as fc
from ffebm_compiler.bundle import Contents, Mode, part_block
from ffebm_compiler.bundle.format.json_text import dump, parse
from ffebm_compiler.bundle.format.program_checks import block_problems, program_problems
from ffebm_compiler.bundle.format.program_document import SAME, Reader, program_document
from ffebm_compiler.bundle.format.schemas import PROGRAM, schema_problems
from ffebm_compiler.ir import DigitalBlock, Energy, EnergyBlock, Program
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.rules import FORMS
from ffebm_compiler.train import attribute

CHOSEN = [
    pytest.param(e, id=e.name, marks=pytest.mark.skipif(not e.installed, reason=f"{e.requires} is not installed"))
    for e in ZOO
    if not e.heavy
]


def as_parts(program: Program) -> Program:
    steps = tuple(
        part_block(s.name, s.inputs, s.outputs, s.origins, s.reasons) if isinstance(s, DigitalBlock) else s
        for s in program
    )
    return replace(program, steps=steps, output=None)


def contents_of(model: fc.FFEBM) -> Contents:
    modes = {t: Mode(as_parts(m.program), {}, None) for t, m in runner_of(model).compiled.modes.items()}
    execution = dict(loop_gain=0.01, tolerance=None, max_sweeps=200, estimator=dict(name="CenteredEP", options={}))
    return Contents(type(model.network).__name__, False, modes, {}, (), execution)


def wide(values: Any) -> Any:
    return {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in values.items()}


@pytest.mark.slow
@pytest.mark.parametrize("entry", CHOSEN)
def test_a_program_comes_back_from_its_document(entry: Entry) -> None:
    net, args = entry.build()
    model = fc.convert(net, block_size=2, example_inputs=args if entry.export else None)
    document = parse(dump(program_document(contents_of(model))))
    assert not [*schema_problems(document, PROGRAM)]
    for training, name in ((False, "evaluation"), (True, "training")):
        reader = Reader(FORMS)
        found = document["modes"][name]
        program = reader.mode(document["modes"]["evaluation"] if found == SAME else found).program
        assert not reader.problems
        assert not [*program_problems(program)]
        model.train(training)
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of norms held at statistics that are not those of the batch
            torch.manual_seed(0)
            _, settled = copy.deepcopy(model).equilibrium(*args)
        assert_same(model, program, settled)


def assert_same(model: fc.FFEBM, program: Program, settled: tuple[Any, ...]) -> None:
    """Energies, drives and activations in float64, and what prints."""
    own = model.program
    assert (program.inputs, program.labels, program.origins) == (own.inputs, own.labels, own.origins)
    at = {e.block: e for e in settled}
    for step, read in zip(own, program, strict=True):
        assert type(step) is type(read)
        assert (step.name, step.inputs, step.outputs) == (read.name, read.inputs, read.outputs)
        if isinstance(step, EnergyBlock):
            assert isinstance(read, EnergyBlock)
            weights = wide({p: attribute(model.network, p) for p in step.weights})
            inputs, states = wide(at[step.name].inputs), wide(at[step.name].states)
            ones = dict.fromkeys(states, 1.5)
            first, second = Energy(step, own.labels), Energy(read, program.labels)
            assert torch.equal(first.value(states, inputs, weights, ones), second.value(states, inputs, weights, ones))
            assert (first.text(), first.latex()) == (second.text(), second.latex())
            for one, other in zip(step.states, read.states, strict=True):
                f = one.drive.evaluate({**inputs, **states}, weights)
                assert torch.equal(f, other.drive.evaluate({**inputs, **states}, weights))
                assert torch.equal(one.potential.activation(f), other.potential.activation(f))
                assert torch.equal(one.potential.difference(f, 0.1 * f), other.potential.difference(f, 0.1 * f))
                assert one.drive.is_routed == other.drive.is_routed


# --- what is wrong with a program -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def block() -> EnergyBlock:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3), torch.nn.Tanh())
    (found,) = fc.convert(net, block_size=2).program.energy_blocks
    return found


def labels_of(block: EnergyBlock) -> dict[str, str]:
    return {s.name: s.name for s in block.states}


def test_a_sound_block_has_no_problem(block: EnergyBlock) -> None:
    assert not [*block_problems(block, labels_of(block))]


def test_what_a_block_reads_must_be_there(block: EnergyBlock) -> None:
    first, second = block.states
    swapped = replace(block, states=(second, first))
    renamed = replace(second, drive=replace(second.drive, output="nothing"))
    cases = {
        "not an earlier one": swapped,
        "gives nothing, which no term computes": replace(block, states=(first, renamed)),
        "is no state": replace(block, outputs=("x",)),
        "is no input of the block": replace(block, inputs=()),
        "does not read its input y": replace(block, inputs=(*block.inputs, "y")),
        "states: .* is there twice": replace(block, states=(first, first)),
        "or reads it, not both": replace(
            block, states=(replace(first, drive=replace(first.drive, weights=("0.weight",))), second)
        ),
    }
    for says, wrong in cases.items():
        assert any(re.search(says, p) for p in block_problems(wrong, labels_of(block))), says
    assert any("has no label" in p for p in block_problems(block, {}))


def test_a_term_of_two_meanings_is_a_problem(block: EnergyBlock) -> None:
    first, second = block.states
    (term,) = second.drive.terms
    both = replace(second, drive=replace(second.drive, terms=(replace(term, name=first.drive.terms[0].name),)))
    assert any(
        "is another one in an earlier state" in p
        for p in block_problems(replace(block, states=(first, both)), labels_of(block))
    )


def test_values_are_written_once_and_before_they_are_read(block: EnergyBlock) -> None:
    program = Program(("input",), (replace(block, inputs=("input",)),), None, labels_of(block), {})
    written = replace(program, inputs=("input", *block.outputs))
    assert any("is written before" in p for p in program_problems(written))
    assert any("is not written before" in p for p in program_problems(replace(program, inputs=())))
