"""Everything on one device, whichever it is.

On a GPU a training step is compared with the float64 oracle. Without one, the same steps run on tensors that know their
shape, type and device and hold no numbers: a tensor that strays to another device is found there as it would be on a
GPU.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import models
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import ffebm_compiler as fc
from ffebm_compiler.model import runner
from ffebm_compiler.model.converted_module import runner_of

CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")],
)
DEVICES = ["cpu", CUDA]
ESTIMATORS = (fc.CenteredEP(), fc.OneSidedEP(), fc.TangentEP(), fc.Implicit())


# --- with numbers ------------------------------------------------------------------------------------------

X = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(3))
Y = torch.arange(6) % 5


def vgg(**options: Any) -> fc.FFEBM:
    torch.manual_seed(1)
    return fc.convert(models.vgg(), 2, **options)


def gradients(run: Any, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    F.cross_entropy(run(x).to(torch.promote_types(x.dtype, torch.float32)), y).backward()
    return {n: p.grad.double().cpu().flatten() for n, p in model.named_parameters()}


def exact(model: fc.FFEBM) -> dict[str, Tensor]:
    reference = copy.deepcopy(model).cpu().double()
    with reference.using(estimator=fc.Implicit(), tolerance=1e-12):
        return gradients(reference, reference, X.double(), Y)


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    return min(float(F.cosine_similarity(found[n], e, dim=0)) for n, e in expected.items())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_a_training_step(device: str, estimator: Any) -> None:
    model = vgg(estimator=estimator)
    expected = exact(model)
    model.to(device)
    assert worst(gradients(model, model, X.to(device), Y.to(device)), expected) > 0.9999
    assert all(r.converged for r in model.relaxation)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_a_used_model_may_move(device: str) -> None:
    model = vgg()
    gradients(model, model, X, Y)
    model.to(device)
    assert worst(gradients(model, model, X.to(device), Y.to(device)), exact(model)) > 0.9999
    back = vgg()
    back.load_state_dict({k: v.cpu() for k, v in model.state_dict().items()})
    torch.testing.assert_close(back.eval()(X), model.eval()(X.to(device)).cpu(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_mixed_precision(device: str) -> None:
    """bfloat16 flips some of the winners and kinks of this untrained network, so its gradient is a coarse one."""
    model = vgg()
    expected = exact(model)
    model.to(device)

    def run(x: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return model(x)

    assert worst(gradients(run, model, X.to(device), Y.to(device)), expected) > 0.9


@pytest.mark.parametrize("device", DEVICES)
def test_a_compiled_model(device: str) -> None:
    torch._dynamo.reset()
    model = vgg()
    expected = exact(model)
    model.to(device)
    run = torch.compile(model, backend="aot_eager" if device == "cpu" else "inductor")
    for _ in range(2):
        assert worst(gradients(run, model, X.to(device), Y.to(device)), expected) > 0.9999


@pytest.mark.parametrize("device", DEVICES)
def test_an_input_elsewhere_is_refused(device: str) -> None:
    other = "meta" if device == "cpu" else "cpu"
    with pytest.raises(fc.InputError, match=f"is on {other}, the model on {device}"):
        vgg().to(device)(X.to(other))


# --- without numbers -----------------------------------------------------------------------------------------

FAKE = "meta"
"""Any device but the CPU; this one every build of PyTorch can differentiate on."""

SWEEPS = 40
"""Numbers that are all alike never converge; so many sweeps are past a stall, and further ones repeat them."""

NAMES = ("mlp_gelu", "vgg_norm", "residual", "potentials", "softmax_head", "buffers", "transformer")


class Reading(TorchDispatchMode):
    """Numbers that are read of tensors without any: small ones, so that relaxations end, and False; all are alike.
    Counts how often a device is read.
    """

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.equal.default:
            assert args[0].device == args[1].device
            self.count += args[0].device.type != "cpu"
            return True
        if function is not torch.ops.aten._local_scalar_dense.default:
            found = function(*args, **(kwargs or {}))
            if function is torch.ops.aten._to_copy.default and args[0].device.type != "cpu":
                self.count += found.device.type == "cpu"
            return found
        self.count += args[0].device.type != "cpu"
        dtype = args[0].dtype
        return False if dtype == torch.bool else 1e-9 if dtype.is_floating_point else 1


@contextmanager
def _without_numbers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reading]:
    """Tensors without numbers; inputs are not looked at, and mixed precision, which the fake device lacks, is off."""
    monkeypatch.setattr(runner, "input_problems", lambda *given: ())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.bfloat16)
    monkeypatch.setattr(torch, "autocast", lambda *given, **named: nullcontext())
    with warnings.catch_warnings(), FakeTensorMode(), Reading() as reading:
        warnings.simplefilter("ignore", fc.ConvergenceWarning)
        yield reading


def moved(model: fc.FFEBM, device: str) -> None:
    for module in model.modules():
        for name, p in module._parameters.items():
            module._parameters[name] = (
                None if p is None else nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device=device))
            )
        for name, b in module._buffers.items():
            module._buffers[name] = None if b is None else torch.empty(b.shape, dtype=b.dtype, device=device)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_tensor_strays_to_another_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = next(e for e in models.ZOO if e.name == name)
    net, args = entry.build()
    model = fc.convert(net, 3, example_inputs=args if entry.export else None, max_sweeps=SWEEPS)
    runner_of(model).block_gains.store.forget()
    with _without_numbers(monkeypatch):
        moved(model, FAKE)
        inputs = tree_map_only(Tensor, lambda t: torch.empty(t.shape, dtype=t.dtype, device=FAKE), args)
        for estimator in (fc.CenteredEP(), fc.Implicit(), fc.CenteredEP(subtract=True)):
            with model.using(estimator=estimator):
                outputs = [t for t in tree_leaves(model(*inputs)) if isinstance(t, Tensor) and t.requires_grad]
                assert {t.device.type for t in outputs} == {FAKE}
                torch.stack([t.square().sum() for t in outputs]).sum().backward()
            assert {p.grad.device.type for p in model.parameters() if p.grad is not None} == {FAKE}


@pytest.mark.slow
def test_a_sweep_reads_one_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each number that is read of a tensor makes the processor wait for the device; a block reads once more before it
    ends early.
    """
    net, (x,) = next(e for e in models.ZOO if e.name == "vgg").build()
    model = fc.convert(net, 3, max_sweeps=SWEEPS).eval()
    runner_of(model).block_gains.store.forget()
    with _without_numbers(monkeypatch) as reading, torch.no_grad():
        moved(model, FAKE)
        given = torch.empty(x.shape, device=FAKE)
        model(given)  # measures the gains
        before = reading.count
        model(given)
        assert reading.count - before <= sum(r.sweeps + 1 for r in model.relaxation)
