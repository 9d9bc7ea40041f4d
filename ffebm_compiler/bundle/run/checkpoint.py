"""A checkpoint of a training: a safetensors file of weights, moments, gains and random state; JSON as metadata.

    model/<path>                   parameters and buffers, each once
    optimizer/<path>/<moment>      what the optimizer remembers
    gains/<number>                 leading directions of couplings, where their next refresh starts
    random                         state of the generator of the random layers

A checkpoint may come from anyone: nothing in it is executed, and everything is checked against the model that reads it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ...errors import FFEBMError, InputError
from ...files import write_whole
from ...solve import Gains
from .optimizers import OptimizerOptions

FORMAT = 1
"""The version of the format."""

_KEY = "ffebm_checkpoint"
_SLACK = 64 << 20
"""Bytes that a checkpoint may have beyond what the model's tensors account for: gains and header."""

_ADAM = frozenset({"step", "exp_avg", "exp_avg_sq"})
_MOMENTS: Mapping[str, frozenset[str]] = {"sgd": frozenset({"momentum_buffer"}), "adam": _ADAM, "adamw": _ADAM}
"""What each optimizer remembers of a parameter that has had a gradient."""

_MOST = 3
"""Moments of a parameter, at most."""


@dataclass(frozen=True)
class Snapshot:
    """Everything that the next step of a training depends on.

    Attributes:
        model: the class of the user's model.
        steps: the steps taken.
        optimizer: its options.
        tensors: parameters and buffers, by path.
        moments: what the optimizer remembers, by parameter and name.
        gains: reverse gains, as the bundle keys them.
        random: state of the generator.
    """

    model: str
    steps: int
    optimizer: OptimizerOptions
    tensors: Mapping[str, Tensor]
    moments: Mapping[str, Mapping[str, Tensor]]
    gains: Mapping[str, Gains]
    random: Tensor


def write_checkpoint(path: str | os.PathLike[str], snapshot: Snapshot) -> Path:
    """Writes a snapshot in one step; OptionError if the file can't be written."""
    tensors = _tensors(snapshot)
    document = {
        "format": FORMAT,
        "model": snapshot.model,
        "steps": snapshot.steps,
        "optimizer": asdict(snapshot.optimizer),
        "gains": _gains_document(snapshot.gains),
    }
    document["sha256"] = _checksum(document, tensors)
    content = safetensors.torch.save(tensors, {_KEY: json.dumps(document, sort_keys=True, allow_nan=False)})
    return write_whole(path, content, "checkpoint")


def _tensors(snapshot: Snapshot) -> dict[str, Tensor]:
    found = {f"model/{p}": t for p, t in snapshot.tensors.items()}
    found |= {f"optimizer/{p}/{k}": t for p, moments in snapshot.moments.items() for k, t in moments.items()}
    directions = (d for g in snapshot.gains.values() for d in g.directions.values())
    found |= {f"gains/{i}": d for i, d in enumerate(directions)}
    found["random"] = snapshot.random
    return {n: t.detach().clone().contiguous() for n, t in found.items()}


def _gains_document(gains: Mapping[str, Gains]) -> list[dict[str, Any]]:
    """The reverse gains; the directions are numbered in order."""
    count = 0
    document = []
    for key, g in gains.items():
        directions = [[l, m, count + i] for i, (l, m) in enumerate(g.directions)]
        count += len(directions)
        norms = [[l, m, norm] for (l, m), norm in g.norms.items()]
        weights = dict(g.layer_weights)
        document.append(
            {"key": key, "layer_weights": weights, "norms": norms, "directions": directions, "outdated": g.outdated}
        )
    return document


