"""A coupling is renamed once, as long as it lives, and equal couplings have one identity."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import torch
from torch import nn

import ffebm_compiler as fc
from ffebm_compiler.solve import explicit_names
from ffebm_compiler.solve.explicit import Explicit
from ffebm_compiler.solve.explicit_kept import identity_of
from ffebm_compiler.solve.explicit_names import Names
from ffebm_compiler.solve.explicit_phases import read_of, sources_of


def _model() -> fc.FFEBM:
    layers = (nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh())
    return fc.convert(nn.Sequential(*layers), block_size=3)


def test_names_are_found_once_and_equal_couplings_have_one_identity() -> None:
    _, second, third = _model().blocks[0].block.states
    names = Names.of(second.drive)
    assert Names.of(second.drive) is names
    other = Names.of(third.drive)
    assert other is not names
    assert identity_of(other) is identity_of(names)
    twin = replace(second.drive)
    assert Names.of(twin) is not names
    assert identity_of(Names.of(twin)) is identity_of(names)


def test_couplings_that_compute_something_else_have_identities_of_their_own() -> None:
    first, second, _ = _model().blocks[0].block.states
    assert identity_of(Names.of(first.drive)) is not identity_of(Names.of(second.drive)), "one reads an input"


def test_a_coupling_that_is_gone_is_forgotten() -> None:
    twin = replace(_model().blocks[0].block.states[1].drive)
    place, life = id(twin), weakref.ref(twin)
    Names.of(twin)
    assert place in explicit_names._KNOWN
    del twin
    gc.collect()
    assert life() is None
    assert place not in explicit_names._KNOWN


def test_answers_are_remembered_and_bounded() -> None:
    model, x = _model(), torch.ones(2, 3)
    block = model.blocks[0].block
    state = block.states[1]
    maps = Explicit()
    names = Names.of(replace(state.drive))
    for batch in range(1, explicit_names.ANSWERS + 5):
        call = model.block_call(block, {block.inputs[0]: x[:1].expand(batch, 3)})
        states = call.bound.feedforward()
        read, sources = read_of(call.bound, state), sources_of(state, states)
        assert maps.kept.sweeps(state, read, sources) is maps.kept.sweeps(state, read, sources)
        names.outward(maps.kept._sweeps(names, read, sources))
    assert len(names._answers) == explicit_names.ANSWERS


def test_a_block_with_held_winners_is_made_once() -> None:
    layers = (nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3), nn.ReLU())
    block = fc.convert(nn.Sequential(*layers), block_size=2).blocks[0].block
    (winners,) = (f"{t.name}.winners" for s in block.states for t in s.drive.terms if t.operation.routed)
    held = block.held([winners])
    assert block.held({winners: torch.zeros(1)}) is held
    assert held.inputs == (*block.inputs, winners)
    assert block.held([]) is not held
