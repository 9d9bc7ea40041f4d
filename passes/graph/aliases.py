"""Which values may share memory: what a call returns may be a view of its operand, or the operand itself.

Where that depends on the data (``reshape``, ``contiguous``, dropout in evaluation mode), it is taken for granted.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping

from torch import fx, nn

from ..torch_private import DROPOUTS
from .effects import operand_of, written_by
from .names import function_name, module_of

VIEWS = frozenset((
    "view", "view_as", "reshape", "reshape_as", "flatten", "ravel", "unflatten", "transpose", "swapaxes",
    "swapdims", "permute", "movedim", "moveaxis", "squeeze", "unsqueeze", "expand", "expand_as", "broadcast_to",
    "narrow", "select", "slice", "chunk", "unsafe_chunk", "split", "unsafe_split", "split_with_sizes",
    "unsafe_split_with_sizes", "tensor_split", "hsplit", "vsplit", "dsplit", "unbind", "unfold", "as_strided",
    "detach", "alias", "contiguous", "t", "adjoint", "diagonal", "real", "imag", "view_as_real", "view_as_complex",
    "positive", "conj", "resolve_conj", "resolve_neg", "atleast_1d", "atleast_2d", "atleast_3d",
    "broadcast_tensors", "meshgrid", "einsum", "values", "indices", "numpy", "requires_grad", "swapaxes_",
    "swapdims_", "t_", "transpose_", "squeeze_", "unsqueeze_", "requires_grad_", "refine_names", "rename",
    "align_to", "pin_memory", "to_dense", "data", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout",
    "feature_alpha_dropout", "feature_dropout",
))  # fmt: skip
"""Names of operations whose result may share the memory of their operand."""

CONVERSIONS = frozenset((
    "to", "type", "type_as", "float", "double", "half", "bfloat16", "int", "long", "short", "char", "byte", "bool",
    "cfloat", "cdouble", "chalf", "cpu", "cuda",
))  # fmt: skip
"""What returns its operand itself where that has the type already: assumed of a computed value, not of an argument."""

VIEW_LAYERS = (nn.Flatten, nn.Unflatten, DROPOUTS)

SEVERAL = frozenset((
    "max", "min", "sort", "topk", "kthvalue", "median", "nanmedian", "mode", "aminmax", "std_mean", "var_mean",
    "cummax", "cummin", "frexp", "unique", "unique_consecutive", "slogdet", "qr", "svd", "eigh", "lstm", "gru",
    "rnn_tanh", "rnn_relu", "lstm_cell", "max_pool1d", "max_pool2d", "max_pool3d", "native_dropout",
    "native_batch_norm", "native_layer_norm", "native_group_norm", "multi_head_attention_forward",
))  # fmt: skip
"""Operations that return several tensors, so that an index chooses one of them rather than a row."""

_ATTRIBUTES = ("T", "mT", "H", "mH", "data", "real", "imag")


def base_of(node: fx.Node, network: nn.Module, bases: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """What a value is a view of, given the same of the values before. A call that overwrites a value returns it."""
    written = written_by(node, network)
    source = written[0] if written else operand_of(node) if _may_share(node, network) else None
    return node if source is None else bases[source]


def bases_of(graph: fx.Graph, network: nn.Module) -> dict[fx.Node, fx.Node]:
    """For each value what its memory belongs to: itself, or what it is a view of."""
    bases: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        bases[node] = base_of(node, network, bases)
    return bases


def _may_share(node: fx.Node, network: nn.Module) -> bool:
    if node.op == "call_module":
        return isinstance(module_of(node, network), VIEW_LAYERS)
    if node.target is operator.getitem:
        return not isinstance(node.args[1], int) or _is_row(node.args[0], network)
    if node.target is getattr:
        return node.args[1] in _ATTRIBUTES
    name = function_name(node.target)
    operand = operand_of(node)
    return name in VIEWS or (name in CONVERSIONS and operand is not None and operand.op != "placeholder")


def _is_row(source: object, network: nn.Module) -> bool:
    """Whether ``source[0]`` may be a row of a tensor, rather than one of several results."""
    if not isinstance(source, fx.Node) or source.op == "call_module":
        return False
    if source.op == "call_function" and not _is_torchs(source.target):
        return False
    return function_name(source.target) not in SEVERAL


def _is_torchs(function: object) -> bool:
    module = getattr(function, "__module__", None) or "torch"
    return module.split(".")[0] in ("torch", "_operator", "builtins")
