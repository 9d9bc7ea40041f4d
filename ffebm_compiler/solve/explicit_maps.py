"""The derivatives of one coupling ``f(s, x; theta)`` as code, cut by how often each part runs.

    sweep        once: x, theta          forward: s -> f              back: c -> J^T c
    linear       at: s*, c*, x, theta -> f, J^T c*      pull: c -> J^T c      push: d -> J d, d/ds <c*, J d>
    gradient     s, c, x, theta -> d/d(x, theta) <c, f>
    contrast     s*, c*, D, D_m, h, h_m, x, theta -> d/d(x, theta) [<D_m, f> + <c* + h_m, J D> + <D_m, J h>]

For the contrast ``J D`` is the code of push and is differentiated as such: the derivative of a plain convolution, say, rather than
the second derivative of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..ir import Coupling, Weight
from .explicit_code import Code, Key, cut, only
from .explicit_narrow import is_narrow, narrowed
from .explicit_trace import traced

# Names of values that no program has, since they are no strings.

F, COTANGENT, FREE, OFFSET, AHEAD = ("f",), ("c",), ("c*",), ("h_m",), ("J d",)


def source(name: str) -> Key:
    """A state that f reads."""
    return ("s", name)


def moved(name: str) -> Key:
    """Its displacement d, or D in the contrast."""
    return ("d", name)


def offset(name: str) -> Key:
    """Its part of h."""
    return ("h", name)


def pulled(name: str) -> Key:
    """J^T c into it."""
    return ("J^T c", name)


def at_free(name: str) -> Key:
    """J^T c* into it."""
    return ("J^T c*", name)


def curved(name: str) -> Key:
    """d/ds <c*, J d> in it."""
    return ("curvature", name)


@dataclass(frozen=True)
class Read:
    """What a coupling reads besides states: tensors by key, and what is no tensor, by name, which the code holds as it is."""

    tensors: Mapping[Key, Tensor]
    constants: Mapping[str, Any]

    @staticmethod
    def of(coupling: Coupling, inputs: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Read:
        values = {n: inputs[n] for n in coupling.inputs}
        tensors: dict[Key, Tensor] = {n: v for n, v in values.items() if isinstance(v, Tensor)}
        tensors |= {Weight(p): weights[p] for p in coupling.weights}
        return Read(tensors, {n: v for n, v in values.items() if not isinstance(v, Tensor)})


def key_of(coupling: Coupling, name: str) -> Key:
    """The key of an input, or of a weight by its path."""
    return name if name in coupling.inputs else Weight(name)


def evaluate(coupling: Coupling, constants: Mapping[str, Any], values: Mapping[Key, Tensor]) -> Tensor:
    """f from values by key."""
    named = {**constants, **{n: values[n] for n in coupling.inputs if n in values}}
    named |= {n: values[source(n)] for n in coupling.sources}
    return coupling.evaluate(named, {p: values[Weight(p)] for p in coupling.weights})


def _leaves(values: Mapping[Key, Tensor], keys: Sequence[Key]) -> dict[Key, Tensor]:
    """Values to differentiate in."""
    return {k: values[k].detach().requires_grad_() for k in keys}


@dataclass(frozen=True)
class SweepMaps:
    """f and its transpose: ``once`` for a relaxation, ``forward`` at each new point, ``back`` for each cotangent.

    ``beside`` is what ``back`` needs of ``forward`` where f is known.
    """

    once: Code
    forward: Code
    beside: Code
    back: Code


def sweep_maps(coupling: Coupling, read: Read, sources: Mapping[str, Tensor]) -> SweepMaps:
    def joint(values: dict[Key, Tensor]) -> dict[Key, Tensor]:
        with torch.enable_grad():
            leaves = _leaves(values, [source(n) for n in sources])
            f = evaluate(coupling, read.constants, {**values, **leaves})
            back = torch.autograd.grad(f, list(leaves.values()), values[COTANGENT]) if sources else ()
        return {F: f, **{pulled(n): b for n, b in zip(sources, back, strict=True)}}

    whole = traced(joint, {**_examples(coupling, read, sources), **_like_f(coupling, read, sources, COTANGENT)})
    once, each = cut(whole, set(read.tensors))
    forward, back = cut(each, {*each.inputs} - {COTANGENT})
    return SweepMaps(once, forward, only(forward, [k for k in forward.outputs if k != F]), back)


@dataclass(frozen=True)
class LinearMaps:
    """f linearised: ``at`` a point once, then ``pull`` and ``push`` for each displacement; ``around`` is f and J^T c* at the point, where asked for.

    ``whole_push`` is J d from all that it reads.
    """

    at: Code
    around: Code
    pull: Code
    push: Code
    whole_push: Code


def linear_maps(coupling: Coupling, read: Read, sources: Mapping[str, Tensor], cotangent: Tensor) -> LinearMaps:
    whole = _linear_map(coupling, read, sources, cotangent)
    after = {moved(n) for n in sources} | {COTANGENT}
    around = [F, *(at_free(n) for n in sources)]
    at, each = cut(only(whole, [k for k in whole.outputs if k not in around]), {*whole.inputs} - after)
    back = [pulled(n) for n in sources]
    ahead = [k for k in each.outputs if k not in back]
    push = only(whole, [AHEAD]) if sources else whole
    return LinearMaps(at, only(whole, around), only(each, back), only(each, ahead), push)


@dataclass(frozen=True)
class NarrowMaps:
    """A linear f and its Jacobian with products in bfloat16: ``once`` for a relaxation, the others at each point and for each displacement."""

    once: Code
    forward: Code
    pull: Code
    push: Code

    @cached_property
    def pays(self) -> bool:
        """Whether any product is narrow."""
        return any(is_narrow(code) for code in (self.forward, self.pull, self.push))


def narrow_maps(coupling: Coupling, read: Read, sources: Mapping[str, Tensor]) -> NarrowMaps:
    (cotangent,) = _like_f(coupling, read, sources, COTANGENT).values()
    whole = narrowed(_linear_map(coupling, read, sources, cotangent))
    back = [pulled(n) for n in sources]
    once, each = cut(only(whole, [F, *back, *([AHEAD] if sources else [])]), set(read.tensors))
    return NarrowMaps(once, *(only(each, [k for k in wanted if k in each.outputs]) for wanted in ([F], back, [AHEAD])))


def _linear_map(coupling: Coupling, read: Read, sources: Mapping[str, Tensor], cotangent: Tensor) -> Code:
    """f, and all that is asked of its Jacobian, from all that they read."""

    def joint(values: dict[Key, Tensor]) -> dict[Key, Tensor]:
        with torch.enable_grad():
            leaves = _leaves(values, [source(n) for n in sources])
            f = evaluate(coupling, read.constants, {**values, **leaves})
            if not sources:
                return {F: f}
            return {F: f, **_transposes(coupling, f, leaves, values, sources)}

    return traced(
        joint,
        {
            **_examples(coupling, read, sources),
            **{COTANGENT: cotangent, FREE: cotangent},
            **{moved(n): v for n, v in sources.items()},
        },
    )


def _transposes(
    coupling: Coupling,
    f: Tensor,
    leaves: Mapping[Key, Tensor],
    values: Mapping[Key, Tensor],
    sources: Mapping[str, Any],
) -> dict[Key, Tensor]:
    """J^T c at the free cotangent and at another; J d and the curvature, by differentiating the first."""
    inner, d = list(leaves.values()), [values[moved(n)] for n in sources]
    free = values[FREE].detach().requires_grad_()
    at = torch.autograd.grad(f, inner, free, create_graph=True)
    back = torch.autograd.grad(f, inner, values[COTANGENT], retain_graph=True)
    smooth = not coupling.is_linear
    ahead, *bent = torch.autograd.grad(at, [free, *(inner if smooth else ())], d, allow_unused=True)
    found = {at_free(n): t for n, t in zip(sources, at, strict=True)}
    found |= {pulled(n): t for n, t in zip(sources, back, strict=True)}
    return {**found, AHEAD: ahead, **{curved(n): t for n, t in zip(sources, bent, strict=False) if t is not None}}


def gradient_map(coupling: Coupling, read: Read, sources: Mapping[str, Tensor], wanted: Sequence[Key]) -> Code:
    """``d/d(x, theta) <c, f>``; it gives what does not vanish."""

    def terms(values: Mapping[Key, Tensor]) -> list[tuple[Tensor, Tensor]]:
        return [(values[COTANGENT], evaluate(coupling, read.constants, values))]

    examples = {**_examples(coupling, read, sources), **_like_f(coupling, read, sources, COTANGENT)}
    return traced(_gradient_of(terms, wanted), examples)


def contrast_map(
    coupling: Coupling,
    read: Read,
    sources: Mapping[str, Tensor],
    cotangent: Tensor,
    wanted: Sequence[Key],
    push: Code,
    mean: bool,
) -> Code:
    """The gradient of the contrast's function of one coupling; it gives what does not vanish.

    Args:
        push: ``J d`` from all that it reads.
        mean: whether there is an offset h.
    """

    def terms(values: Mapping[Key, Tensor]) -> list[tuple[Tensor, Tensor]]:
        found = [(values[COTANGENT], evaluate(coupling, read.constants, values))]
        if sources:
            found.append((values[FREE] + values[OFFSET] if mean else values[FREE], push(values)[AHEAD]))
        if sources and mean:
            shifts = {moved(n): values[offset(n)] for n in sources}
            found.append((values[COTANGENT], push({**values, **shifts})[AHEAD]))
        return found

    examples = {**_examples(coupling, read, sources), COTANGENT: cotangent, FREE: cotangent, OFFSET: cotangent}
    examples |= {k(n): v for k in (moved, offset) for n, v in sources.items()}
    return traced(_gradient_of(terms, wanted), examples)


def _gradient_of(
    terms: Callable[[Mapping[Key, Tensor]], Sequence[tuple[Tensor, Tensor]]], wanted: Sequence[Key]
) -> Callable[[dict[Key, Tensor]], dict[Key, Tensor]]:
    """The gradient of ``sum <c, y>`` over the pairs (c, y), the c held."""

    def gradient(values: dict[Key, Tensor]) -> dict[Key, Tensor]:
        with torch.enable_grad():
            leaves = _leaves(values, wanted)
            pairs = [(c, y) for c, y in terms({**values, **leaves}) if y.requires_grad]
            if not pairs:
                return {}
            c, y = zip(*pairs, strict=True)
            found = torch.autograd.grad(y, list(leaves.values()), c, allow_unused=True)
        return {k: g for k, g in zip(leaves, found, strict=True) if g is not None}

    return gradient


def _examples(coupling: Coupling, read: Read, sources: Mapping[str, Tensor]) -> dict[Key, Tensor]:
    return {**read.tensors, **{source(n): v for n, v in sources.items()}}


def _like_f(coupling: Coupling, read: Read, sources: Mapping[str, Tensor], key: Key) -> dict[Key, Tensor]:
    with torch.no_grad():
        return {key: evaluate(coupling, read.constants, _examples(coupling, read, sources))}
