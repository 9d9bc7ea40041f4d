"""Is the compiled program the model? Without feedback it must do what the model's own forward does, in all that a call does.

On the first input of each mode, and at conversion where an input is known, the user's model and the program without feedback
are run on two samples, with the same random numbers, on the code that users run: what they return, the gradients of parameters and inputs,
the buffers and attributes that they leave, the random numbers that they draw. Any difference is an error that names the layer, the parameter or
the attribute. What feedback adds is checked block by block: couplings and their transposes, printed energies and solvers (:mod:`ffebm_compiler.passes.verify`).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..errors import ConversionWarning, FFEBMError, InputError, Problem, VerificationError
from ..ir import EnergyBlock, Origin
from ..nests import is_tensor, map_nest, tensors_in
from ..passes.graph.contexts import with_autocast
from ..passes.tracing.opened_contexts import callers_autocast
from ..solve import BoundBlock
from ..solve.norm_sample import one_sample
from ..train import run_digital
from ..train.program_pass import Values, run_program
from ..train.without_feedback import Mismatch, feedforward_states, without_feedback
from .as_written import as_written, held_mean_paths
from .comparison import differences, relative_differences, tolerance_of
from .guessed_inputs import candidates
from .held_functions import twice_used
from .locating import LayerValues, first_difference, layers_heard, note, note_block
from .nested_values import ordinary
from .observation import Observation, observed, unseen
from .runner import Runner

logger = logging.getLogger(__name__)

ATTEMPTS = 6
"""Of a check beside other threads."""

Example = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Arguments and keywords of a call."""

SAMPLES = 2
"""Of an input, one would hide whatever couples the samples of a batch."""

NOISE = 30
"""Differences of so many times those that rounding the weights and inputs makes in the model itself are roundings."""

CHAOS = 1e3
"""Differences of so many times the largest of those are looked at in float64."""

EXACT = 1e-5
"""What float64 may leave, where roundings grow as they do there."""

SHOWN = 8
"""Problems of one check that are listed."""


def verify_early(model: Runner, example: Example | None) -> None:
    """Verifies a model in both modes on the example inputs, or on one guessed from its first layer; otherwise its first inputs will do.

    Raises:
        VerificationError: a block's energy and its solver disagree, or the program and the model.
        InputError: the model itself does not take the example inputs.
    """
    if example is None:
        _verify_on_guess(model)
        return
    failures = []
    for training in (False, True):
        with model.in_mode(training):
            try:
                verify_call(model, example)
                with torch.no_grad():  # the gains of every block, for reports; what is verified needs none
                    model.ensure_gains(*example[0], **example[1])
            except _RefusedError as refusal:  # such as one sample for a batch norm in training
                failures.append(refusal)
    if len(failures) == 2:
        with model.in_mode(True):
            _explain(model, example, "example_inputs", failures[0])


def verify_first_input(model: Runner, example: Example) -> None:
    """Verifies a model on an input that it is called with.

    Raises:
        VerificationError: the program does otherwise than the model, which may be to refuse the input.
    """
    example = _ordinary(example)
    try:
        verify_call(model, example, will_relax=True)
    except _RefusedError as refusal:
        _explain(model, example, f"call of {type(model.network).__name__}", refusal)


def _explain(model: Runner, example: Example, where: str, refusal: _RefusedError) -> NoReturn:
    """Raises the program's own error, which names the layer; or says that the program takes what the model refuses."""
    with unseen():
        _observed_program(model, example, _Heard())
    raise refusal.as_error(where) from refusal.failure


def _ordinary(example: Example) -> Example:
    with torch.inference_mode(False):
        args, kwargs = ordinary((tuple(example[0]), dict(example[1])))
    return args, kwargs


def _verify_on_guess(model: Runner) -> None:
    for sample in candidates(model.network):
        fits = []
        for training in (False, True):
            with model.in_mode(training):
                fits.append(_fits(model, ((sample,), {})))
        if any(fits):
            return


def _fits(model: Runner, example: Example) -> bool:
    """Verifies a model on a guessed input, if it takes one of this shape."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the user's code, about an input that is not theirs
            verify_call(model, example)
    except VerificationError:
        raise
    except Exception as failure:  # a guess may fail anywhere in the user's code
        logger.debug("a guessed input does not fit: %s", failure)
        return False
    return True


class _RefusedError(Exception):
    """The user's own model raises on an input."""

    def __init__(self, failure: Exception):
        super().__init__(str(failure))
        self.failure = failure

    def as_error(self, where: str) -> InputError:
        line = (str(self.failure).strip().splitlines() or [type(self.failure).__name__])[0]
        what = f"is refused by the model itself: {type(self.failure).__name__}: {line}"
        return InputError(Problem(where, what, "Give what the original model takes."))


