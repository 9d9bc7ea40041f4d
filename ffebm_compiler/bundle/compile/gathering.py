"""What goes into a bundle, from a model and one input: both programs, their tensors, gains, graphs and pages.

run both modes -> put the blocks on the chip -> export the digital parts -> record -> hold the graphs to that -> pages

Everything is done on a private copy, so the user's model stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor, nn

from ...codegen.bundle_code import bundle_training_script
from ...errors import OptionError, Problem
from ...ir import DigitalBlock, Program, Step
from ...model.execution import Execution
from ...model.left_as_it_was import kept_buffers
from ...model.runner import Runner
from ...onnx import KINDS, VJP, WEIGHTS, ExportedPart, Unexportable
from ...onnx.digital_part import parts_of
from ...onnx.parts import export_parts
from ...passes.calling import CallForm
from ...view import build_report, partition_graph
from ..format.contents import Contents, Mode, graph_file, part_block
from .graph_check import without, wrong_graphs
from .options import BundleOptions
from .pages import Circuits, circuits, graph_json, report_page
from .plain_call import plain_call
from .plain_result import plain_result
from .record import Run, in_mode_of, recorded
from .samples import record_parts, record_run

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """What a bundle is made from.

    Attributes:
        model: a private copy.
        args, kwargs: a call of it, on the CPU.
        options: how the bundle is asked for.
        tell: called with what is done next.
    """

    model: Runner
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: BundleOptions
    tell: Tell = lambda what: None


def steps_of(model: Runner, options: BundleOptions) -> int:
    """How often :func:`contents_of` tells what is next."""
    parts = [len(KINDS[t]) * len([*parts_of(m.program, model.network)]) for t, m in model.compiled.modes.items()]
    return sum(parts) + (2 if options.hardware is None else 3)


def contents_of(subject: Subject) -> Contents:
    """The contents of a model's bundle.

    Raises:
        OptionError: all digital parts that ONNX can't express, unless they are to be skipped; computed weights always.
    """
    subject.tell("running the model")
    runs = {training: recorded(subject.model, training, subject.args, subject.kwargs) for training in (False, True)}
    chip = _on_chip(subject)
    exported = {training: _exported(subject, run) for training, run in runs.items()}
    refused = tuple(r for parts in exported.values() for part in parts for r in part.refused)
    _insist(subject, refused)
    contents = replace(
        _described(subject, exported), refused=refused, files=chip.files, options=_options(subject, chip)
    )
    subject.tell("recording")
    samples = {k: v for run in runs.values() for k, v in record_run(run, subject.model).items()}
    samples.update(record_parts(contents, subject.model, runs))
    contents = replace(contents, samples=samples)
    wrong = wrong_graphs(contents)
    _insist(subject, wrong)
    contents = without(contents, wrong)
    return replace(contents, files={**contents.files, **_pages(subject, contents, chip)})


def _insist(subject: Subject, refused: Sequence[Unexportable]) -> None:
    """Refuses to go on without graphs, unless they are to be skipped."""
    stands = refused if subject.options.unexportable == "refuse" else [*filter(_is_needed, refused)]
    if stands:
        raise OptionError(_refusals(stands))


# --- the chip and the graphs --------------------------------------------------------------------------------


def _on_chip(subject: Subject) -> Circuits:
    chip = subject.options.chip
    if chip is None:
        return Circuits()
    subject.tell("putting the blocks on the chip")
    return circuits(subject.model, chip, subject.options.chip_seed, subject.args, subject.kwargs)


def _exported(subject: Subject, run: Run) -> tuple[ExportedPart, ...]:
    """The graphs of one mode's digital parts."""
    model = subject.model
    with in_mode_of(model, run.training), kept_buffers(model.network):
        return export_parts(model.program, model.network, run.values, KINDS[run.training], subject.tell, run.stateful)


_SKIP = "Leave it out of the model, or write the rest: unexportable='skip' (--skip-unexportable on the command line)."
_PLAIN = (
    "Blocks read these weights. Make them plain: torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')."
)


def _is_needed(refused: Unexportable) -> bool:
    """Whether a bundle is none without this graph: blocks can't do without their weights."""
    return refused.part == WEIGHTS and refused.kind != VJP


def _refusals(refused: Sequence[Unexportable]) -> Iterator[Problem]:
    told = dict.fromkeys((r.part, r.operation, r.reason) for r in refused)
    for part, operation, reason in told:
        same = [r for r in refused if (r.part, r.operation, r.reason) == (part, operation, reason)]
        where = f"digital part {part} ({', '.join(r.kind for r in same)}), {operation}"
        yield Problem(where, f"has no ONNX form: {reason}", _PLAIN if any(map(_is_needed, same)) else _SKIP)


