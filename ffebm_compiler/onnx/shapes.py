"""Sizes as expressions in the batch: a program run once on tensors that have shapes and no numbers.

The first argument's first size is the symbol ``batch``; what the program computes from it comes out as ``batch``,
``7*batch``, ``batch//2``. Sizes of the example are read nowhere, so that none is taken for the batch by coincidence.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import sympy
import torch
from torch import SymInt, Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from ..ir import EnergyBlock, Program, Step
from ..quiet import quiet_torch
from ..solve import BoundBlock, unit_gains
from ..torch_private import TreeSpec, tree_flatten, tree_unflatten
from ..train import attribute, run_digital

logger = logging.getLogger(__name__)

BATCH = sympy.Symbol("batch", integer=True, positive=True)
Size: TypeAlias = "int | sympy.Expr"

OTHER_SIZES = (2, 3, 4, 5, 8, 17, 64, 1000)
"""Sizes at which what was found for one must hold too."""


@dataclass(frozen=True)
class TensorLeaf:
    """A tensor."""

    dtype: torch.dtype
    sizes: tuple[Size, ...]


@dataclass(frozen=True)
class SizeLeaf:
    """A whole number: a port of its own."""

    size: Size


@dataclass(frozen=True)
class NumberLeaf:
    """A fractional number: a port of its own."""

    value: float


@dataclass(frozen=True)
class FixedLeaf:
    """Anything else, which is the same in every call: a flag, None, a type."""

    value: Any


Leaf = TensorLeaf | SizeLeaf | NumberLeaf | FixedLeaf


@dataclass(frozen=True)
class Shape:
    """What a value of a program is: a tensor, a number, or a nest of them."""

    tree: TreeSpec
    leaves: tuple[Leaf, ...]

    def named(self, name: str) -> Iterator[tuple[str, Leaf]]:
        """Each leaf and what it is called: the value's name, or that and its place in the nest."""
        if self.tree.is_leaf():
            yield name, self.leaves[0]
            return
        for i, leaf in enumerate(self.leaves):
            yield f"{name}[{i}]", leaf


# Private parts of torch, and what replaces them: FakeTensorMode and ShapeEnv with its ConstantSource by torch.export of
# one operation with torch.export.Dim; sympy_interp with PythonReferenceAnalysis by sympy.lambdify; the dispatcher that
# decomposes in Python by a table of decompositions.


class Space:
    """Fake tensors that share one set of symbols.

    Args:
        numbers: what each symbol stands for.
        dynamic: whether sizes stay symbols; otherwise they are these numbers.
    """

    def __init__(self, numbers: Mapping[sympy.Symbol, int], dynamic: bool = True):
        self.env = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.env, allow_non_fake_inputs=True)
        self.sizes: dict[sympy.Symbol, int | SymInt] = dict(numbers)
        self._ours: dict[sympy.Symbol, sympy.Symbol] = {}
        self._tensors: dict[int, tuple[Tensor, Tensor]] = {}
        for symbol, number in numbers.items() if dynamic else ():
            self._declare(symbol, number)

    def _declare(self, symbol: sympy.Symbol, number: int) -> None:
        source = ConstantSource(str(symbol))
        theirs = self.env.create_symbol(number, source, DimDynamic.DYNAMIC, None, positive=bool(symbol.is_positive))
        self.sizes[symbol] = self.env.create_symintnode(theirs, hint=number, source=source)
        self._ours[theirs] = symbol

    # --- into the space ---

    def make(self, shape: Shape) -> Any:
        """A value of this shape, without numbers."""
        return tree_unflatten([self.leaf(leaf) for leaf in shape.leaves], shape.tree)

    def leaf(self, leaf: Leaf) -> Any:
        if isinstance(leaf, TensorLeaf):
            with self.mode:
                return torch.empty([self.size(s) for s in leaf.sizes], dtype=leaf.dtype)
        if isinstance(leaf, NumberLeaf):
            with self.mode:
                return torch.empty((), dtype=torch.get_default_dtype())
        return self.size(leaf.size) if isinstance(leaf, SizeLeaf) else leaf.value

    def size(self, size: Size) -> int | SymInt:
        if isinstance(size, int) or size.is_number:
            return int(size)
        found: int | SymInt = sympy_interp(PythonReferenceAnalysis, self.sizes, size)
        return found

    def tensor(self, tensor: Tensor) -> Tensor:
        """A tensor of the model, on the processor; one that is used under two names is one here too."""
        if id(tensor) not in self._tensors:
            with self.mode:
                self._tensors[id(tensor)] = (tensor, torch.empty(tensor.shape, dtype=tensor.dtype))
        return self._tensors[id(tensor)][1]

    # --- out of it ---

    def shape(self, value: Any) -> Shape:
        leaves, tree = tree_flatten(value)
        return Shape(tree, tuple(self._describe(v) for v in leaves))

    def _describe(self, value: Any) -> Leaf:
        if isinstance(value, Tensor):
            return TensorLeaf(value.dtype, tuple(self._size(s) for s in value.shape))
        if isinstance(value, (int, SymInt)) and not isinstance(value, bool):
            return SizeLeaf(self._size(value))
        return NumberLeaf(value) if isinstance(value, float) else FixedLeaf(value)

    def _size(self, size: int | SymInt) -> Size:
        if isinstance(size, int):
            return size
        found = size.node.expr.xreplace(self._ours)
        return int(found) if found.is_number else found

    @property
    def is_general(self) -> bool:
        """Whether nothing that was computed holds for the present sizes alone."""
        return not self.restrictions

    @property
    def restrictions(self) -> list[str]:
        """What the sizes were found to have to be."""
        fixed = [f"{ours} = {self.env.simplify(s)}" for s, ours in self._ours.items() if self.env.simplify(s) != s]
        conditions = (g.expr for g in self.env.guards)
        return fixed + [
            str(c.xreplace(self._ours)) for c in conditions if not all(self._holds(c, n) for n in OTHER_SIZES)
        ]

    def _holds(self, condition: Any, number: int) -> bool:
        return bool(condition.xreplace({s: sympy.Integer(number) for s in self._ours}) != sympy.false)