def verify_call(model: Runner, example: Example, will_relax: bool = False) -> None:
    """Compares the program of the present mode with the model itself, on two samples of a call.

    Args:
        will_relax: whether every block is about to be used on this input.

    Raises:
        VerificationError: with every difference.
    """
    if model.training and (shared := [*twice_used(model.program, held_mean_paths(model))]):
        what = "is held in a block and not outside of it: while training the two can't be compared with the model"
        warnings.warn(f"the norm of {', '.join(shared)} {what}", ConversionWarning, stacklevel=2)
        return
    wanted = torch.is_grad_enabled()
    try:
        with torch.enable_grad():
            _undisturbed(lambda: _verify_in_all(model, example, will_relax))
    except _RefusedError:  # a model may run without gradients only, as with out=
        if wanted:
            raise
        with torch.no_grad():
            _undisturbed(lambda: _verify_in_all(model, example, will_relax))


def _undisturbed(verify: Callable[[], None]) -> None:
    """Verifies again where that fails beside other threads: they draw from the same generators, between the two
    runs or within one."""
    for _ in range(ATTEMPTS - 1 if threading.active_count() > 1 else 0):
        with contextlib.suppress(VerificationError):
            return verify()
    return verify()


def _verify_in_all(model: Runner, example: Example, will_relax: bool) -> None:
    """In all that a call does in the present grad mode."""
    with unseen():
        sample, theirs = _observed_model(model, example)
        heard = _Heard()
        ours = _observed_program(model, sample, heard)
        theirs = replace(theirs, registered={**theirs.registered, **_counts_of_held(model, ours)})
        found = list(differences(ours, theirs, {}))
        if found and not _is_rounding(model, sample, ours, theirs):
            raise VerificationError([*_of_autocast(model), *_located(model, sample), *found[:SHOWN], *_left_off(found)])
        VerificationError.raise_if(heard.problems(model))
        if not will_relax:
            for bound in heard.blocks:
                _verify_energy(model, bound)


@dataclass(frozen=True)
class _Heard:
    """What a run of the program lets hear: the blocks that it visits, how far couplings are from their transposes,
    and values of layers."""

    blocks: list[BoundBlock] = field(default_factory=list)
    mismatches: list[Mismatch] = field(default_factory=list)
    values: LayerValues | None = None

    def problems(self, model: Runner) -> Iterator[Problem]:
        for found in self.mismatches:
            if not found.relative <= tolerance_of(found.eps):
                yield _untransposed(model, found)


def _counts_of_held(model: Runner, ours: Observation) -> Mapping[str, Tensor]:
    """How many batches a held norm has seen: torch.export writes the count apart from the norm, so it goes on.
    Nothing reads it."""
    counts = (f"{o.layer}.num_batches_tracked" for b in model.program.energy_blocks for o in b.held_norms)
    return {n: ours.registered[n] for n in counts if n in ours.registered}


def _observed_model(model: Runner, example: Example) -> tuple[Example, Observation]:
    """What the user's model does, on two samples; on the whole input where it does not take two."""
    cut = first_samples(example)
    for sample in (cut, example) if cut is not example and _is_bound(model, cut) else (example,):
        try:
            with as_written(model):
                return sample, observed(model.network, lambda a, k: model.network(*a, **k), *sample)
        except torch.OutOfMemoryError:
            raise
        except Exception as failure:  # whatever the user's own code raises
            refusal = _RefusedError(failure)
    raise refusal


def _is_bound(model: Runner, sample: Example) -> bool:
    """Whether the program holds for a call of these sizes."""
    try:
        model.mode.signature.bind(*sample)
    except InputError:
        return False
    return True


def _observed_program(model: Runner, sample: Example, heard: _Heard) -> Observation:
    try:
        return observed(model.network, lambda a, k: _run(model, (a, k), heard), *sample)
    except (FFEBMError, torch.OutOfMemoryError):
        raise
    except Exception as failure:
        line = (str(failure).strip().splitlines() or [""])[0]
        problem = Problem(
            f"model {type(model.network).__name__}",
            f"the compiled program fails where the model does not: {type(failure).__name__}: {line}",
            "Keep the layer that fails out with digital=[...], or give example_inputs= to trace by torch.export.",
        )
        raise VerificationError(problem) from failure


def _run(model: Runner, example: Example, heard: _Heard) -> Any:
    """The program without feedback."""
    args, kwargs = example
    values = dict(zip(model.program.inputs, model.mode.signature.bind(args, kwargs), strict=True))

    def noted(origin: Origin, call: Callable[[], Any]) -> Any:
        result = call()
        if heard.values is not None:
            note(heard.values, origin.label, result)
        return result

    def fed_forward(block: EnergyBlock, values: Values) -> Mapping[str, Any]:
        bound = model.bound(block, values)
        heard.blocks.append(bound)
        if heard.values is not None:
            note_block(heard.values, bound)
        return without_feedback(bound, model.differentiation, heard.mismatches.append)

    run_program(model.program, model.network, values, fed_forward, partial(run_digital, around=noted))
    return model.pack_output(values)


