"""What is verified of a model at its first use: the program at the first input of each mode, each block as it settles."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ChangedError, VerificationError
from ..ir import EnergyBlock
from ..passes import Verification, verify
from ..passes.tracing.opened_contexts import callers_autocast
from ..solve import BoundBlock, Relaxation
from ..solve.norm_sample import sample_of
from ..train import out_of_sight
from .global_hooks import GlobalHooks, global_hooks
from .global_hooks import problems as hook_problems
from .runner import Checks, Runner
from .verification import verify_first_input


class FirstUse(Checks):
    """The checks of a converted model, each made once."""

    def __init__(self) -> None:
        self._compared: set[tuple[Any, ...]] = set()  # modes, and autocasts, whose program is known to be the model
        self._verified: dict[str, list[tuple[EnergyBlock, Verification]]] = {}  # by key: blocks of it that differ
        self._potentials: list[Any] = []  # those that are known to be right
        self._comparing = threading.RLock()  # it runs on others in place of the weights: no thread may meet them

    def call(self, model: Runner, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Holds the program of a mode against the network itself, at the first input of that mode under each
        autocast of the caller's, and beside each set of hooks on every module.

        Raises:
            VerificationError: the two differ.
            ChangedError: such hooks make a difference, where there was none without.
        """
        hooks = global_hooks()
        plain = (model.training, model.watch.looks[model.training], *callers_autocast())
        setting = (*plain, *hooks)
        if not model.execution.verify or setting in self._compared or not _has_forward(model.network):
            return
        with self._comparing:
            if setting in self._compared:
                return
            try:
                verify_first_input(model, (args, kwargs))
            except VerificationError as failure:
                if not hooks:
                    raise
                kind = ChangedError if plain in self._compared else VerificationError
                raise kind([*hook_problems(), *failure.problems]) from None
            self._compared.add(setting)

    def block(
        self,
        model: Runner,
        block: EnergyBlock,
        bound: BoundBlock,
        states: Mapping[str, Tensor],
        relaxation: Relaxation | None,
    ) -> None:
        """Verifies a block once: at its first use, whichever way and in whichever mode, or before that without a relaxation.

        Raises:
            VerificationError: its energy and its solver disagree.
        """
        known = self.of_block(block)
        has_settled = relaxation is not None and relaxation.converged
        if (known is not None and (known.converged or not has_settled)) or not _are_finite(states):
            return
        with torch.no_grad(), out_of_sight():
            sample = sample_of(bound, states)
            check = verify(*sample, model.program.labels, model.differentiation, relaxation, self._potentials)
        others = [(b, c) for b, c in self._verified.get(block.key, ()) if b != block]
        self._verified[block.key] = [*others, (block, check)]

    def of_block(self, block: EnergyBlock) -> Verification | None:
        """The check of a block that is equal, function by function: names say nothing of what a user's rule computes."""
        return next((check for other, check in self._verified.get(block.key, ()) if other == block), None)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is of this process."""
        compared = {setting for setting in self._compared if not isinstance(setting[-1], GlobalHooks)}
        return {**{n: v for n, v in vars(self).items() if n != "_comparing"}, "_compared": compared}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state, _comparing=threading.RLock())


def _has_forward(network: nn.Module) -> bool:
    """Whether there is a model to compare with: what stands in for one, of a loaded bundle, has its tensors alone."""
    return getattr(type(network).forward, "__name__", "") != "_forward_unimplemented" or "forward" in vars(network)


def _are_finite(states: Mapping[str, Tensor]) -> bool:
    """Behind a block that diverged another is given infinite inputs, which say nothing about its energy."""
    return bool(torch.stack([torch.isfinite(s).all() for s in states.values()]).all())
