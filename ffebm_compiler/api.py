"""The whole pipeline: a model in, an ff-EBM out.

nn.Module -> copy -> trace -> canonicalize -> legality -> partition -> derive -> lower -> verify
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import fx, nn

from .backends import TorchEP
from .compiled import Compiled, ModeProgram
from .errors import ConversionWarning, OptionError, Problem
from .estimate import Estimator, TangentEP
from .ffebm import FFEBM
from .ir import Program
from .ir.tracing import TRACING
from .model.execution import DEFAULT_LOOP_GAIN, Execution
from .model.first_use import FirstUse
from .model.runner import Runner
from .model.verification import verify_early
from .options import Options, check
from .passes import (
    KEPT_DIGITAL,
    Canonical,
    Choice,
    Traced,
    barely_known_norms,
    canonicalize,
    check_choices,
    copy_network,
    depends_on_mode,
    derive,
    fingerprint,
    first_names,
    legality,
    partition,
    room_for,
    share_root,
    trace,
    unused_rules,
)
from .passes.modes import in_mode
from .passes.watching.recorder import Reads, layers_called
from .rules import RULES, Rule, Rules
from .solve import Tolerance
from .view import Report, build_report

logger = logging.getLogger(__name__)


def convert(
    model: nn.Module,
    block_size: int | None = None,
    *,
    block_sizes: Sequence[int] | None = None,
    digital: Choice = (),
    analog: Choice = (),
    norm: str = "auto",
    loop_gain: float | None = DEFAULT_LOOP_GAIN,
    estimator: Estimator | None = None,
    tolerance: float | None = None,
    max_sweeps: int = 200,
    example_inputs: Any = None,
    rules: Iterable[Rule] = (),
    copy: bool = True,
    verify: bool = True,
) -> FFEBM:
    """Compiles an ordinary PyTorch model to a feedforward-tied energy-based model (Nest & Ernoult, arXiv 2409.03306).

    The result is an ``nn.Module`` with a copy of the model's parameters under their own names, or with ``copy=False`` the
    parameters themselves. Calling it relaxes every energy-based block; ``loss.backward()`` chains backpropagation through
    the digital parts with equilibrium propagation through the blocks. The model itself is not modified.

    Args:
        model: any module that ``torch.fx.symbolic_trace`` can trace, or ``torch.export`` with ``example_inputs``.
        block_size: weighted layers a block, 2 by default; 1 is the feedforward network itself.
        block_sizes: instead, one size a block, in the order in which the model's calls open them.
        digital: layers to keep out of blocks: names (a container is called as a whole, ``*`` matches, ``""`` is the model itself,
            which then isn't traced) or a predicate of (name, module), asked of every layer that is called, not of
            containers, and of every function with None. A name of what is never called on its own is an error.
        analog: layers that must be in a block, likewise; a container means all that it calls.
        norm: ``"auto"`` keeps a batch norm before a block's first activation digital and holds the running statistics of one
            deeper inside, if it has some at the conversion: a norm that saw no batch stays digital and trains as ever;
            ``"split"`` makes every norm a boundary; ``"held"`` holds all of them. The report says which norm is which.
        loop_gain: the bound on the loop gain of every coupling; below 0.25 the energy of a chain is certified
            strictly convex. None gives all reverse gains 1, as in the paper.
        estimator: how backward gets the gradient of a block, :class:`TangentEP` by default.
        tolerance: the relative residual at which a relaxation has converged; None chooses by the precision.
        max_sweeps: the most sweeps a relaxation may take.
        example_inputs: a call of the model: a tensor, a tuple of arguments, or a dict of keywords. It says what is traced: optional
            arguments that it gives are part of the program, and those that it leaves out are not. torch.export is tried with it where
            symbolic tracing can't be right, and the program is compared with the model on it at once. Later calls have its form, and
            what torch.export traced has its sizes but for the batch (docs/promises.md).
        rules: further rules, which win over the built-in ones (docs/operations.md).
        copy: whether the result has parameters and buffers of its own. With False they are the model's, the same objects:
            nothing is copied, an optimizer that was made for the model trains the result, and the model sees each step.
            Modes, hooks and flags are each one's own. Don't restructure the model afterwards (parametrize, prune): what is changed on it,
            other than its tensors, is named at the next call.
        verify: whether the first input of each mode, and the example inputs, are used to hold the compiled program against the model itself:
            without feedback both must do the same (outputs, gradients, buffers, attributes, random numbers). It costs at most three forward
            and backward passes of the model on two samples, once a mode.

    Raises:
        OptionError: options that can't be used, names of layers that are not called among them, all at once.
        TraceError: the model can't be traced.
        PartitionError: ``analog=`` insists on a layer that can't be in a block.
        VerificationError: a block's energy and its solver disagree, or the program and the model (a rule is wrong).
    """
    options = Options(
        _size(block_size, block_sizes), block_sizes, digital, analog, norm, loop_gain, estimator, tolerance, max_sweeps, example_inputs, _given(rules), copy, verify
    )  # fmt: skip
    compiled = compile_model(model, options)
    stop = Tolerance(tolerance, max_sweeps)
    execution = Execution(estimator or TangentEP(), stop, loop_gain, verify)
    runner = Runner(compiled, execution, TorchEP(), FirstUse())
    if verify:
        verify_early(runner, options.examples)
    if not copy:
        runner.watch.watch_original(model)
    return FFEBM(runner)


def explain(
    model: nn.Module,
    block_size: int | None = None,
    *,
    block_sizes: Sequence[int] | None = None,
    digital: Choice = (),
    analog: Choice = (),
    norm: str = "auto",
    loop_gain: float | None = DEFAULT_LOOP_GAIN,
    example_inputs: Any = None,
    rules: Iterable[Rule] = (),
) -> Report:
    """What :func:`convert` would do with a model, without doing it: blocks, boundaries and their reasons. Copies no tensor.

    Args and errors are those of :func:`convert`.
    """
    options = Options(
        _size(block_size, block_sizes),
        block_sizes,
        digital,
        analog,
        norm,
        loop_gain,
        example_inputs=example_inputs,
        rules=_given(rules),
        copy=False,
    )
    compiled = compile_model(model, options)
    return build_report(compiled, model.training, loop_gain, {}, {})


def _size(block_size: int | None, block_sizes: Sequence[int] | None) -> int | None:
    return 2 if block_size is None and block_sizes is None else block_size


def _given(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    try:
        return tuple(rules)
    except TypeError:
        raise OptionError.at(
            "option rules", f"is {rules!r}", "Give a list of ffebm_compiler.rules.Rule objects."
        ) from None


def compile_model(model: nn.Module, options: Options) -> Compiled:
    """Every pass up to lowering, for both modes of the model."""
    _check_unconverted(model)
    check(model, options)
    with TRACING, torch.inference_mode(False), room_for(model):  # tensors of inference_mode can't be trained
        network = copy_network(model, share=not options.copy)
        buffers = {name for name, _ in network.named_buffers()}
        reads = Reads(network)
        modes, doubts = _both_modes(network, model.training, options, reads)
    in_place = _rewritten(network, [m.program for m in modes.values()])
    for doubt in (*doubts, *barely_known_norms({id(m): m.program for m in modes.values()}.values(), network)):
        warnings.warn(doubt, ConversionWarning, stacklevel=3)
    for name in in_place:
        network.get_submodule(name).inplace = False  # type: ignore[assignment]
    constants = tuple(name for name, _ in network.named_buffers() if name not in buffers)
    if not options.copy:
        share_root(model, network)
    is_alike = modes[True] is modes[False]
    watched = {mode: reads.watched(mode, m.program, is_alike) for mode, m in modes.items()}
    record = _recorded(options, modes[True].program)
    return Compiled(network, modes, record, in_place, constants, bool(options.rules), watched)


def _check_unconverted(model: nn.Module) -> None:
    """A converted model relaxes, which no graph of calls does, at the top or within another model."""
    held = [name for name, m in model.named_modules() if isinstance(m, FFEBM)] if isinstance(model, nn.Module) else []
    if "" in held:
        raise OptionError.at(
            "model", "is converted already", "Give the original: convert(model.to_feedforward(), ...)."
        )
    OptionError.raise_if(
        Problem(
            f"layer {name}",
            "is a converted model already, inside of the one that is to be converted",
            f"Convert the whole from its originals: put model.{name}.to_feedforward() in its place.",
        )
        for name in held
    )


def _both_modes(
    network: nn.Module, first: bool, options: Options, reads: Reads
) -> tuple[dict[bool, ModeProgram], tuple[str, ...]]:
    """The program of each mode, one and the same where both modes make the same calls; and what the user's rules
    did not match."""
    rules = RULES.extended(options.rules)
    known = _traced(network, first, options, rules, reads)
    alike = fingerprint(known)
    with reads.of_rules():
        canonicals = {first: canonicalize(known, rules)}
    other = _traced(network, not first, options, rules, reads)
    if fingerprint(other) != alike or depends_on_mode(canonicals[first]):
        with reads.of_rules():
            canonicals[not first] = canonicalize(other, rules)
    seen = tuple(canonicals.values())
    check_choices(seen, options.digital, options.analog)
    compiled = {mode: _compile_mode(canonical, options) for mode, canonical in canonicals.items()}
    return {mode: compiled.get(mode, compiled[first]) for mode in (first, not first)}, tuple(unused_rules(seen, rules))


def _rewritten(network: nn.Module, programs: Iterable[Program]) -> tuple[str, ...]:
    """The in-place layers that the programs call: their readers read the results instead. Those inside a layer that
    is called as a whole stay."""
    called = layers_called(*(graph for p in programs for graph in _graphs(p)))
    return tuple(sorted(name for name in called if getattr(network.get_submodule(name), "inplace", False) is True))


def _graphs(program: Program) -> list[fx.Graph]:
    return [block.graph for block in program.digital_blocks]


def _recorded(options: Options, program: Program) -> dict[str, Any]:
    """The options as plain values; a predicate becomes the names that it chose."""
    record = options.to_dict()
    if callable(options.digital):
        reasons = {k: v for b in program.digital_blocks for k, v in b.reasons.items()}
        record["digital"] = [label for label, reason in reasons.items() if reason == KEPT_DIGITAL]
    if callable(options.analog):
        record["analog"] = []
    return record


def _traced(network: nn.Module, training: bool, options: Options, rules: Rules, reads: Reads) -> Traced:
    args, kwargs = options.examples or (None, None)
    modules = {name for name, _ in network.named_modules()}
    opaque = [] if callable(options.digital) else [n for n in first_names(network, options.digital) if n in modules]
    with in_mode(network, training), reads.of_forward(training):
        traced = trace(network, training, args, kwargs, opaque, rules.layers_of_own(network))
    reads.called[training] = layers_called(traced.graph)
    return traced


def _compile_mode(canonical: Canonical, options: Options) -> ModeProgram:
    legal = legality(canonical, options.digital, options.analog, options.norm)
    partitioned = partition(legal, options.block_size, options.block_sizes)
    return ModeProgram(derive(partitioned), canonical.traced.signature, canonical.traced.tracer)
