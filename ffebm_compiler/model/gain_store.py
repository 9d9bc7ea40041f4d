"""The reverse gains of a model's blocks: functions of the weights while it evaluates, followed while it trains, saved with the weights.

Whether weights are those that gains belong to is told by their values (:mod:`ffebm_compiler.solve.fingerprint`), whoever wrote them. Two kinds
of gains are kept apart, so that evaluating in the middle of a training leaves no trace in it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..ir import EnergyBlock
from ..solve import (
    AUTOMATIC,
    BoundBlock,
    Contraction,
    Differentiation,
    Gains,
    bounded_gains,
    contraction_of,
    followed_gains,
    unit_gains,
)
from ..solve.fingerprint import fingerprint, is_sharded
from ..solve.lanczos import STEPS
from ..solve.norm_sample import Sample, Shapes, given

METADATA = "ffebm_gains"
"""Where the gains stand in a state dict's metadata: the keys stay the original model's."""

SIZES = 64
"""A block's gains are kept for so many sizes of its inputs."""

Key = tuple[str, float]


@dataclass(frozen=True)
class Measured:
    """Gains and what they follow from.

    Attributes:
        weights: the fingerprint of the weights; None where gains came without one.
        shapes: of the sample that they were measured on; None where that is not known.
    """

    gains: Gains
    weights: int | None
    shapes: Shapes | None

    def is_of(self, weights: int, shapes: Shapes) -> bool:
        return self.weights == weights and self.shapes in (None, shapes)


