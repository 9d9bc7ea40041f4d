"""Whether a block's weights are there as a whole, and its norms and layer weights within the range of numbers.

The weight of a layer is a product over the layers behind it, ``w_l = w_m |J_lm|^2 / loop_gain``, and a nudge moves its state by about
``1 / w_l``: in a block of many layers the one overflows while the other vanishes, and the gradient is their product.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import GradientWarning, InputError, OptionError, Problem
from ..ir import EnergyBlock
from ..solve import BoundBlock, Gains
from ..solve.contraction import Edge
from ..solve.fingerprint import is_sharded


def check_weights(
    block: EnergyBlock, gains: Gains, loop_gain: float | None, labels: Mapping[str, str], trained: torch.dtype | None
) -> None:
    """Warns of gradients that displacements of this type can't carry.

    Args:
        trained: the type of the states of a training step; None where no gradient is asked for.

    Raises:
        OptionError: a layer weight is infinite.
    """
    first = max(gains.layer_weights, key=gains.layer_weights.__getitem__)
    largest = gains.layer_weights[first]
    if not math.isfinite(largest):
        raise OptionError.at(
            _place(block, labels),
            f"the weight of {labels[first]} in the energy is beyond the range of numbers: it is a product over the {len(block.states)} states "
            f"of the block, of their couplings' squared norms over loop_gain={loop_gain}",
            "Lower block_size=, or raise loop_gain=.",
        )
    if trained is not None and largest > carried(trained):
        warnings.warn(
            f"{_place(block, labels)}: the gradient of {labels[first]} will be lost in {trained}: its weight in the energy is {largest:.1e}, and "
            f"its state moves by the inverse of that under a nudge. Lower block_size=, raise loop_gain=, or train in float64.",
            GradientWarning,
            stacklevel=2,
        )


def infinite_norm(bound: BoundBlock, edge: Edge, labels: Mapping[str, str]) -> OptionError:
    """The error of a coupling that has no finite norm, which names the weights that are to blame."""
    source, target = edge
    paths = bound.block.state(target).drive.weights
    wrong = [p for p in paths if not bool(torch.isfinite(bound.weights[p]).all())]
    what = (
        f"{', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not finite"
        if wrong
        else f"the products of {', '.join(paths)} overflow"
    )
    return OptionError(
        Problem(
            f"{_place(bound.block, labels)}, coupling of {labels[source]} and {labels[target]}",
            f"its norm, which bounds the feedback, is no finite number: {what}",
            "If training did this, lower the learning rate or clip gradients; otherwise load finite weights.",
        )
    )


def require_whole(weights: Mapping[str, Tensor]) -> None:
    """Refuses weights that are sharded while a block reads them.

    Raises:
        InputError: naming all of them.
    """
    sharded = [path for path, w in weights.items() if is_sharded(w)]
    InputError.raise_if(
        Problem(
            f"weight {path}",
            "is sharded while a block reads it: it belongs to a module that was sharded by itself, and blocks call no modules",
            "Shard the converted model as a whole: fully_shard(model), not fully_shard of its modules.",
        )
        for path in sharded
    )


def carried(dtype: torch.dtype) -> float:
    """The largest layer weight whose inverse a type holds with all its digits; float16, which is nudged otherwise, is not judged here."""
    kind = torch.finfo(dtype)
    return math.inf if dtype == torch.float16 else kind.eps / kind.tiny


def _place(block: EnergyBlock, labels: Mapping[str, str]) -> str:
    return f"{block.name} ({labels[block.states[0].name]} … {labels[block.states[-1].name]})"
