"""Is the compiled program the model? Run without feedback, block by block, it must give the model's own output.

Checked as early as an input is known, together with each block's energy. This catches what the check of each block's energy can't: an operation that a rule reads wrongly, a value that the partition
mixes up, an overwritten alias.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import ConvergenceWarning, Problem, VerificationError
from ..ir import EnergyBlock
from ..solve.loop_gain import REFRESH, STEPS
from ..solve.relaxation import peak
from ..train import run_digital
from .probe import candidates

if TYPE_CHECKING:
    from .torch_ep import FFEBM

logger = logging.getLogger(__name__)


def verify_early(model: FFEBM, examples: tuple[tuple[Any, ...], Mapping[str, Any]] | None) -> None:
    """Verifies a model on the example inputs, or on one guessed from its first layer; otherwise its first input will do.

    Raises:
        VerificationError: a block's energy and its solver disagree, or the program and the model.
    """
    with evaluating(model):
        if examples is not None:
            _verify_on(model, *examples)
            return
        model.gain_store.steps = REFRESH  # the gains of a guessed shape are thrown away
        try:
            any(_fits(model, sample) for sample in candidates(model.network))
        finally:
            model.gain_store.steps = STEPS
            model.gain_store.known.clear()


def _fits(model: FFEBM, sample: Tensor) -> bool:
    """Verifies a model on a guessed input, if it takes one of this shape."""
    try:
        _verify_on(model, (sample,), {})
    except VerificationError:
        raise
    except Exception as failure:  # a guess may fail anywhere in the user's code
        logger.debug("a guessed input of shape %s does not fit: %s", tuple(sample.shape), failure)
        return False
    return True


def _verify_on(model: FFEBM, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    with warnings.catch_warnings(), torch.random.fork_rng(), kept_buffers(model.network):
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "Using a non-tuple sequence")  # a guessed tensor where the model takes a dict
        model.equilibrium(*args, **kwargs)
    check_against_network(model, args, kwargs)


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


def check_against_network(model: FFEBM, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Compares the program, run feedforward, with the network, on one input in evaluation mode.

    Raises:
        VerificationError: they differ by more than rounding.
    """
    assert not model.training, "batch statistics and dropout would differ"
    with torch.no_grad(), torch.random.fork_rng():
        state = torch.get_rng_state()
        with kept_buffers(model.network):
            ours = _feedforward(model, args, kwargs)
        torch.set_rng_state(state)
        with kept_buffers(model.network), _as_written(model):
            theirs = model.network(*_copies(args), **_copies(dict(kwargs)))
    for index, (a, b) in enumerate(zip(_tensors(ours), _tensors(theirs), strict=False)):
        difference = _difference(a, b)
        if not difference <= 1e3 * torch.finfo(a.dtype).eps:
            raise VerificationError(
                Problem(
                    f"model {type(model.network).__name__}, output {index}",
                    f"the compiled program, run without feedback, differs from the model itself by {difference:.1e} of its largest value",
                    "An operation is read wrongly: a rule of rules= where you gave some, otherwise a bug here. "
                    "Keep layers out with digital=[...] until it is gone, and report the one that made it.",
                )
            )


def _feedforward(model: FFEBM, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    values = model.bind_inputs(_copies(args), _copies(dict(kwargs)))
    for step in model.program:
        if isinstance(step, EnergyBlock):
            states = model.bound(step, values).feedforward()
            values.update({n: states[n] for n in step.outputs})
        else:
            values.update(run_digital(step, model.network, values))
    return model.pack_output(values)


@contextlib.contextmanager
def kept_buffers(network: nn.Module) -> Iterator[None]:
    """Puts back what a run writes into buffers: a model may count its calls, whatever its mode."""
    before = [(b, b.clone()) for b in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                if not torch.equal(buffer, value):  # a batch norm moves its statistics without a new version of them
                    buffer.copy_(value)


@contextlib.contextmanager
def _as_written(model: FFEBM) -> Iterator[None]:
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
