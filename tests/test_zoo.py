"""Every model of the zoo: blocks of size one are the model itself, and larger ones settle.

At block size 1 there is no feedback, so output, gradient and running statistics are the model's own, up to the
rounding of another order of summation.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from models import ZOO, Entry, flatten
from torch import Tensor, nn

import ffebm_compiler as fc

pytestmark = pytest.mark.slow

OUTPUT, GRADIENT = 1e-6, 1e-5  # relative, float32
ROUNDING = 1e-6
"""A gradient that is zero but for rounding (of a bias before a batch norm) is compared with the norm of all gradients.
"""


def entries(*settings: Any, heavy: int = 1) -> list[Any]:
    """Each entry with each setting; heavy ones with the first few only."""
    chosen = [(e, s) for e in ZOO for s in (settings[:heavy] if e.heavy else settings)]
    return [
        pytest.param(
            e, s, id=f"{e.name}-{s}", marks=pytest.mark.skipif(not e.installed, reason=f"{e.requires} is not installed")
        )
        for e, s in chosen
    ]


def converted(entry: Entry, model: nn.Module, args: tuple[Any, ...], size: int, norm: str = "auto") -> fc.FFEBM:
    return fc.convert(model, block_size=size, norm=norm, example_inputs=args if entry.export else None)


def step(model: nn.Module, args: tuple[Any, ...]) -> tuple[list[Tensor], dict[str, Tensor | None]]:
    """Outputs and gradients of a random linear loss, with the same random numbers for every model."""
    model.zero_grad()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        outputs = flatten(model(*args))
        loss = sum((o * torch.randn_like(o)).sum() for o in outputs)
        assert isinstance(loss, Tensor)
        loss.backward()
    return [o.detach() for o in outputs], {n: p.grad for n, p in model.named_parameters()}


def norm(tensors: Any) -> float:
    return float(torch.stack([t.norm() for t in tensors if t is not None]).norm())


@pytest.mark.parametrize(("entry", "training"), entries(True, False))
def test_block_size_one_is_the_model(entry: Entry, training: bool) -> None:
    net, args = entry.build()
    model = converted(entry, net, args, 1).train(training)
    before = copy.deepcopy(net.state_dict())
    net.train(training)
    got, gradients = step(model, args)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), "the original model was modified"
    expected, exact = step(net, args)
    assert not any(b.block.has_feedback for b in model.blocks)
    assert model.blocks, "something is analog"
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= OUTPUT * float(b.abs().max())
    for name, g in exact.items():
        other = gradients[name]
        if g is None or other is None:
            assert g is other or not (g if other is None else other).any(), name
        else:
            assert float((g - other).norm()) <= GRADIENT * float(g.norm()) + ROUNDING * norm(exact.values()), name
    buffers = dict(model.named_buffers())  # constants of the trace are there too
    for name, b in net.named_buffers():
        assert torch.allclose(buffers[name], b, rtol=1e-6, atol=1e-7), f"buffer {name} after one step"
    _check_state_dicts(model, net)


def _check_state_dicts(model: fc.FFEBM, net: nn.Module) -> None:
    own, theirs = model.state_dict(), net.state_dict()
    assert list(own) == list(theirs)
    model.load_state_dict(theirs)
    net.load_state_dict(own)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in net.named_parameters()]


@pytest.mark.parametrize(
    ("entry", "setting"), entries((2, "auto"), (3, "auto"), (2, "held"), (3, "split"), (6, "auto"), heavy=2)
)
def test_larger_blocks_settle(entry: Entry, setting: tuple[int, str]) -> None:
    net, args = entry.build()
    size, norms = setting
    with warnings.catch_warnings():
        warnings.simplefilter("error", fc.ConvergenceWarning)
        model = converted(entry, net, args, size, norms)
        for training in (True,) if entry.heavy else (True, False):
            outputs, gradients = step(model.train(training), args)
            assert len(model.relaxation) == len(model.blocks) > 0
            assert all(r.converged for r in model.relaxation)
            assert all(r.converged for found in model.nudged_relaxation.values() for r in found)
            assert all(torch.isfinite(t).all() for t in (*outputs, *(g for g in gradients.values() if g is not None)))
            assert all(b.size <= size for b in model.blocks)
            assert {n for n, g in gradients.items() if g is None} == {
                n for n, g in step(net.train(training), args)[1].items() if g is None
            }


@pytest.mark.parametrize(("entry", "_"), entries("", heavy=0))
def test_the_feedforward_model_comes_back(entry: Entry, _: str) -> None:
    net, args = entry.build()
    back = converted(entry, net, args, 2).to_feedforward()
    assert type(back) is type(net)
    assert list(back.state_dict()) == list(net.state_dict())
    with torch.no_grad():
        assert all(
            torch.equal(a, b) for a, b in zip(flatten(back.eval()(*args)), flatten(net.eval()(*args)), strict=True)
        )