def _is_rounding(model: Runner, sample: Example, ours: Observation, theirs: Observation) -> bool:
    """Whether what sets the two apart is what rounding does to this model: batch norms over a few values know no bounds there.

    Differences are of the size that roundings of the weights and inputs make in the model itself; or of a size that they might make, and gone in float64;
    or of the size of roundings of the type that the model's own autocast computes in.
    """
    own = max((tolerance_of(torch.finfo(dtype).eps) for dtype in _own_precisions(model)), default=0.0)
    if own and not [*differences(ours, theirs, {}, everywhere=own)]:
        return True
    with as_written(model):
        shaken = observed(model.network, lambda a, k: model.network(*a, **k), *sample, shake=True)
    noise = relative_differences(shaken, theirs)
    if not [*differences(ours, theirs, {n: NOISE * far for n, far in noise.items()})]:
        return True
    largest = max(noise.values(), default=0.0)
    if [*differences(ours, theirs, {}, everywhere=CHAOS * largest)]:
        return False
    try:
        with as_written(model):
            exact = observed(model.network, lambda a, k: model.network(*a, **k), *sample, dtype=torch.float64)
        program = observed(model.network, lambda a, k: _run(model, (a, k), _Heard()), *sample, dtype=torch.float64)
    except Exception as failure:  # a model that insists on its type
        logger.debug("the model does not run in float64: %s", failure)
        return False
    exact = replace(exact, registered={**exact.registered, **_counts_of_held(model, program)})
    return not [*differences(program, exact, {}, everywhere=EXACT)]


def _own_precisions(model: Runner) -> Iterator[torch.dtype]:
    """What the model's own autocast computes in: a weight that is read twice there is rounded once in the model,
    and twice here."""
    for node in (n for block in model.program.digital_blocks for n in block.graph.nodes if n.target is with_autocast):
        _, dtype, enabled, *_ = node.args
        if enabled:
            yield dtype


def _of_autocast(model: Runner) -> Iterator[Problem]:
    """An exported program knows the types that its forward asked for without autocast."""
    for setting in callers_autocast() if model.mode.tracer == "torch.export" else ():
        yield Problem(
            f"torch.autocast({setting.device!r}, {setting.dtype}) around the call",
            "is not what the forward was exported under: where it asks for the type of a tensor, "
            "the answer was the one without autocast",
            "Call the model without autocast, or open autocast inside of the forward.",
        )


def _located(model: Runner, sample: Example) -> Iterator[Problem]:
    ours: LayerValues = {}
    with layers_heard(model.network) as theirs, as_written(model):
        observed(model.network, lambda a, k: model.network(*a, **k), *sample)
    observed(model.network, lambda a, k: _run(model, (a, k), _Heard(values=ours)), *sample)
    found = first_difference(model, ours, theirs)
    if found is not None:
        origin, far = found
        yield Problem(
            f"layer {origin}",
            f"is the first whose value differs from the model's own, by {far:.1e} of its largest",
            "It is read wrongly, or what it reads is: by a rule of rules= where you gave some.",
        )


def _left_off(found: list[Problem]) -> Iterator[Problem]:
    if len(found) > SHOWN:
        yield Problem("more", f"{len(found) - SHOWN} further differences", "They mostly follow from the first.")


def _verify_energy(model: Runner, bound: BoundBlock) -> None:
    """The printed energy of a block, at feedforward states."""
    bound = one_sample(bound.detached())
    model.checks.block(model, bound.block, bound, feedforward_states(bound), None)


def _untransposed(model: Runner, found: Mismatch) -> Problem:
    return Problem(
        f"layer {model.program.origins[found.state]}",
        f"its coupling and the transpose of it disagree by {found.relative:.1e}",
        "A rule gives a function that torch differentiates wrongly; keep the layer out with digital=[...].",
    )


def first_samples(example: Example) -> Example:
    """A call on the first samples of the batch, as far as that can be told: every tensor as long as the first one
    is cut."""
    leaves = [v for v in tensors_in(example) if v.dim() > 0]
    if not leaves or leaves[0].shape[0] <= SAMPLES:
        return example
    batch = leaves[0].shape[0]

    def cut(v: Tensor) -> Tensor:
        return v[:SAMPLES] if v.dim() > 0 and v.shape[0] == batch else v

    args, kwargs = map_nest((tuple(example[0]), dict(example[1])), is_tensor, cut)
    return args, kwargs