@dataclass
class GainStore:
    """Gains by block and loop gain.

    Attributes:
        converged: from norms that were iterated to their end, by the sizes of inputs: what evaluation uses.
        followed: by one power step at each training step.
        held: given for a while, as long as the weights are those that they were first used with.
        used: what each block was last given.
        loaded: what a file said of the weights that came with it.
        are_held: whether blocks keep the gains that they have, whatever becomes of the weights.
        steps: Lanczos steps of a measurement, at most.
    """

    converged: dict[Key, OrderedDict[Shapes, Measured]] = field(default_factory=dict)
    followed: dict[Key, Measured] = field(default_factory=dict)
    held: dict[Key, Measured] = field(default_factory=dict)
    used: dict[Key, Gains] = field(default_factory=dict)
    loaded: dict[Key, Measured] = field(default_factory=dict)
    are_held: bool = False
    steps: int = STEPS
    _samples: dict[str, OrderedDict[Shapes, Sample]] = field(default_factory=dict, repr=False, compare=False)
    _contractions: dict[str, tuple[Gains, EnergyBlock, Contraction | None]] = field(
        default_factory=dict, repr=False, compare=False
    )

    # --- what a pass asks for -------------------------------------------------------------------------

    def find(self, block: EnergyBlock, loop_gain: float | None) -> Gains | None:
        """The gains that a block was last given; None before its first use."""
        if loop_gain is None or not block.has_feedback:
            return unit_gains(block)
        return self.used.get((block.key, loop_gain))

    def measure(
        self,
        bound: BoundBlock,
        loop_gain: float | None,
        follow: bool,
        differentiation: Differentiation = AUTOMATIC,
        weights: int | None = None,
    ) -> Gains:
        """The gains of a block with its present weights, on inputs of these shapes.

        Args:
            follow: whether weights train: the gains then go on from those of the last training step.
            differentiation: how the couplings' transposes are found.
            weights: the fingerprint of the weights, where it is known already.

        Raises:
            InfiniteNormError: a coupling whose norm is no finite number.
        """
        block = bound.block
        if loop_gain is None or not block.has_feedback:
            return unit_gains(block)
        key = (block.key, loop_gain)
        if self.are_held and key in self.used:
            return self.used[key]
        weights = weights_of(bound) if weights is None else weights
        found = self._held(key, weights)
        if found is None:
            sample = self._sample(bound)
            find = self._follow if follow else self._converge
            found = find(key, bound, sample, weights, differentiation).gains
        self.used[key] = found
        return found

    def present(
        self, bound: BoundBlock, loop_gain: float | None, differentiation: Differentiation = AUTOMATIC
    ) -> Gains | None:
        """The gains of a block's present weights, whatever inputs it is bound to: on the last sample, if it has been used.

        A block that was loaded with its gains has those until then, called outdated if they are of other weights; one whose weights are
        sharded while it is at rest those of its last pass, called outdated. None if there are none.
        """
        block = bound.block
        if loop_gain is None or not block.has_feedback:
            return unit_gains(block)
        key, weights = (block.key, loop_gain), weights_of(bound)
        held = self._held(key, weights)
        if held is not None:
            return held
        if any(is_sharded(w) for w in bound.weights.values()):
            found = self.used.get(key)
            return None if found is None else replace(found, outdated=True)
        samples = self._samples.get(block.key, OrderedDict())
        sample = next((s for k, s in reversed(samples.items()) if k[1:] == _sizes(bound)), None)
        if sample is not None:
            return self._converge(key, bound, sample, weights, differentiation).gains
        known = self.loaded.get(key)
        return None if known is None else replace(known.gains, outdated=known.weights != weights)

    def contraction(self, block: EnergyBlock, gains: Gains) -> Contraction | None:
        """What gains certify of a sweep (:func:`ffebm_compiler.solve.contraction_of`), found once for as long as they stand."""
        known = self._contractions.get(block.key)
        if known is None or known[0] is not gains or known[1] is not block:
            known = self._contractions[block.key] = gains, block, contraction_of(block, gains)
        return known[2]

    def _held(self, key: Key, weights: int) -> Gains | None:
        """What is held for these weights, which the first use sets; with others it is forgotten."""
        held = self.held.get(key)
        if held is not None and held.weights is None:
            held = self.held[key] = replace(held, weights=weights)
        if held is not None and held.weights != weights:
            del self.held[key]
            return None
        return None if held is None else held.gains

    def _converge(
        self, key: Key, bound: BoundBlock, sample: Sample, weights: int, differentiation: Differentiation
    ) -> Measured:
        """Norms from a fixed start, so that they are a function of weights and shapes alone."""
        kept = self.converged.setdefault(key, OrderedDict())
        known = kept.get(sample.shapes)
        if known is None or not known.is_of(weights, sample.shapes):
            gains = bounded_gains(bound, key[1], sample, self.steps, differentiation)
            known = kept[sample.shapes] = Measured(gains, weights, sample.shapes)
        _keep_newest(kept, sample.shapes)
        return known

    def _follow(
        self, key: Key, bound: BoundBlock, sample: Sample, weights: int, differentiation: Differentiation
    ) -> Measured:
        """One power step where weights have moved since the last one; the same gains where they have not, as in a forward that is run again."""
        known = self.followed.get(key)
        if known is None or not known.gains.directions:
            known = self._converge(key, bound, sample, weights, differentiation)
        elif not known.is_of(weights, sample.shapes):
            gains = followed_gains(bound, key[1], known.gains, sample, differentiation)
            known = Measured(gains, weights, sample.shapes)
        self.followed[key] = known
        return known

    def _sample(self, bound: BoundBlock) -> Sample:
        """The sample of a block, made once for inputs, and weights, of these shapes."""
        shapes, kept = given(bound), self._samples.setdefault(bound.block.key, OrderedDict())
        key = shapes, *_sizes(bound)
        if shapes is None or key not in kept:
            kept[key] = Sample.of(bound)
        _keep_newest(kept, key)
        return kept[key]

    def __getstate__(self) -> dict[str, Any]:
        """What a copy knows of these weights: nothing is held for it, and what is made of gains it makes anew."""
        return {**vars(self), "are_held": False, "_contractions": {}}

    # --- copies, files --------------------------------------------------------------------------------

    def take(self, other: GainStore) -> None:
        """Takes what another copy of the model knows: gains say of themselves which weights they belong to."""
        self.converged.update({k: OrderedDict(v) for k, v in other.converged.items()})
        self.followed.update(other.followed)
        self.held.update(other.held)
        self.used.update(other.used)
        self.loaded.update(other.loaded)
        self._samples.update({k: OrderedDict(v) for k, v in other._samples.items()})

    def hold(self, key: Key, gains: Gains) -> None:
        """Gives a block these gains for as long as its weights stay as they are, or as they will be at its first use."""
        self.held[key] = Measured(gains, None, None)
        self.used[key] = gains

    def forget(self) -> None:
        """Everything is measured again at its next use."""
        for kept in (self.converged, self.followed, self.held, self.used, self.loaded, self._samples):
            kept.clear()

    def worth_saving(self, weights: Mapping[str, int]) -> dict[Key, Measured]:
        """What a training step goes on from; where none was taken yet, what is known of the present weights.

        Args:
            weights: their fingerprints, by block.
        """
        present = {
            key: found
            for key, sizes in self.converged.items()
            for found in sizes.values()
            if found.weights == weights.get(key[0])
        }
        return {**self.loaded, **present, **self.followed}

    def write(self, metadata: dict[str, Any], weights: Mapping[str, int]) -> None:
        """All that the next training step starts from, so that a resumed training takes the steps of an uninterrupted one."""
        metadata[METADATA] = {
            f"{name}|{loop_gain!r}": {
                "layer_weights": dict(found.gains.layer_weights),
                "norms": [[l, m, norm] for (l, m), norm in found.gains.norms.items()],
                "directions": [[l, m, v.detach()] for (l, m), v in found.gains.directions.items()],
                "weights": found.weights,
            }
            for (name, loop_gain), found in self.worth_saving(weights).items()
        }

    def read(self, metadata: Mapping[str, Any]) -> None:
        """Takes the gains that came with the weights; without them they are measured again at the next use."""
        for kept in (self.followed, self.held, self.used, self.loaded):
            kept.clear()
        for key, saved in (metadata.get(METADATA) or {}).items():
            name, _, loop_gain = key.rpartition("|")
            layer_weights = {str(k): float(v) for k, v in saved["layer_weights"].items()}
            if not all(math.isfinite(w) and w > 0 for w in layer_weights.values()):
                continue
            norms = {(l, m): float(norm) for l, m, norm in saved["norms"]}
            gains = Gains(layer_weights, norms, {(l, m): v for l, m, v in saved["directions"]})
            self.load((name, float(loop_gain)), Measured(gains, saved.get("weights"), None))

    def load(self, key: Key, found: Measured) -> None:
        """Takes what a file says: the next training step goes on from it."""
        self.followed[key] = self.loaded[key] = found


def weights_of(bound: BoundBlock) -> int:
    """The fingerprint of the weights that couplings between states read."""
    return fingerprint(bound.weights[p] for p in bound.block.coupling_weights)


def _sizes(bound: BoundBlock) -> tuple[Any, ...]:
    """Those of its weights, which structured pruning changes."""
    return tuple(w.shape for w in bound.weights.values())


def _keep_newest(kept: OrderedDict[Any, Any], used: Any) -> None:
    kept.move_to_end(used)
    while len(kept) > SIZES:
        kept.popitem(last=False)
