"""ONNX graphs in onnxruntime: tensors in, tensors out.

Arrays are views of the tensors' memory in both directions. onnxruntime copies initializers when a session is made (it
folds and packs them), so a session of such a graph belongs to the values that they had.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from ..errors import InputError, Problem
from .interface import Interface, Port

logger = logging.getLogger(__name__)

QUIET = 4
"""What fails is raised as an error; onnxruntime's own log is about graphs that the user has not written."""


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A model ready to run, on one thread of the processor."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class OnnxGraph:
    """A graph of a digital part.

    Attributes:
        part: the digital part, for errors: ``"digital1 (features.0, features.1)"``.
        content: the ONNX file, its weights without data.
        interface: its ports.
        threads: that onnxruntime may use; None leaves it torch's number.
    """

    part: str
    content: bytes = field(repr=False)
    interface: Interface
    threads: int | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxGraph:
        """Itself: frozen data, which the copies of a model share."""
        return self

    def session(self, weights: Mapping[str, Tensor], results: Collection[str]) -> Session:
        """The graph ready to run.

        Args:
            weights: values of the initializers without data, by name in the graph.
            results: names of the outputs that will be asked for; what they don't need is never computed.

        Raises:
            InputError: onnxruntime can't run it; names the layers.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = QUIET
        options.intra_op_num_threads = self.threads or torch.get_num_threads()
        # spinning threads of one session take the cores from the next, and from torch
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            arrays = {n: w.detach().contiguous().numpy() for n, w in weights.items()}
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(a) for a in arrays.values()]
            options.add_external_initializers([*arrays], values)
            content = _prepared(self.content, arrays, results)
            made = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as failure:  # onnxruntime's exceptions have no common base
            raise self._failed(failure) from failure
        reads = {i.name for i in made.get_inputs()}
        return Session(
            self,
            made,
            tuple(p for p in self.interface.inputs if p.name in reads),
            tuple(p for p in self.interface.results if p.name in results),
        )

    def run_once(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All results by name, from everything that the graph reads, its initializers too."""
        held = {p.name: given[p.name] for p in self.interface.initializers}
        return self.session(held, {p.name for p in self.interface.results})(given)

    def _failed(self, failure: Exception) -> InputError:
        message = " ".join(str(failure).split())[:300]
        return InputError.at(
            f"digital part {self.part}",
            f"onnxruntime {onnxruntime.__version__} can't run its {self.interface.kind} graph: {message}",
            "Compile the bundle again with the present versions of onnx and onnxruntime.",
        )


@dataclass(frozen=True)
class Session:
    """A graph that runs: what it reads, for the outputs that were asked for, and what it gives."""

    graph: OnnxGraph
    made: Any
    inputs: tuple[Port, ...]
    results: tuple[Port, ...]

    def __call__(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The results by name, from the inputs by name; a scalar of whole numbers is a size, an ``int``.

        Raises:
            InputError: onnxruntime failed; names the layers.
        """
        try:
            feed = {p.name: as_array(given[p.name], p) for p in self.inputs}
            found = self.made.run([p.name for p in self.results], feed)
        except Exception as failure:
            raise self.graph._failed(failure) from failure
        return {p.name: _as_value(a) for p, a in zip(self.results, found, strict=True)}


def as_array(value: Any, port: Port) -> np.ndarray:
    """A tensor's own memory, or a number as the port's type."""
    if isinstance(value, Tensor):
        return value.detach().contiguous().numpy()
    return np.asarray(value, dtype=port.dtype)


def _as_value(array: np.ndarray) -> Any:
    if array.ndim == 0 and array.dtype == np.int64:
        return int(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _prepared(content: bytes, weights: Collection[str], results: Collection[str]) -> bytes:
    """The graph with its weights given from memory, and without the outputs that nobody asks for."""
    model = onnx.load_model_from_string(content)
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            _announce_in_memory(tensor)
    kept = [o for o in model.graph.output if o.name in results]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    prepared: bytes = model.SerializeToString()
    return prepared


def _announce_in_memory(tensor: onnx.TensorProto) -> None:
    """onnxruntime takes values from memory for initializers that are declared external."""
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="memory")


def port_problems(ports: Iterable[Port], values: Mapping[str, Any], labels: Mapping[str, str]) -> list[Problem]:
    """What does not fit of the values that ports are given: type, rank, sizes; a named size is one everywhere."""
    sizes: dict[str, int] = {}
    problems: list[Problem] = []
    for port in ports:
        value = values[port.name]
        where = f"input {labels.get(port.value, port.value)}"
        if isinstance(value, Tensor):
            problems += _tensor_problems(port, value, where, sizes)
        elif not isinstance(value, (bool, int, float)):
            problems.append(Problem(where, f"is a {type(value).__name__}", f"Give a tensor of {_shown(port.shape)}."))
        elif port.shape:
            problems.append(Problem(where, f"is the number {value!r}", f"Give a tensor of {_shown(port.shape)}."))
    return problems


def _tensor_problems(port: Port, value: Tensor, where: str, sizes: dict[str, int]) -> list[Problem]:
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype != port.dtype:
        return [Problem(where, f"is {dtype}, the part takes {port.dtype}", f"Convert it: .to(torch.{port.dtype}).")]
    fits = value.dim() == len(port.shape) and all(
        size == (sizes.setdefault(wanted, size) if isinstance(wanted, str) else wanted)
        for size, wanted in zip(value.shape, port.shape, strict=True)
    )
    if fits:
        return []
    held = {k: v for k, v in sizes.items() if k in port.shape}
    with_sizes = f" with {', '.join(f'{k} = {v}' for k, v in held.items())}" if held else ""
    what = f"is of the shape {tuple(value.shape)}, the part takes {_shown(port.shape)}{with_sizes}"
    return [Problem(where, what, "Give it the shape that the model was compiled for; only the named sizes may vary.")]


def _shown(shape: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
