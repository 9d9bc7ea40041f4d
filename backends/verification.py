"""Is the compiled program the model? Run without feedback, block by block, it must give the model's own output.

Checked as early as an input is known, together with each block's energy. This catches what the check of each block's energy can't: an operation that a rule reads wrongly, a value that the partition
mixes up, an overwritten alias.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import Problem, VerificationError
from ..ir import EnergyBlock
from ..passes import State
from ..solve import AUTOMATIC, BoundBlock, Gains
from ..solve.iteration import peak
from ..train import out_of_sight, run_digital
from .gain_store import GainStore
from .probe import candidates

if TYPE_CHECKING:
    from .torch_ep import FFEBM

logger = logging.getLogger(__name__)

FEW = 3
"""Steps for gains that only verify, on an input that was guessed."""


def verify_early(model: FFEBM, examples: tuple[tuple[Any, ...], Mapping[str, Any]] | None) -> None:
    """Verifies a model on the example inputs, or on one guessed from its first layer; otherwise its first input will do.

    Raises:
        VerificationError: a block's energy and its solver disagree, or the program and the model.
    """
    with evaluating(model):
        if examples is None:
            any(_fits(model, sample) for sample in candidates(model.network))
            return
        ours = _feedforward(model, *examples, _measured)
        _compare(model.network, ours, _as_written(model, *examples))


def _fits(model: FFEBM, sample: Tensor) -> bool:
    """Verifies a model on a guessed input, if it takes one of this shape."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using a non-tuple sequence")  # a tensor where the model takes a dict
            theirs = _as_written(model, (sample,), {})  # a wrong guess fails here, before any block relaxes
            ours = _feedforward(model, (sample,), {}, _thrown_away)
        _compare(model.network, ours, theirs)
    except VerificationError:
        raise
    except Exception as failure:  # a guess may fail anywhere in the user's code
        logger.debug("a guessed input of shape %s does not fit: %s", tuple(sample.shape), failure)
        return False
    return True


Measure = Callable[["FFEBM", BoundBlock, tuple[int, ...]], Gains]
"""How a block gets its gains: of a model, the block, and the version of the weights."""


def _measured(model: FFEBM, bound: BoundBlock, version: tuple[int, ...]) -> Gains:
    """As at first use, and kept as those."""
    with out_of_sight():
        return model.gain_store.measure(bound, model.execution.loop_gain, version, False, model.differentiation)


def _thrown_away(model: FFEBM, bound: BoundBlock, version: tuple[int, ...]) -> Gains:
    """The gains of a guessed shape: few steps, without code derived for later uses, and forgotten."""
    return GainStore(steps=FEW).measure(bound, model.execution.loop_gain, version, False, AUTOMATIC)


@contextlib.contextmanager
def evaluating(model: FFEBM) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every module is in its own mode again."""
    modes = {m: m.training for m in (model, *model.network.modules())}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        model.forget_run()


def _compare(network: nn.Module, ours: Any, theirs: Any) -> None:
    """Compares the outputs of the program, run feedforward, and of the network, on one input in evaluation mode.

    Raises:
        VerificationError: they differ by more than rounding.
    """
    for index, (a, b) in enumerate(zip(_tensors(ours), _tensors(theirs), strict=False)):
        difference = _difference(a, b)
        if not difference <= 1e3 * torch.finfo(a.dtype).eps:
            raise VerificationError(
                Problem(
                    f"model {type(network).__name__}, output {index}",
                    f"the compiled program, run without feedback, differs from the model itself by {difference:.1e} of its largest value",
                    "An operation is read wrongly: a rule of rules= where you gave some, otherwise a bug here. "
                    "Keep layers out with digital=[...] until it is gone, and report the one that made it.",
                )
            )


def _feedforward(model: FFEBM, args: tuple[Any, ...], kwargs: Mapping[str, Any], measure: Measure) -> Any:
    """The program's result without feedback; verifies each block on what it reads there, at gains that ``measure`` finds."""
    assert not model.training, "batch statistics and dropout would differ"
    version = model._weights_version
    with torch.no_grad(), torch.random.fork_rng(), kept_buffers(model.network):
        values = model.bind_inputs(_copies(args), _copies(dict(kwargs)))
        for step in model.program:
            if isinstance(step, EnergyBlock):
                bound = model.bound(step, values)
                states = bound.feedforward()
                weights = measure(model, bound, version).layer_weights
                if all(map(math.isfinite, weights.values())):  # otherwise its first use will say that it diverges
                    model._verify_once(bound.with_layer_weights(weights), states)
                values.update({n: states[n] for n in step.outputs})
            else:
                values.update(run_digital(step, model.network, values))
        return model.pack_output(values)


def _as_written(model: FFEBM, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The network's own result, from the same random numbers."""
    with torch.no_grad(), torch.random.fork_rng(), kept_buffers(model.network), _in_place(model):
        return model.network(*_copies(args), **_copies(dict(kwargs)))


@contextlib.contextmanager
def kept_buffers(network: nn.Module) -> Iterator[None]:
    """Puts back what a run writes into buffers and attributes: a model may count its calls, whatever its mode."""
    state = State(network)
    before = [(b, b.clone()) for b in network.buffers()]
    try:
        yield
    finally:
        state.restore()
        with torch.no_grad():
            for buffer, value in before:
                if not torch.equal(buffer, value):  # a batch norm moves its statistics without a new version of them
                    buffer.copy_(value)


@contextlib.contextmanager
def _in_place(model: FFEBM) -> Iterator[None]:
    """The network with its in-place layers in place, as its author wrote it."""
    modules = [model.network.get_submodule(name) for name in model.compiled.in_place]
    try:
        for module in modules:
            module.inplace = True  # type: ignore[assignment]
        yield
    finally:
        for module in modules:
            module.inplace = False  # type: ignore[assignment]


def _copies(values: Any) -> Any:
    return torch.utils._pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, values)


def _tensors(output: Any) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(output)
    return [v.detach() for v in leaves if isinstance(v, Tensor) and v.is_floating_point()]


def _difference(a: Tensor, b: Tensor) -> float:
    """The largest difference relative to the largest value; entries that are alike infinite or no number count as equal."""
    if a.shape != b.shape:
        return float("inf")
    if a.numel() == 0:
        return 0.0
    same = (a == b) | (a.isnan() & b.isnan())
    scale = peak(torch.where(torch.isfinite(b), b, 0.0)).clamp(min=torch.finfo(b.dtype).tiny)
    return float(peak(torch.where(same, 0.0, a - b)) / scale)
