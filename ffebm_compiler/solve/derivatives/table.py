"""The derivatives of the library's own operations, in one table.

They depend on no shape, and nothing has to be found out before they run: a transpose is the very operation that backpropagation runs.
The table is keyed by function objects, so an operation of a user's own that bears the name of one of these is not taken for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ir import Operation, functions
from . import linear as linear
from . import smooth as smooth
from .linear import Concatenation, Linear, Routed, Sum
from .operation import BY_DIFFERENTIATION, Derivative
from .products import CONVOLUTIONS, PRODUCTS, HeldNorm, Multiplication
from .smooth import Smooth

aten = torch.ops.aten

RESHAPED = Linear(linear.shaped_back)
DIFFERENTIATED = Linear(linear.differentiated)
"""Averages and resized images, whose transposes have a function of PyTorch's for each of many modes."""

_WINDOW = {"stride", "padding", "dilation", "groups"}

_TABLE: Mapping[Callable[..., Any], tuple[Derivative, set[str]]] = {
    F.linear: (PRODUCTS[F.linear], set()),
    functions.times: (PRODUCTS[functions.times], {"transposed"}),
    **{f: (PRODUCTS[f], _WINDOW | ({"output_padding"} if back else set())) for f, (_, back) in CONVOLUTIONS.items()},
    functions.held_norm: (HeldNorm(), {"eps"}),
    functions.added: (Sum(), {"alpha"}),
    functions.shifted: (Linear(linear.same, linear.same), {"constant"}),
    functions.reflected: (Linear(linear.negative, linear.negative), {"constant"}),
    functions.multiple: (Linear(linear.scaled), {"factor"}),
    functions.quotient: (Linear(linear.scaled), {"divisor"}),
    torch.mul: (Multiplication(), set()),
    functions.concatenated: (Concatenation(), {"dim"}),
    functions.reshaped: (RESHAPED, {"shape"}),
    torch.flatten: (RESHAPED, {"start_dim", "end_dim"}),
    torch.unflatten: (RESHAPED, {"dim", "sizes"}),
    torch.squeeze: (RESHAPED, {"dim"}),
    torch.unsqueeze: (RESHAPED, {"dim"}),
    Tensor.contiguous: (Linear(linear.same), set()),
    torch.permute: (Linear(linear.permuted_back), {"dims"}),
    torch.transpose: (Linear(linear.exchanged), {"dim0", "dim1"}),
    F.pad: (Linear(linear.unpadded, linear.padded), {"pad", "value"}),
    F.pixel_shuffle: (Linear(linear.unshuffled), {"upscale_factor"}),
    torch.mean: (Linear(linear.mean_back), {"dim", "keepdim"}),
    functions.taken: (Linear(linear.taken_back), set()),
    F.gelu: (Smooth(aten.gelu_backward, smooth.curve_of_gelu), {"approximate"}),
    F.silu: (Smooth(aten.silu_backward, smooth.curve_of_silu), set()),
    F.mish: (Smooth(aten.mish_backward, smooth.curve_of_mish), set()),
    F.hardswish: (Smooth(aten.hardswish_backward, smooth.curve_of_hardswish), set()),
    torch.sin: (Smooth(lambda c, a: c * torch.cos(a), lambda a: -torch.sin(a)), set()),
    torch.cos: (Smooth(lambda c, a: -c * torch.sin(a), lambda a: -torch.cos(a)), set()),
}
"""By function: its derivatives, and the options that these know. With other options it is another function."""

_WHATEVER_THE_OPTIONS: Mapping[Callable[..., Any], Derivative] = {
    F.interpolate: DIFFERENTIATED,
    **{getattr(F, f"{kind}avg_pool{d}d"): DIFFERENTIATED for kind in ("", "adaptive_") for d in (1, 2, 3)},
    **{getattr(F, f"{kind}max_pool{d}d"): Routed() for kind in ("", "adaptive_") for d in (1, 2, 3)},
}


def derivative_of(operation: Operation, moving: Collection[int]) -> Derivative:
    """Of an operation, by the function that it computes.

    Args:
        moving: the operands that depend on states.
    """
    function = functions.identity_of(operation.function)
    derivative, options = _TABLE.get(function, (_WHATEVER_THE_OPTIONS.get(function), set(operation.options)))
    if derivative is None or set(operation.options) != options:
        return BY_DIFFERENTIATION
    return derivative if derivative.joint or all(i == 0 for i in moving) else BY_DIFFERENTIATION
