"""What running a model costs outside of its arithmetic: Python calls grow with the layers, not with their square, and
nothing is copied.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.ffebm import FFEBM
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.solve import contraction_of

BATCH, WIDTH = 3, 4

MODES: dict[str, Callable[[FFEBM], Any]] = {
    "a forward pass": lambda m: _evaluated(m),
    "a training step": lambda m: _trained(m),
    "the generated step": lambda m: m.training_step(*_data(), nn.functional.mse_loss),
    "the report": lambda m: m.report(),
    "the training code": lambda m: m.training_code,
    "what is verified": lambda m: m.verified,
    "looking for gains": lambda m: m.ensure_gains(_data()[0]),
}


def _data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, WIDTH, generator=generator), torch.randn(BATCH, WIDTH, generator=generator)


def _evaluated(model: FFEBM) -> Tensor:
    with torch.no_grad():
        return model(_data()[0])  # type: ignore[no-any-return]


def _trained(model: FFEBM) -> None:
    x, y = _data()
    nn.functional.mse_loss(model(x), y).backward()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.0001)  # other weights


def _chain(layers: int, block_size: int = 2) -> FFEBM:
    """Equal layers, so that blocks settle in the same sweeps however many there are."""
    layer = nn.Linear(WIDTH, WIDTH)
    nn.init.eye_(layer.weight)
    nn.init.constant_(layer.bias, 0.1)
    return fc.convert(
        nn.Sequential(*[m for _ in range(layers) for m in (copy.deepcopy(layer), nn.ReLU())]), block_size=block_size
    )


def _calls(function: Callable[[], Any]) -> int:
    """How many Python functions are entered in this thread; backward runs in it as well."""
    count = 0

    def heard(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    with torch.autograd.set_multithreading_enabled(False):
        sys.setprofile(heard)
        try:
            function()
        finally:
            sys.setprofile(before)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("what", MODES)
def test_calls_grow_with_the_layers(what: str) -> None:
    run = MODES[what]
    found = []
    for layers in (16, 32):
        model = _chain(layers).train()
        for _ in range(2):
            _trained(model)
        run(model)  # what is made once
        found.append(_calls(lambda model=model: run(model)))  # type: ignore[misc]
    assert 0 < found[1] <= 2.2 * found[0], found


def test_calls_grow_with_the_layers_of_one_block() -> None:
    found = []
    for layers in (8, 16):
        model = _chain(layers, block_size=layers).eval()
        assert len(model.blocks) == 1
        with model.using(tolerance=1e-30, max_sweeps=4), warnings.catch_warnings():
            warnings.simplefilter("ignore", fc.ConvergenceWarning)
            _evaluated(model)
            found.append(_calls(lambda model=model: _evaluated(model)))  # type: ignore[misc]
    assert found[1] <= 2.2 * found[0], found


def test_a_training_step_after_a_change_measures_again() -> None:
    model = _chain(4).train()
    _trained(model)
    block = model.blocks[0].block
    first = runner_of(model).gains(block)
    assert first is not None
    with torch.no_grad():
        model.get_parameter("2.weight").mul_(2.0)
    _trained(model)
    second = runner_of(model).gains(block)
    assert second is not None
    (edge,) = first.norms
    assert second.norms[edge] == pytest.approx(2 * first.norms[edge], rel=1e-3)


def test_gains_are_looked_for_without_copying_parameters_or_moving_statistics() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
    model = fc.convert(net, block_size=2).train()
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    copied = []
    original = nn.Parameter.__deepcopy__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Parameter, "__deepcopy__", lambda p, memo: copied.append(p) or original(p, memo))
        model.ensure_gains(_data()[0])
    assert not copied
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())
    assert all(runner_of(model).gains(b.block) is not None for b in model.blocks)
    assert all(p.grad is None for p in model.parameters())
    assert not model.relaxation


def test_what_gains_certify_is_found_once_for_as_long_as_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _chain(4).eval()
    _evaluated(model)
    asked = []
    monkeypatch.setattr(
        "ffebm_compiler.model.gain_store.contraction_of",
        lambda b, g: asked.append(b) or contraction_of(b, g),
    )
    _evaluated(model)
    assert not asked
    _trained(model.train())
    _trained(model)
    assert asked, "other gains certify something else"
    for view in model.blocks:
        gains = runner_of(model).block_gains.store.find(view.block, model.execution.loop_gain)
        assert gains is not None
        assert runner_of(model).block_gains.store.contraction(view.block, gains) == contraction_of(view.block, gains)
