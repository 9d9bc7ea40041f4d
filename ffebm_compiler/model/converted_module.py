"""A converted model as an ``nn.Module``: its tensors, attributes and files are those of the user's network.

It shares the network's registries: parameters, buffers and submodules are the network's own, under their own names,
so ``state_dict``, optimizers, ``.to()`` and hooks see what they saw before. What runs is its :class:`Runner`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from ..passes.watching.attribute_tokens import MISSING, raw_attribute
from .runner import Runner
from .user_signature import KEPT, ShownForward

Self = TypeVar("Self", bound="ConvertedModule")


class ConvertedModule(nn.Module):
    """A runner that PyTorch takes for the user's network.

    Attributes of the network are found by their own names, except where this class has one of the same name; then use
    ``model.network``.
    """

    _runner: Runner

    def __init__(self, runner: Runner):
        hidden, mode = self.__dict__, runner.training
        hidden["_runner"] = runner
        super().__init__()
        runner.training = mode  # which torch begins with True
        for registry in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            hidden[registry] = runner.network.__dict__[registry]
        self.register_state_dict_post_hook(_write_gains)
        self.register_load_state_dict_pre_hook(_read_gains)

    @property
    def network(self) -> nn.Module:
        """The plain network, on the same parameters: the feedforward model."""
        return self._runner.network

    @property
    def training(self) -> bool:
        """Whether the model is in training mode."""
        return self._runner.training

    @training.setter
    def training(self, mode: bool) -> None:
        self._runner.training = mode

    def train(self: Self, mode: bool = True) -> Self:
        """In the way of the user's model, which may keep some of its layers in one mode."""
        self._runner.train(mode)
        return self

    @ShownForward
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's result, every block at its equilibrium."""
        if torch.compiler.is_compiling():
            # imported here, because it imports the compiler
            from .graph_breaks import call_outside, forward_between_graphs, refuse_export

            call_outside(refuse_export, self.network)
            return forward_between_graphs(self._runner, args, kwargs)
        return self._runner.run(args, kwargs)

    # --- the user's attributes --------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        """What the user's model has besides its layers: ``model.num_classes``, a method of its own.

        A method of the user's is one of the plain network: a ``self(x)`` in it is the feedforward model, on the same parameters.
        """
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_runner" not in self.__dict__ or name.startswith("_"):
                raise
        try:
            return getattr(self.network, name)
        except AttributeError:
            raise AttributeError(
                f"neither {type(self).__name__} nor the converted {type(self.network).__name__} has an attribute {name!r}"
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        """What the user's model has is set there, so that the program's next run sees it."""
        if self._is_theirs(name):
            setattr(self.network, name, value)
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if self._is_theirs(name):
            delattr(self.network, name)
        else:
            super().__delattr__(name)

    def _is_theirs(self, name: str) -> bool:
        """Whether an attribute is one of the user's model, or was looked for there at conversion."""
        if "_runner" not in self.__dict__ or name in self.__dict__ or hasattr(type(self), name):
            return False
        watched = self._runner.compiled.watched.values()
        return raw_attribute(self.network, name) is not MISSING or any(
            name in w.values for entries in watched for w in entries if not w.path
        )

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.network)})

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self.network)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.network)  # type: ignore[call-overload, no-any-return]

    def __contains__(self, key: object) -> bool:
        return key in self.network  # type: ignore[operator]

    def __getitem__(self, key: Any) -> Any:
        """A layer of a model that has them in order or by key; of a slice, the user's own layers."""
        return self.network[key]  # type: ignore[index]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.network[key] = value  # type: ignore[operator]

    def __delitem__(self, key: Any) -> None:
        del self.network[key]  # type: ignore[operator]

    # --- copies and files ---------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Without the code that was written for this very object."""
        return {name: value for name, value in self.__dict__.items() if name not in (KEPT, STEPS)}

    def extra_repr(self) -> str:
        return ", ".join(f"{b.name}: size {b.size}" for b in self._runner.program.energy_blocks)


STEPS = "_steps"
"""Where a model keeps the training steps that were generated for it."""


def runner_of(model: nn.Module) -> Runner:
    """What runs a converted model: for who works on its program, gains and blocks themselves."""
    assert isinstance(model, ConvertedModule)
    return model._runner


def _write_gains(module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    runner_of(module).block_gains.write(metadata)


def _read_gains(
    module: nn.Module, state_dict: Mapping[str, Any], prefix: str, metadata: Mapping[str, Any], *rest: Any
) -> None:
    runner_of(module).block_gains.read(metadata)