@dataclass(frozen=True)
class Shapes:
    """The shapes of every value of a program.

    Attributes:
        values: by name, in terms of the symbols.
        recorded: the same on the example.
        example: what the symbols are there.
        probe: numbers for the symbols that nothing else in the model is as large as.
    """

    values: Mapping[str, Shape]
    recorded: Mapping[str, Shape]
    example: Mapping[sympy.Symbol, int]
    probe: Mapping[sympy.Symbol, int] = field(default_factory=dict)

    def unforeseen(self, names: Iterable[str]) -> str | None:
        """The first of those values whose size no call tells beforehand: it follows from the numbers in a tensor."""
        return next((n for n in names if n in self.values and self._is_unforeseen(self.values[n])), None)

    def _is_unforeseen(self, shape: Shape) -> bool:
        sizes = [s for v in shape.leaves for s in (v.sizes if isinstance(v, TensorLeaf) else [getattr(v, "size", 0)])]
        return any(isinstance(s, sympy.Expr) and s.free_symbols - set(self.example) for s in sizes)

    def spaces(self) -> Iterator[tuple[Space, Mapping[str, Shape]]]:
        """Where to try: sizes as symbols, and failing that as they are on the example."""
        if self.probe:
            yield Space(self.probe), self.values
        yield Space(self.example, dynamic=False), self.recorded


def shapes_of(program: Program, network: nn.Module, values: Mapping[str, Any]) -> Shapes:
    """The shapes of a program's values, from those of an example.

    Args:
        values: every value of the program on the example.
    """
    plain = Space({})
    recorded = {n: plain.shape(v) for n, v in values.items()}
    example = _symbols(program, recorded)
    batch = example.get(BATCH)
    inputs = {n: _as_given(n, recorded[n], batch) for n in program.inputs}
    if not example:
        return Shapes(recorded, recorded, example)
    probe = dict(zip(example, _unlike(network, recorded, len(example)), strict=True))
    found = dict(inputs)
    space, known = Space(probe), dict[str, Any]()
    for step in program:
        known.update((n, space.make(found[n])) for n in step.inputs if n not in known)
        results = _run(space, step, network, known)
        if results is None or not space.is_general:  # start anew with what the example says
            logger.debug("%s fixes sizes: %s", step.name, space.restrictions)
            found.update((n, _resized(recorded[n], batch)) for n in step.outputs)
            space, known = Space(probe), {}
            continue
        known.update((n, results[n]) for n in step.outputs)
        found.update((n, space.shape(known[n])) for n in step.outputs)
    return Shapes(found, recorded, example, probe)


def symbols_of(program: Program, values: Mapping[str, Any]) -> dict[str, int]:
    """What the names in the shapes stand for in one call: the batch, and arguments that are whole numbers."""
    plain = Space({})
    return {str(s): n for s, n in _symbols(program, {i: plain.shape(values[i]) for i in program.inputs}).items()}


