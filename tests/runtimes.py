"""Loaded bundles for the tests of the runtime, without a file in between."""

from __future__ import annotations

import copy
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from models import Entry, flatten
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import ffebm_compiler as fc
from ffebm_compiler import InputError
from ffebm_compiler.backends.torch_ep import private_copy
from ffebm_compiler.bundle import Contents
from ffebm_compiler.bundle.compile.gathering import Subject, contents_of
from ffebm_compiler.bundle.compile.options import BundleOptions
from ffebm_compiler.bundle.run import Runtime
from ffebm_compiler.bundle.run.load import runtime_of
from ffebm_compiler.model.converted_module import runner_of


def compiled(model: fc.FFEBM, args: tuple[Any, ...]) -> Contents:
    """What the model's bundle holds; parts that ONNX can't express are left out."""
    options = BundleOptions(None, 0, "skip", False)
    return contents_of(Subject(private_copy(runner_of(model)), args, {}, options))


def loaded(model: fc.FFEBM, args: tuple[Any, ...], **options: Any) -> Runtime:
    return runtime_of(compiled(model, args), **options)


class SameDropout(TorchFunctionMode):
    """Dropout that keeps by uniform numbers of a generator of its own, as a bundle's graphs do.

    A check of the first input would draw from it, too: the models that it is for are used with ``verify=False``.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        named = dict(kwargs or {})
        if func not in (torch.nn.functional.dropout, torch.dropout, torch.ops.aten.dropout.default):
            return func(*args, **named)
        x, p, training = (*args, *(named[k] for k in ("p", "training", "train") if k in named))[:3]
        if not training or p == 0:
            return x
        kept = torch.rand(x.shape, generator=self.generator) >= p
        return x * kept / (1 - p)


def without_attention_dropout(net: nn.Module) -> nn.Module:
    """The same network; a fused attention draws where no test can see it."""
    for module in net.modules():
        if "Attention" not in type(module).__name__:
            continue
        for name in ("dropout", "dropout_p", "dropout_prob", "attention_dropout"):
            if isinstance(module.__dict__.get(name), float):
                setattr(module, name, 0.0)
        for child in module.children():
            if isinstance(child, nn.Dropout):
                child.p = 0.0
    return net


@contextmanager
def no_differentiation(monkeypatch: Any) -> Iterator[None]:
    """Nothing may differentiate automatically."""

    def refused(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("automatic differentiation at run time")

    with monkeypatch.context() as patched:
        for owner, name in (
            (torch.autograd, "grad"),
            (torch.autograd, "backward"),
            (torch.Tensor, "backward"),
            (torch.autograd.Function, "apply"),
            (torch.autograd.graph, "_engine_run_backward"),
            (torch.autograd, "_engine_run_backward"),
        ):
            if hasattr(owner, name):
                patched.setattr(owner, name, refused)
        yield


@dataclass(frozen=True)
class Agreement:
    """How a bundle compares with its model.

    Attributes:
        outputs: largest difference of an output, relative to its largest value.
        gradients: largest difference of a gradient, relative to the largest of all.
        rounding: of the executor's own gradients, against float64, on the same scale.
        statistics: largest difference of a running statistic after the step, relative.
        sweeps: whether every block took the same.
        refused: graphs that ONNX can't express.
    """

    outputs: float
    gradients: float
    rounding: float
    statistics: float
    sweeps: bool
    refused: int


def agreement(entry: Entry) -> Agreement:
    """A model of the zoo and its bundle: inference, then one training step with the same dropout."""
    net, args = entry.build()
    model = fc.convert(
        without_attention_dropout(net), block_size=2, example_inputs=args if entry.export else None
    ).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter
        runtime = loaded(model, args)
    with torch.no_grad():
        outputs = _farthest(flatten(runtime(*args)), flatten(model(*args)))
    sweeps = [r.sweeps for r in runtime.relaxation] == [r.sweeps for r in model.relaxation]
    exact = copy.deepcopy(model).double()
    theirs = stepped(model, args)
    try:
        precise = stepped(exact, torch.utils._pytree.tree_map(_double, args))
    except InputError:  # an exported graph insists on its precision
        precise = theirs
    runtime.trainer(seed=SEED)
    runtime.train_step(args, LOSS, linear_loss)
    ours = runtime.gradients()
    buffers = dict(model.network.named_buffers())
    state = dict(runtime.model.network.named_buffers())
    moved = [n for n, b in buffers.items() if b.is_floating_point()]
    return Agreement(
        outputs, _gradients(ours, theirs), _gradients(theirs, precise),
        _farthest([state[n] for n in moved], [buffers[n] for n in moved]), sweeps, len(runtime.contents.refused),
    )  # fmt: skip


SEED, LOSS = 0, 3
"""Of dropout, and of the random loss."""


def stepped(model: fc.FFEBM, args: tuple[Any, ...]) -> dict[str, Tensor]:
    """The gradients of one step in training mode."""
    model.train()
    with model.using(verify=False), SameDropout(SEED):
        loss, _ = linear_loss(flatten(model(*args)), LOSS)
        loss.backward()
    return {n: p.grad for n, p in model.network.named_parameters() if p.grad is not None}


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _farthest(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    pairs = zip(ours, theirs, strict=True)
    tiny = torch.finfo(torch.float32).tiny
    return max((float((a - b).abs().max() / b.abs().max().clamp(min=tiny)) for a, b in pairs if b.numel()), default=0.0)


def _gradients(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    zero = torch.zeros(())
    largest = max(float(g.abs().max()) for g in theirs.values())
    return max(float((ours.get(n, zero) - theirs.get(n, zero)).abs().max()) for n in {*ours, *theirs}) / largest


def linear_loss(outputs: Any, seed: Any) -> tuple[Tensor, Any]:
    """A random linear function of every output, and its gradient."""
    generator = torch.Generator().manual_seed(int(seed))
    leaves, tree = torch.utils._pytree.tree_flatten(outputs)
    floating = [isinstance(v, Tensor) and v.is_floating_point() for v in leaves]
    weights = deque(torch.randn(v.shape, generator=generator).to(v) for v, f in zip(leaves, floating, strict=True) if f)
    errors = [weights.popleft() if f else None for f in floating]
    pairs = [(v, e) for v, e in zip(leaves, errors, strict=True) if e is not None]
    total = torch.stack([(v * e).sum() for v, e in pairs]).sum()
    return total, torch.utils._pytree.tree_unflatten(errors, tree)
