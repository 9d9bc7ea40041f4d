"""The private parts of PyTorch that several passes need, each under a name of ours and with what replaces it when it
goes.

What one pass alone needs stands in that pass: ``torch._C._set_grad_enabled`` in ``tracing/opened_contexts.py``, the
memory and the version of a tensor in ``tracing/copy_on_write.py`` and ``tracing/state.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensor
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._sympy.printers import PythonPrinter

__all__ = [
    "BATCH_NORMS",
    "DROPOUTS",
    "HOOKS",
    "REGISTRIES",
    "FakeTensor",
    "Operator",
    "OperatorPacket",
    "TorchDispatchMode",
    "in_python",
    "outside_modes",
    "schema_of",
    "uncounted_writes",
]

# FakeTensor is what torch.export runs a forward on: else the class of the values in its placeholders' meta.
# TorchDispatchMode sees each operation below autograd: torch.overrides.TorchFunctionMode is public, and sees calls.

Operator = torch._ops.OpOverload  # type(torch.ops.aten.add.Tensor)
OperatorPacket = torch._ops.OpOverloadPacket  # type(torch.ops.aten.add)

BATCH_NORMS = nn.modules.batchnorm._NormBase  # (nn.BatchNorm1d, ..., nn.SyncBatchNorm, nn.InstanceNorm1d, ...)
DROPOUTS = nn.modules.dropout._DropoutNd  # (nn.Dropout, nn.Dropout1d, ..., nn.FeatureAlphaDropout)

REGISTRIES = ("_parameters", "_buffers", "_modules")
"""Where a module keeps what is registered; named_parameters() and its like are public, and can't be shared or put
back."""

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
"""Where a module keeps the hooks that a call of it runs; nothing public tells of them."""

outside_modes = _disable_current_modes  # a context in which no mode sees what is done; else: State by data pointers
uncounted_writes = _unsafe_preserve_version_counter  # a context for writes that autograd is not told of; else: clones


def schema_of(operator: Any) -> Any:
    """The schema of an operator, None of any other function; ``torch.library.infer_schema`` is the public text of
    one."""
    return getattr(operator, "_schema", None)


def in_python(expression: Any) -> str:
    """A sympy expression of sizes as Python code; ``sympy.pycode`` does not know torch's own functions."""
    return str(PythonPrinter().doprint(expression)).replace("torch.sym_float", "float")