def _symbols(program: Program, recorded: Mapping[str, Shape]) -> dict[sympy.Symbol, int]:
    batch = _batch(program, recorded)
    return {**({BATCH: batch} if batch is not None else {}), **_numbers(program, recorded)}


def _batch(program: Program, recorded: Mapping[str, Shape]) -> int | None:
    """The first size of the first argument."""
    for name in program.inputs:
        for leaf in recorded[name].leaves:
            if isinstance(leaf, TensorLeaf) and leaf.sizes:
                return int(leaf.sizes[0])
    return None


def _numbers(program: Program, recorded: Mapping[str, Shape]) -> dict[sympy.Symbol, int]:
    """A symbol for each argument that is a whole number."""
    named = [n for p in program.inputs for n in recorded[p].named(p)]
    return {_symbol(n): int(leaf.size) for n, leaf in named if isinstance(leaf, SizeLeaf)}


def _symbol(name: str) -> sympy.Symbol:
    return sympy.Symbol(name, integer=True)


def _as_given(name: str, shape: Shape, batch: int | None) -> Shape:
    """An argument: its numbers are symbols too."""
    named = [(n, leaf) for n, leaf in _resized(shape, batch).named(name)]
    return Shape(shape.tree, tuple(SizeLeaf(_symbol(n)) if isinstance(v, SizeLeaf) else v for n, v in named))


def _resized(shape: Shape, batch: int | None) -> Shape:
    """A recorded shape with the batch in the place of its number, where that stands first."""

    def leaf(found: Leaf) -> Leaf:
        if isinstance(found, TensorLeaf) and found.sizes and found.sizes[0] == batch:
            return TensorLeaf(found.dtype, (BATCH, *found.sizes[1:]))
        return found

    return Shape(shape.tree, tuple(map(leaf, shape.leaves)))


def _unlike(network: nn.Module, recorded: Mapping[str, Shape], count: int) -> list[int]:
    """Primes that nothing in the model is as large as, so that no two sizes are equal by coincidence."""
    taken = {s for p in (*network.parameters(), *network.buffers()) for s in p.shape}
    taken |= {s for v in recorded.values() for leaf in v.leaves if isinstance(leaf, TensorLeaf) for s in leaf.sizes}
    found: list[int] = []
    candidate = 17
    while len(found) < count:
        if sympy.isprime(candidate) and candidate not in taken:
            found.append(candidate)
        candidate += 2
    return found


def _run(space: Space, step: Step, network: nn.Module, known: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a step computes; None where it can't without numbers."""
    try:
        with torch.no_grad(), space.mode, symbolically():
            found: Mapping[str, Any] = within(
                network, tensors_in(network, space), lambda: _results(step, network, known)
            )
            return found
    except Exception as failure:  # whatever a user's layer makes of a tensor without numbers
        logger.debug("%s can't be run on shapes alone: %s", step.name, failure)
        return None


@contextlib.contextmanager
def symbolically() -> Iterator[None]:
    """Operations as Python decomposes them, which leaves sizes symbols, and none of a processor's own."""
    plain = torch.backends.mkldnn.flags(enabled=False), torch.backends.nnpack.flags(enabled=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TF32 acceleration")  # oneDNN's flags hold one of Intel's GPUs
        with quiet_torch(), enable_python_dispatcher(), plain[0], plain[1], sdpa_kernel(SDPBackend.MATH):
            yield


def _results(step: Step, network: nn.Module, known: Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(step, EnergyBlock):
        inputs, weights = {n: known[n] for n in step.inputs}, {p: attribute(network, p) for p in step.weights}
        return BoundBlock(step, inputs, weights, unit_gains(step).layer_weights).feedforward()
    return run_digital(step, network, known)


def tensors_in(network: nn.Module, space: Space) -> dict[str, Tensor]:
    """Every tensor of a model without its numbers, by path."""
    return {n: space.tensor(t) for n, t in (*network.named_parameters(), *network.named_buffers())}


class _Around(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


def within(network: nn.Module, tensors: Mapping[str, Tensor], function: Callable[[], Any]) -> Any:
    """Runs a function while the network has these tensors, by path, in place of its own, also where they are tied."""
    given = {f"network.{path}": t for path, t in tensors.items()}
    registries: list[dict[str, Any]] = [r for m in network.modules() for r in (m._parameters, m._buffers)]
    own = [dict(r) for r in registries]
    try:
        return torch.func.functional_call(_Around(network), given, (function,))
    finally:  # of a module that has two names, torch puts back what it found at the second: the given tensor
        for registry, tensors_before in zip(registries, own, strict=True):
            registry.update(tensors_before)
