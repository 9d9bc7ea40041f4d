"""Private parts of PyTorch that several passes need, beside those of :mod:`ffebm_compiler.torch_private`: each under a
name of ours, with what replaces it when it goes.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch._ops import OpOverloadPacket
from torch._subclasses import FakeTensor
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.utils._sympy.printers import PythonPrinter

__all__ = [
    "BATCH_NORMS",
    "DROPOUTS",
    "HOOKS",
    "REGISTRIES",
    "FakeTensor",
    "OperatorPacket",
    "in_python",
    "schema_of",
    "uncounted_writes",
]

# FakeTensor is what torch.export runs a forward on: else the class of the values in its placeholders' meta.

OperatorPacket = OpOverloadPacket  # type(torch.ops.aten.add)
BATCH_NORMS = nn.modules.batchnorm._NormBase  # (nn.BatchNorm1d, ..., nn.SyncBatchNorm, nn.InstanceNorm1d, ...)
DROPOUTS = nn.modules.dropout._DropoutNd  # (nn.Dropout, nn.Dropout1d, ..., nn.FeatureAlphaDropout)
uncounted_writes = _unsafe_preserve_version_counter  # a context for writes that autograd is not told of; else: clones

REGISTRIES = ("_parameters", "_buffers", "_modules")
"""Where a module keeps what is registered; named_parameters() and its like are public, and can't be put back."""

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
"""Where a module keeps the hooks that a call of it runs; nothing public tells of them."""


def schema_of(operator: Any) -> Any:
    """The schema of an operator, None of other functions; ``torch.library.infer_schema`` is the public text of one."""
    return getattr(operator, "_schema", None)


def in_python(expression: Any) -> str:
    """A sympy expression of sizes as Python code; ``sympy.pycode`` does not know torch's own functions."""
    return str(PythonPrinter().doprint(expression)).replace("torch.sym_float", "float")
