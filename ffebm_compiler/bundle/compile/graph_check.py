"""Every graph against what PyTorch gave for the same input, before a bundle is written.

An exporter may drop an option without a word, and onnxruntime may load what it can't run. Neither may reach a bundle.
"""

from __future__ import annotations

from dataclasses import replace

from ...errors import InputError
from ...onnx import Interface, Unexportable
from ...onnx.difference import worst
from ...onnx.session import OnnxGraph
from ..format.contents import Contents, Mode, graph_file
from .compare import compared, given_to, missing

LARGEST = 1 << 30
"""Bytes of weights beyond which a graph is not run for the check: protobuf takes no message of 2 GiB."""


def wrong_graphs(contents: Contents) -> tuple[Unexportable, ...]:
    """The graphs of a bundle that do not compute what is recorded of them, and how."""
    return tuple(
        Unexportable(name, interface.kind, _operation(mode, name), reason)
        for mode in contents.named_modes.values()
        for name, interface in mode.interfaces
        if (reason := _wrong(contents, name, interface)) is not None
    )


def _wrong(contents: Contents, name: str, interface: Interface) -> str | None:
    samples = contents.samples
    weights = {p.name: contents.tensors[contents.aliases.get(p.value, p.value)] for p in interface.tensors}
    if missing(samples, name, interface) or sum(t.nbytes for t in weights.values()) > LARGEST:
        return None
    graph = OnnxGraph(name, contents.graphs[graph_file(name, interface.kind)], interface)
    try:
        results = graph.run_once({**given_to(samples, name, interface), **weights})
    except InputError as failure:
        return f"onnxruntime can't run its graph: {' '.join(str(failure.__cause__).split())[:300]}"
    off = worst(compared(samples, name, interface, results))
    if off.largest <= off.bound():
        return None
    return f"its graph differs from PyTorch by {off.largest:.1e} of the largest value in {off.where}"


def _operation(mode: Mode, name: str) -> str:
    """The one layer of a part, or the part."""
    origins = [o for b in mode.program.digital_blocks if b.name == name for o in b.origins]
    return f"{origins[0].label} ({origins[0].kind})" if len(origins) == 1 else name


def without(contents: Contents, refused: tuple[Unexportable, ...]) -> Contents:
    """The contents without those graphs."""
    left_out = {(r.part, r.kind) for r in refused}
    modes = {
        training: replace(
            mode,
            parts={n: {k: i for k, i in kinds.items() if (n, k) not in left_out} for n, kinds in mode.parts.items()},
        )
        for training, mode in contents.modes.items()
    }
    files = {graph_file(part, kind) for part, kind in left_out}
    graphs = {n: g for n, g in contents.graphs.items() if n not in files}
    return replace(contents, modes=modes, graphs=graphs, refused=(*contents.refused, *refused))
