"""The reverse gains of a model's blocks: measured at first use, refreshed by training steps, saved with the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

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
from ..solve.loop_gain import STEPS

METADATA = "ffebm_gains"
"""Where the gains stand in a state dict's metadata: the keys stay the original model's."""

Key = tuple[str, float]
Version = tuple[int, ...] | None

OUTDATED: Version = (-1,)
"""The version of no weights: gains of it are measured again by the next training step."""


@dataclass
class GainStore:
    """Gains by block and loop gain.

    Attributes:
        known: the gains and the version of the weights that they belong to.
        steps: Lanczos steps of a first measurement.
    """

    known: dict[Key, tuple[Gains, Version]] = field(default_factory=dict)
    steps: int = STEPS
    _contractions: dict[str, tuple[Gains, EnergyBlock, Contraction | None]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def find(self, block: EnergyBlock, loop_gain: float | None) -> Gains | None:
        """The gains that a block has; None before its first use."""
        if loop_gain is None or not block.has_feedback:
            return unit_gains(block)
        found = self.known.get((block.key, loop_gain))
        return None if found is None else found[0]

    def is_outdated(self, block: EnergyBlock, loop_gain: float | None, version: Version) -> bool:
        """Whether a block's gains were measured at other weights; gains that were loaded are those of the weights beside them."""
        if loop_gain is None or (key := (block.key, loop_gain)) not in self.known:
            return False
        return self.known[key][1] not in (None, version)

    def measure(
        self,
        bound: BoundBlock,
        loop_gain: float | None,
        version: Version | Callable[[], Version],
        refresh: bool,
        differentiation: Differentiation = AUTOMATIC,
    ) -> Gains:
        """The gains of a block on its present inputs and weights.

        Args:
            version: of the weights, or what tells it, asked only where it matters; gains of the same version stand.
            refresh: whether gains of another version are measured again, from where they were.
            differentiation: how the couplings' transposes are found.
        """
        block = bound.block
        found = self.find(block, loop_gain)
        if loop_gain is None or not block.has_feedback:
            assert found is not None
            return found
        if found is not None and not refresh:
            return found
        key, version = (block.key, loop_gain), version() if callable(version) else version
        if found is not None and self.known[key][1] == version:
            return found
        with torch.no_grad():
            if found is not None and found.directions:
                gains = followed_gains(bound, loop_gain, found, differentiation)
            else:
                gains = bounded_gains(bound, loop_gain, found, self.steps, differentiation)
        self.known[key] = (gains, version)
        return gains

    def contraction(self, block: EnergyBlock, gains: Gains) -> Contraction | None:
        """What gains certify of a sweep (:func:`ffebm_compiler.solve.contraction_of`), found once for as long as they stand."""
        known = self._contractions.get(block.key)
        if known is None or known[0] is not gains or known[1] is not block:
            known = self._contractions[block.key] = gains, block, contraction_of(block, gains)
        return known[2]

    def take(self, other: GainStore, version: Version, present: Version = None) -> None:
        """Takes another store's gains as those of the given version.

        Args:
            present: the version of the other's weights: gains that were outdated there are so here. None takes all as up to date.
        """
        for key, (gains, measured) in other.known.items():
            outdated = present is not None and measured not in (None, present)
            self.known[key] = (gains, OUTDATED if outdated else version)

    def write(self, metadata: dict[str, Any]) -> None:
        """All that the next refresh starts from, so that a resumed training takes the steps of an uninterrupted one."""
        metadata[METADATA] = {
            f"{name}|{loop_gain!r}": {
                "layer_weights": dict(gains.layer_weights),
                "norms": [[l, m, norm] for (l, m), norm in gains.norms.items()],
                "directions": [[l, m, v.detach()] for (l, m), v in gains.directions.items()],
            }
            for (name, loop_gain), (gains, _) in self.known.items()
        }

    def read(self, metadata: Mapping[str, Any]) -> None:
        """Takes the gains that came with the weights; without them they are measured again at the next use."""
        self.known.clear()
        for key, saved in (metadata.get(METADATA) or {}).items():
            name, _, loop_gain = key.rpartition("|")
            weights = {str(k): float(v) for k, v in saved["layer_weights"].items()}
            if not all(math.isfinite(w) and w > 0 for w in weights.values()):
                continue
            norms = {(l, m): float(norm) for l, m, norm in saved["norms"]}
            self.known[name, float(loop_gain)] = (
                Gains(weights, norms, {(l, m): v for l, m, v in saved["directions"]}),
                None,
            )