def _checksum(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    told = {k: v for k, v in document.items() if k != "sha256"}
    digest.update(json.dumps(told, sort_keys=True, allow_nan=False).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# --- reading ---------------------------------------------------------------------------------------------


def read_checkpoint(path: str | os.PathLike[str], present: Snapshot) -> Snapshot:
    """The snapshot in a file, checked against a training of the same model and optimizer.

    Raises:
        InputError: the file is damaged, or of another training.
    """
    reader = _Reader(f"checkpoint {os.fspath(path)}", present)
    try:
        content = reader.content(Path(path))
        tensors = safetensors.torch.load(content)
        document = json.loads(_metadata(content)[_KEY], parse_constant=_refuse)
        return reader.snapshot(document, tensors)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError) as failure:
        if isinstance(failure, FFEBMError):
            raise
        raise reader.damaged(_reason(failure)) from failure


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata in a safetensors file that the library has read already."""
    length = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    if _KEY not in found:
        raise ValueError("it holds tensors, and not where a training stands")
    return found


def _differences(a: OptimizerOptions, b: OptimizerOptions) -> tuple[str, str]:
    """The options that are not the same, as each has them."""
    names = [n for n, value in asdict(a).items() if value != asdict(b)[n]]
    was, now = (", ".join(f"{n.replace('name', 'optimizer')} {asdict(o)[n]}" for n in names) for o in (a, b))
    return was, now


def _reason(failure: Exception) -> str:
    return str(failure) if type(failure) is ValueError else f"{type(failure).__name__}: {failure}"


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


@dataclass(frozen=True)
class _Reader:
    """Reads one file.

    Attributes:
        where: the file, for errors.
        present: the training that wants to go on from it.
    """

    where: str
    present: Snapshot

    def damaged(self, why: str) -> InputError:
        return InputError.at(self.where, f"can't be read: {why[:300]}", "Take an earlier checkpoint.")

    def another(self, what: str, remedy: str = "Load the bundle that the training began from.") -> InputError:
        return InputError.at(self.where, what, remedy)

    def content(self, path: Path) -> bytes:
        expected = sum(t.nbytes for t in self.present.tensors.values()) * (1 + _MOST) + _SLACK
        try:
            if not path.is_file():
                raise self.another("is no file", "Name the file of save_checkpoint(path).")
            if path.stat().st_size > expected:
                raise self.another(f"holds {path.stat().st_size} bytes, more than any checkpoint of this model")
            return path.read_bytes()
        except OSError as failure:
            raise self.damaged(failure.strerror or str(failure)) from failure

    def snapshot(self, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Snapshot:
        if document["format"] != FORMAT:
            raise self.another(f"has the format {document['format']!r}", f"This version reads the format {FORMAT}.")
        if document["sha256"] != _checksum(document, tensors):
            raise self.damaged("its checksum does not fit its contents")
        if document["model"] != self.present.model:
            raise self.another(f"is of a {document['model']!r}, the bundle of a {self.present.model}")
        steps = document["steps"]
        if type(steps) is not int or not 0 <= steps < 1 << 62:
            raise self.damaged(f"{steps!r} steps")
        given = document["optimizer"]
        options = OptimizerOptions(**{**given, "betas": tuple(given["betas"])})
        if options != self.present.optimizer:
            was, now = _differences(options, self.present.optimizer)
            raise self.another(f"was trained with {was}, and this training has {now}", "Go on with the same options.")
        random = tensors["random"]
        if random.dtype != torch.uint8 or random.shape != self.present.random.shape:
            raise self.damaged("its random state is none")
        torch.Generator().set_state(random)  # which refuses what is no state of it
        own = {n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")}
        self._require_same(own, self.present.tensors)
        moments = self._moments(tensors)
        gains = dict(self._gains(document["gains"], tensors))
        known = 1 + len(own) + sum(map(len, moments.values())) + sum(len(g.directions) for g in gains.values())
        if len(tensors) != known:
            raise self.damaged("it holds tensors that nothing refers to")
        return Snapshot(self.present.model, steps, options, own, moments, gains, random)

    def _require_same(self, own: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
        strange = sorted(set(own) ^ set(expected))
        if strange:
            raise self.another(f"has other tensors than the model: {', '.join(strange[:6])}")
        for path, tensor in expected.items():
            if own[path].shape != tensor.shape or own[path].dtype != tensor.dtype:
                has = f"{tuple(own[path].shape)} {own[path].dtype}"
                raise self.another(f"holds {path} as {has}, the model as {tuple(tensor.shape)} {tensor.dtype}")

    def _moments(self, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        found: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if not name.startswith("optimizer/"):
                continue
            path, _, moment = name.removeprefix("optimizer/").rpartition("/")
            parameter = self.present.tensors.get(path)
            if parameter is None:
                raise self.damaged(f"it holds {name}")
            whole = () if moment == "step" else parameter.shape
            if tensor.shape != whole or not tensor.is_floating_point():
                raise self.damaged(f"{name} has the shape {tuple(tensor.shape)} {tensor.dtype}")
            found.setdefault(path, {})[moment] = tensor
        expected = _MOMENTS[self.present.optimizer.name]
        for path, moments in found.items():
            if moments.keys() != expected:
                raise self.damaged(f"of {path} it remembers {', '.join(sorted(moments))}")
        return found

    def _gains(self, document: list[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Gains]]:
        for entry in document:
            key = str(entry["key"])
            names, loop_gain = key.rpartition("|")[0].split(","), float(key.rpartition("|")[2])
            weights = {n: float(entry["layer_weights"][n]) for n in names}
            norms = {(str(l), str(m)): float(norm) for l, m, norm in entry["norms"]}
            directions = {(str(l), str(m)): tensors[f"gains/{i:d}"] for l, m, i in entry["directions"]}
            numbers = [*weights.values(), loop_gain]
            known = len(entry["layer_weights"]) == len(names) and {n for e in (*norms, *directions) for n in e} <= {
                *names
            }
            if (
                not known
                or not all(math.isfinite(v) and v > 0 for v in numbers)
                or not all(n >= 0 for n in norms.values())
            ):
                raise self.damaged(f"the reverse gains of {key} are none")
            yield key, Gains(weights, norms, directions, bool(entry["outdated"]))
