"""Where the couplings of a block are linearised for their norms: one sample, made of random numbers that are always the same.

A Jacobian may depend on states (pooling winners, smooth activations) and on what the block is given. Were it taken at the values of a
batch, the reverse gains, and with them each sample's equilibrium, would depend on the other samples and on those seen before, and differ
from process to process. So every real value is a fixed random one of its shape: the norms follow from weights and shapes alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import FFEBMError
from .binding import BoundBlock, States
from .contraction import Edge
from .derivatives.interface import Differentiation, Linearised
from .smaller_image import on_few_pixels, on_smaller_image

Shapes = tuple[Any, ...]
"""What a sample follows from: by input its shape, or what is no real tensor as it is."""


FEW = 2
"""So many samples are not cut."""


@dataclass(frozen=True)
class Sample:
    """One sample of a block.

    Attributes:
        inputs: what the block reads; every real tensor random, sizes and whole numbers as they were given.
        point: by state: a random one where the Jacobian of a coupling depends on it, of its shape alone elsewhere.
        shapes: what both follow from.
        few: by state whose drive is one matrix on every pixel, a sample of its own, on a few pixels.
    """

    inputs: Mapping[str, Any]
    point: Mapping[str, Tensor]
    shapes: Shapes
    few: Mapping[str, Sample] = field(default_factory=dict)

    @staticmethod
    def of(bound: BoundBlock) -> Sample:
        one = one_sample(bound)
        with torch.no_grad():
            cut, states = on_smaller_image(one, one.feedforward())
            alone = {s.name: few for s in cut.block.states if (few := on_few_pixels(cut, s, states)) is not None}
        return replace(_random_sample(cut, states), few={n: _random_sample(*few) for n, few in alone.items()})

    def bind(self, bound: BoundBlock) -> BoundBlock:
        """A block with its own weights on this sample, in float32 at least: norms of half-precision weights overflow there."""
        weights = {p: w.detach().to(_wide(w.dtype)) for p, w in bound.weights.items()}
        return replace(bound, inputs=self.inputs, weights=weights, fixed={}, contraction=None)

    def source(self, edge: Edge) -> Tensor:
        """The state that a coupling is linearised in."""
        source, target = edge
        return self.few.get(target, self).point[source]

    def linearised(self, bound: BoundBlock, differentiation: Differentiation) -> Mapping[str, Linearised]:
        """A block's couplings on this sample, by the state that they drive."""
        bound = self.bind(bound)
        whole = differentiation.linearise(bound, self.point)
        few = {
            n: differentiation.linearise(replace(bound, block=bound.block.alone(n), inputs=s.inputs), s.point)
            for n, s in self.few.items()
        }
        return {s.name: few.get(s.name, whole) for s in bound.block.states}


def _random_sample(bound: BoundBlock, states: States) -> Sample:
    """A sample of these shapes."""
    moving = {
        n for s in bound.block.states if not s.drive.is_linear or s.drive.is_routed for n in (*s.drive.sources, s.name)
    }
    point = {n: random_like(v) if n in moving else _blank(v) for n, v in states.items()}
    inputs = {n: random_like(v, 1 + i) if _is_real(v) else v for i, (n, v) in enumerate(bound.inputs.items())}
    return Sample(inputs, point, tuple((n, _shape(v)) for n, v in bound.inputs.items()))


def given(bound: BoundBlock) -> Shapes | None:
    """What tells whether a block reads values of the same shapes as before, at no cost; None where it reads whole numbers."""
    if any(isinstance(v, Tensor) and not _is_real(v) for v in bound.inputs.values()):
        return None
    return tuple((n, *((v.shape, v.dtype, v.device) if isinstance(v, Tensor) else (v,))) for n, v in bound.inputs.items())  # fmt: skip


def one_sample(bound: BoundBlock) -> BoundBlock:
    """The block on the first sample: every tensor cut along the batch, and the sizes that count it set to one.

    Which sizes are the batch's can only be guessed, so a cut that the block does not accept, or in which a state is no sample of
    what it is on the batch, gives the whole block back.
    """
    tensors = [v for v in bound.inputs.values() if isinstance(v, Tensor) and v.dim() > 0]
    batches = {t.shape[0] for t in tensors}
    if len(batches) != 1 or batches == {1}:
        return bound
    sample = _cut_to_one(bound, *batches)
    try:
        with torch.no_grad():
            states = sample.feedforward()
    except FFEBMError:
        return bound
    return sample if _are_of_one_sample(states, bound, *batches) else bound


def _are_of_one_sample(states: Mapping[str, Tensor], bound: BoundBlock, batch: int) -> bool:
    """Whether the states of a cut have the shapes of one sample; only sizes that were not cut could make it otherwise."""
    if all(isinstance(v, Tensor) for v in bound.inputs.values()):
        return True
    try:
        with torch.no_grad():
            whole = _without_numbers(bound).feedforward()
    except (FFEBMError, NotImplementedError):
        return False
    return all((batch * s.shape[0], *s.shape[1:]) == tuple(whole[n].shape) for n, s in states.items() if s.dim() > 0)


def _without_numbers(bound: BoundBlock) -> BoundBlock:
    """The block on tensors that have shapes alone."""

    def shaped(values: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in values.items()}

    return replace(bound, inputs=shaped(bound.inputs), weights=shaped(bound.weights), fixed={})


def _cut_to_one(bound: BoundBlock, batch: int) -> BoundBlock:
    """The first of so many samples, whether the block accepts it or not."""

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dim() > 0:
            return value[:1]
        if isinstance(value, tuple):  # a shape
            return tuple(map(cut, value))
        return 1 if type(value) is int and value == batch else value

    return replace(bound, inputs={k: cut(v) for k, v in bound.inputs.items()}, fixed={})


def sample_of(bound: BoundBlock, states: Mapping[str, Tensor]) -> tuple[BoundBlock, Mapping[str, Tensor]]:
    """A block on one sample, and its states there; the whole where a state does not begin with its sample: transposed, say.

    To cut two samples, and to see whether that was right, takes longer than to look at both.
    """
    if all(len(v) <= FEW for v in bound.inputs.values() if isinstance(v, Tensor) and v.dim() > 0):
        return bound, states
    cut = one_sample(bound)
    if cut is bound:
        return bound, states
    with torch.no_grad():
        whole, first = bound.feedforward(), cut.feedforward()
    if not all(_begins_with(whole[n], first[n]) for n in states):
        return bound, states
    return cut, {n: s[: first[n].shape[0]] for n, s in states.items()}


def _begins_with(whole: Tensor, first: Tensor) -> bool:
    if whole.dim() == 0 or whole.shape[1:] != first.shape[1:] or whole.shape[0] < first.shape[0]:
        return False
    return torch.allclose(
        whole[: first.shape[0]], first, rtol=1e-3, atol=1e-4 * float(whole.abs().max()), equal_nan=True
    )


def random_like(like: Tensor, seed: int = 0) -> Tensor:
    """A tensor of this shape from a generator of its own, so that no caller's random numbers are used up."""
    generator = torch.Generator().manual_seed(like.numel() + (seed << 40))
    return torch.randn(like.shape, generator=generator).to(like.device, _wide(like.dtype))


def _blank(like: Tensor) -> Tensor:
    return torch.zeros((), device=like.device, dtype=_wide(like.dtype)).expand(like.shape)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.is_floating_point and dtype.itemsize < 4 else dtype


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _shape(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape) if _is_real(value) else (tuple(value.shape), tuple(value.flatten().tolist()))
    return tuple(value) if isinstance(value, list) else value
