"""Every graph against what PyTorch gave for the same input, before a bundle is written.

An exporter may drop an option without a word, and onnxruntime may load what it can't run. Neither may reach a bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import torch
from torch import Tensor

from ...onnx import FORWARD, Interface, Unexportable
from ...onnx.check import session
from ...onnx.graph import with_data
from ..format.contents import Contents, Mode, graph_file
from .compare import Samples, compared, given_to, missing, worst

LARGEST = 1 << 30
"""Bytes of weights beyond which a graph is not run for the check: protobuf takes no message of 2 GiB."""


def wrong_graphs(contents: Contents) -> tuple[Unexportable, ...]:
    """The graphs of a bundle that do not compute what is recorded of them, and how."""
    return tuple(
        Unexportable(name, kind, _operation(mode, name), reason)
        for mode in contents.modes.values()
        for name, interfaces in mode.parts.items()
        for kind, interface in interfaces.items()
        if (reason := _wrong(contents, name, interface)) is not None
    )


def _wrong(contents: Contents, name: str, interface: Interface) -> str | None:
    samples, weights = contents.samples, _weights(contents, interface)
    if missing(samples, name, interface) or sum(t.nbytes for t in weights.values()) > LARGEST:
        return None
    try:
        results = _run(contents.graphs[graph_file(name, interface.kind)], name, interface, samples, weights)
    except Exception as failure:  # onnxruntime's exceptions have no common base
        return f"onnxruntime can't run its graph: {' '.join(str(failure).split())[:300]}"
    off = worst(compared(samples, name, interface, results))
    if off.largest <= off.bound():
        return None
    return f"its graph differs from PyTorch by {off.largest:.1e} of the largest value in {off.where}"


def _weights(contents: Contents, interface: Interface) -> dict[str, Tensor]:
    """The tensors that a graph reads, by port."""
    ports = (*interface.parameters, *interface.buffers)
    return {p.name: contents.tensors[contents.aliases.get(p.value, p.value)] for p in ports}


def _run(
    content: bytes, name: str, interface: Interface, samples: Samples, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The results by port."""
    model = onnx.load_model_from_string(content)
    forward = interface.kind == FORWARD
    ready = session(with_data(model, weights) if forward else model)
    given = {**given_to(samples, name, interface), **({} if forward else weights)}
    feed = {p.name: given[p.name].detach().contiguous().numpy().astype(p.dtype) for p in interface.inputs}
    names = [p.name for p in interface.results]
    return {n: torch.from_numpy(np.array(a)) for n, a in zip(names, ready.run(names, feed), strict=True)}


def _operation(mode: Mode, name: str) -> str:
    """The one layer of a part, or the part."""
    origins = [o for b in mode.program.digital_blocks if b.name == name for o in b.origins]
    return f"{origins[0].label} ({origins[0].kind})" if len(origins) == 1 else name


def without(contents: Contents, refused: tuple[Unexportable, ...]) -> Contents:
    """The contents without those graphs."""
    left_out = {(r.part, r.kind) for r in refused}
    modes = {t: replace(m, parts=_kept(m, left_out)) for t, m in contents.modes.items()}
    files = {graph_file(part, kind) for part, kind in left_out}
    graphs = {n: g for n, g in contents.graphs.items() if n not in files}
    return replace(contents, modes=modes, graphs=graphs, refused=(*contents.refused, *refused))


def _kept(mode: Mode, left_out: set[tuple[str, str]]) -> dict[str, dict[str, Interface]]:
    return {n: {k: i for k, i in kinds.items() if (n, k) not in left_out} for n, kinds in mode.parts.items()}