# --- the programs and their numbers -------------------------------------------------------------------------


def _described(subject: Subject, exported: Mapping[bool, Sequence[ExportedPart]]) -> Contents:
    """All but samples, pages and what was asked for."""
    model, network = subject.model, subject.model.network
    tensors, aliases = held_tensors(network)
    saved = network.state_dict().keys()
    return Contents(
        name=type(network).__name__,
        training=model.training,
        modes={t: _mode(subject, t, parts) for t, parts in exported.items()},
        tensors=tensors,
        parameters=tuple(name for name, _ in network.named_parameters()),
        execution=described_execution(model.execution),
        frozen=tuple(name for name, p in network.named_parameters() if not p.requires_grad),
        aliases=aliases,
        hidden=tuple(name for name in tensors if name not in saved),
        gains=model.block_gains.saved(),
        graphs={
            graph_file(part.name, graph.interface.kind): graph.model.SerializeToString(deterministic=True)
            for parts in exported.values()
            for part in parts
            for graph in part
        },
    )


def _mode(subject: Subject, training: bool, exported: Sequence[ExportedPart]) -> Mode:
    mode = subject.model.compiled.modes[training]
    form = mode.signature.bind
    assert isinstance(form, CallForm), "a bundle is compiled from a model that was converted"
    call, defaults = plain_call(form, mode.program.inputs, subject.args, subject.kwargs)
    interfaces = {part.name: {g.interface.kind: g.interface for g in part} for part in exported}
    sizes = {n: i.sizes for n, i in zip(mode.program.inputs, form.inputs, strict=True) if i.sizes is not None}
    program = replace(mode.program, steps=_steps(mode.program))
    return Mode(program, interfaces, plain_result(mode), call, defaults, sizes)


def _steps(program: Program) -> tuple[Step, ...]:
    """The program's steps, its digital parts as calls of their graphs."""
    return tuple(
        part_block(s.name, s.inputs, s.outputs, s.origins, s.reasons) if isinstance(s, DigitalBlock) else s
        for s in program
    )


def held_tensors(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Parameters and buffers by their first path, and the first path of each other one of a tied tensor."""
    everything = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
    first: dict[int, str] = {}
    for name, tensor in everything:
        first.setdefault(id(tensor), name)
    tensors = {n: t.detach().contiguous() for n, t in everything if first[id(t)] == n}
    return tensors, {n: first[id(t)] for n, t in everything if first[id(t)] != n}


def described_execution(execution: Execution) -> dict[str, Any]:
    """How the model runs, as plain values."""
    estimator = execution.estimator
    options: dict[str, Any] = (
        {f.name: getattr(estimator, f.name) for f in fields(estimator) if f.compare} if is_dataclass(estimator) else {}
    )
    return {
        "loop_gain": execution.loop_gain,
        "tolerance": execution.tolerance.residual,
        "max_sweeps": execution.tolerance.max_sweeps,
        "estimator": {"name": type(estimator).__name__, "options": options},
    }


# --- for people ---------------------------------------------------------------------------------------------


def _options(subject: Subject, chip: Circuits) -> dict[str, Any]:
    """What was asked for, as plain values."""
    asked, hardware = subject.options, subject.options.chip
    compilation = {
        "hardware": None if hardware is None else hardware.name,
        "chip_seed": asked.chip_seed,
        "unexportable": asked.unexportable,
        "without_netlist": dict(chip.left_out),
    }
    return {"conversion": dict(subject.model.compiled.options), "compilation": compilation}


def _pages(subject: Subject, contents: Contents, chip: Circuits) -> dict[str, bytes]:
    model = subject.model
    with kept_buffers(model.network):  # looking at a spectral norm in training mode moves it
        graph = partition_graph(model.program, model.network)
        report = build_report(model.compiled, model.training, model.execution.loop_gain, model.all_gains(), {})
    return {
        "graph.json": graph_json(graph),
        "report.html": report_page(report, graph, contents.refused, chip.left_out),
        "training_loop.py": _script(model, contents).encode(),
    }


def _script(model: Runner, contents: Contents) -> str:
    """The training step, readable and runnable."""
    mode = contents.modes[True]
    gains = model.layer_weights(mode.program)
    return bundle_training_script(
        mode.program, contents.name, model.execution.estimator, gains, computes_weights=WEIGHTS in mode.parts
    )
