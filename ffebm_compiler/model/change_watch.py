"""Whether a model is still what its program was made from: asked at every call, and cheap where nothing has changed."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from ..compiled import Compiled
from .changes import require_unchanged
from .original import Original
from .unchanged import Seen, seen


class ChangeWatch:
    """Watches the network of a compiled model, and the user's own model where the two share their tensors.

    Attributes:
        looks: how often each mode was looked at item by item, after its first time: it was changed and found equal.
    """

    def __init__(self, compiled: Compiled) -> None:
        self.looks: Counter[bool] = Counter()
        self._compiled = compiled
        self._original: Original | None = None
        self._seen: dict[bool, Seen] = {}

    def require_unchanged(self, training: bool) -> None:
        """Looks whether what the program of a mode was made from is still so.

        Raises:
            ChangedError: with every layer, attribute and hook that has changed since conversion.
        """
        network = self._compiled.network
        if self._original is not None:
            self._original.require_unchanged(network)
        if training in self._seen and self._seen[training].still():
            return
        watched = self._compiled.watched.get(training, ())
        require_unchanged(network, watched)
        if training in self._seen:
            self.looks[training] += 1
        self._seen[training] = seen(network, watched)

    def watch_original(self, model: nn.Module) -> None:
        """Looks from now on whether the model that shares its tensors with this one is still as it was converted."""
        watched = {(w.path, w.kind): w for m in (True, False) for w in self._compiled.watched.get(m, ())}
        self._original = Original.of(model, self._compiled.network, watched.values())

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to these very modules."""
        return {**vars(self), "_seen": {}, "_original": None}
