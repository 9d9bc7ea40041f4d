"""What was compiled, in words: the blocks and the digital parts between them, and why each operation is where it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from ..compiled import Compiled
from ..ir import DigitalBlock, EnergyBlock, Step
from ..passes import Verification
from ..solve import Certificate, Gains, certify, unit_gains
from .norms import held_statistics
from .operations import UserOperation, parameters_behind, step_operations
from .report_html import html_report
from .report_rows import BlockRow, DigitalRow, ParameterCount, ReportRows
from .report_text import text_report


@dataclass(frozen=True)
class Report(ReportRows):
    """What was compiled; ``str()`` prints it, :meth:`to_dict` is JSON-able, notebooks show a table."""

    def __str__(self) -> str:
        return text_report(self)

    def _repr_html_(self) -> str:
        return html_report(self)

    def to_dict(self) -> dict[str, Any]:
        """The report as lists, dictionaries, strings and numbers."""
        rows = [{"domain": "analog" if isinstance(r, BlockRow) else "digital", **asdict(r)} for r in self.rows]
        for row, data in zip(self.rows, rows, strict=True):
            if isinstance(row, DigitalRow):
                data["operations"] = [dict(zip(("layer", "kind", "reason"), op, strict=True)) for op in row.operations]
            else:
                data["states"] = [dict(layer=label, potential=potential) for label, potential in row.states]
        return {
            "model": self.model, "mode": self.mode, "tracer": self.tracer, "loop_gain": self.loop_gain,
            "rows": _plain(rows), "parameters": asdict(self.parameters),
            "held_norms": list(self.held_norms), "trained_norms": list(self.trained_norms),
            "norm_statistics": dict(self.norm_statistics),
            "shared": {name: list(readers) for name, readers in self.shared},
        }  # fmt: skip


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON gives them back."""
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


# --- building it ------------------------------------------------------------------------------------------


def build_report(
    compiled: Compiled,
    training: bool,
    loop_gain: float | None,
    gains: Mapping[str, Gains | None],
    verified: Mapping[str, Verification],
) -> Report:
    """The report on one mode of a compiled model.

    Args:
        loop_gain: the bound on loop gains; None for unit feedback.
        gains: the gains of each block, by name; None or absent before they are measured.
        verified: the result of the verify pass, by the block's name.
    """
    mode, network = compiled.modes[training], compiled.network
    steps = [step_operations(step, network) for step in mode.program]
    operations = [op for ops in steps for op in ops]
    return Report(
        model=type(network).__name__,
        mode="training" if training else "evaluation",
        tracer=mode.tracer,
        loop_gain=loop_gain,
        rows=tuple(
            _row(step, ops, network, loop_gain, gains, verified) for step, ops in zip(mode.program, steps, strict=True)
        ),
        parameters=_count(operations, network),
        trained_norms=tuple(op.origin.label for op in operations if _trains_with_batch(op, network)),
        norm_statistics=held_statistics(mode.program, network),
        shared=tuple(_shared(operations, network)),
    )


def _row(
    step: Step, operations: Sequence[UserOperation], network: nn.Module,
    loop_gain: float | None, gains: Mapping[str, Gains | None], verified: Mapping[str, Verification],
) -> BlockRow | DigitalRow:  # fmt: skip
    count = sum(p.numel() for p in _read(operations, network).values())
    if isinstance(step, DigitalBlock):
        listed = tuple((o.label, o.kind, step.reasons.get(o.label, "")) for o in step.origins)
        return DigitalRow(step.name, listed, count)
    known = gains.get(step.name) or (unit_gains(step) if loop_gain is None or not step.has_feedback else None)
    return _block_row(step, count, None if known is None else certify(step, known), verified.get(step.name))


def _block_row(
    block: EnergyBlock, parameters: int, verdict: Certificate | None, check: Verification | None
) -> BlockRow:
    label = {s.name: s.origin.label for s in block.states}
    known = verdict is not None and math.isfinite(verdict.loop_gain)  # at unit feedback it is not measured
    return BlockRow(
        name=block.name,
        layers=tuple(t.origin.label for t in block.layers),
        states=tuple((s.origin.label, s.potential.name) for s in block.states),
        couplings=tuple((label[l], label[m]) for l, m in block.edges),
        parameters=parameters,
        held_norms=tuple(o.label for o in block.held_norms),
        loop_gain=verdict.loop_gain if verdict is not None and known else None,
        convex=verdict.convex if verdict is not None and known else None,
        certificate="measured at first use" if verdict is None else verdict.reason,
        verified=None if check is None else _residuals(check),
    )


def _residuals(check: Verification) -> dict[str, Any]:
    return {
        "ok": check.ok,
        "stationarity": check.stationarity,
        "gradient": check.gradient,
        "converged": check.converged,
        "increments": max(check.increments, check.inverse),
    }


def _read(operations: Sequence[UserOperation], network: nn.Module) -> dict[int, nn.Parameter]:
    """The parameters that operations read, by identity: a shared one is one."""
    return {id(p): p for op in operations for path in op.tensors for p in parameters_behind(network, path)}


def _count(operations: Sequence[UserOperation], network: nn.Module) -> ParameterCount:
    analog = _read([op for op in operations if op.analog], network)
    digital = _read([op for op in operations if not op.analog], network)
    every = {id(p): p for p in network.parameters()}

    def size(ids: set[int]) -> int:
        return sum(every[i].numel() for i in ids & set(every))

    of_blocks, of_parts = set(analog), set(digital)
    return ParameterCount(
        analog=size(of_blocks), digital=size(set(every) - of_blocks),
        both=size(of_blocks & of_parts), unread=size(set(every) - of_blocks - of_parts),
    )  # fmt: skip


def _shared(operations: Sequence[UserOperation], network: nn.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Parameters that more than one operation reads, in the model's order."""
    readers: dict[int, list[str]] = {}
    for op in operations:
        for identity in _read([op], network):
            readers.setdefault(identity, []).append(op.origin.label)
    for name, parameter in network.named_parameters():
        if len(labels := readers.get(id(parameter), ())) > 1:
            yield name, tuple(labels)


def _trains_with_batch(op: UserOperation, network: nn.Module) -> bool:
    """A digital batch norm: a module of the batch norm family, or the function."""
    if op.analog:
        return False
    try:
        module = network.get_submodule(op.origin.layer) if op.origin.layer else None
    except AttributeError:
        module = None
    return (
        isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm))
        or op.origin.kind == "batch_norm"
    )
