"""A model and its data by name, as ``ffebm study`` hands them to every process."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..api import convert
from ..errors import InputError, Problem, close_matches
from ..ffebm import FFEBM
from ..study import Samples, load_npz, samples_from
from .checks import guessed_inputs
from .conversion import Shape, random_inputs
from .load import load_attribute, load_model

PRECISIONS = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class NamedSubject:
    """A model and its data by name, made anew in every process.

    Attributes:
        model: ``module:factory``.
        weights: a file of trained ones.
        data: an ``.npz`` file or ``module:factory``; random inputs of the given shapes without it.
        shapes: of random inputs, the batch first; for whole numbers, with what they are below.
        seed: of the model's initial weights and of random inputs.
        precision: ``"float64"`` or ``"float32"``, of parameters and inputs.
        conversion: options of :func:`ffebm_compiler.convert`.
    """

    model: str
    weights: str | None
    data: str | None
    shapes: tuple[Shape, ...]
    seed: int
    precision: str = "float64"
    conversion: Mapping[str, Any] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """Without the network, which every process makes."""
        return {k: v for k, v in self.__dict__.items() if k != "network"}

    @cached_property
    def network(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = load_model(self.model)
        if self.weights is not None:
            load_weights(network, Path(self.weights))
        return network.to(self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    def convert(self, conversion: Mapping[str, Any]) -> FFEBM:
        return convert(self.network, **{**self.conversion, **conversion})

    def samples(self, needed: int) -> Samples:
        return self._given(needed).to(self._dtype)

    def _given(self, needed: int) -> Samples:
        if self.data is None:
            return Samples(self._random(needed))
        if self.data.endswith(".npz"):
            return load_npz(Path(self.data))
        return _made(self.data, self.seed)

    def _random(self, needed: int) -> tuple[Tensor, ...]:
        if not self.shapes:
            return guessed_inputs(self.network, needed, self.seed)
        return random_inputs(self.shapes, self.seed, needed)


# --- weights and data ---------------------------------------------------------------------------------------


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads a state dict, by itself or under ``model`` or ``state_dict`` of a checkpoint; only tensors are unpickled.

    Raises:
        InputError: with every name and shape that does not fit.
    """
    where = f"weights {path}"
    weights = _state_dict(_loaded(path, where), where)
    InputError.raise_if(_misfits(network.state_dict(), weights, where))
    network.load_state_dict(weights)


def _loaded(path: Path, where: str) -> Any:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError.at(where, what, "Name a .safetensors file, or one of torch.save.")
    if path.suffix == ".safetensors":
        return _loaded_safetensors(path, where)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as failure:  # of many kinds, by the format and what is wrong with it
        kind = "" if zipfile.is_zipfile(path) else " It is no file of torch.save."
        raise InputError.at(
            where,
            f"can't be loaded as weights: {type(failure).__name__}.{kind}",
            "Save the tensors alone: torch.save(net.state_dict(), path). Whole models are refused: they are code.",
        ) from failure


def _loaded_safetensors(path: Path, where: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as failure:  # of the format's own kinds, and the file system's
        what = f"can't be read as safetensors: {failure}"
        raise InputError.at(where, what, "Save it by safetensors.torch.save_model(net, path).") from failure


def _state_dict(loaded: Any, where: str) -> dict[str, Tensor]:
    for candidate in (loaded, *(loaded.get(k) for k in ("state_dict", "model") if isinstance(loaded, Mapping))):
        if isinstance(candidate, Mapping) and candidate and all(isinstance(v, Tensor) for v in candidate.values()):
            return dict(candidate)
    raise InputError.at(where, "holds no state dict", "Save one: torch.save(net.state_dict(), path).")


def _misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> Iterator[Problem]:
    for name in wanted.keys() - given.keys():
        yield Problem(where, f"has no {name}", close_matches(name, sorted(given.keys() - wanted.keys()) or list(given)))
    for name in sorted(given.keys() - wanted.keys()):
        yield Problem(where, f"has {name}, which the model has not", close_matches(name, list(wanted)))
    for name, tensor in given.items():
        if name in wanted and tensor.shape != wanted[name].shape:
            shapes = f"{name} has the shape {tuple(tensor.shape)}, in the model {tuple(wanted[name].shape)}"
            yield Problem(where, shapes, "Name the factory that these weights were trained with.")
        elif tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            yield Problem(where, f"{name} has values that are NaN or infinite", "Take a checkpoint from before that.")


def _made(target: str, seed: int) -> Samples:
    """What a data factory returns, with the random numbers of the seed."""
    where = f"data {target!r}"
    factory = load_attribute(target, "data")
    if not callable(factory):
        return samples_from(factory, where)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            made = factory()
        except Exception as failure:  # the user's own code
            what = f"making it failed: {type(failure).__name__}: {failure}"
            raise InputError.at(where, what, "Fix that first; --traceback shows where.") from failure
    return samples_from(made, where)
