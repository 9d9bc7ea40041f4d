"""What a forward says to people, and does not compute with: messages, and conditions that only raise.

    torch._assert(h == self.size, f"expected {self.size}, got {h}")
    if size == 1: raise ValueError(f"one value per channel: {size}")

A text made for a message says at a trace what it says then, and changes no value; a condition under which nothing but an error happens chooses no other
way.
"""

from __future__ import annotations

import ast
from types import FrameType

from .deciding_options import text_of

_SAYS = frozenset(
    ("_assert", "_check", "print", "warn", "debug", "info", "warning", "warning_once", "error", "exception", "log")
)
"""Functions and methods that are called for what they say."""


def is_message(frame: FrameType) -> bool:
    """Whether the statement that runs in a frame only says something."""
    statement = _statement(frame)
    if isinstance(statement, ast.Expr) and isinstance(call := statement.value, ast.Call):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        return name in _SAYS
    return isinstance(statement, (ast.Raise, ast.Assert))


def only_raises(frame: FrameType) -> bool:
    """Whether the statement that runs in a frame is a condition under which nothing but an error happens."""
    statement = _statement(frame)
    return isinstance(statement, ast.Assert) or (
        isinstance(statement, ast.If)
        and not statement.orelse
        and len(statement.body) == 1
        and isinstance(statement.body[0], ast.Raise)
    )


def _statement(frame: FrameType) -> ast.stmt | None:
    """The innermost one at the line that runs."""
    tree, line = text_of(frame.f_code), frame.f_lineno - frame.f_code.co_firstlineno + 1
    around = [] if tree is None else [n for n in ast.walk(tree) if isinstance(n, ast.stmt) and _holds(n, line)]
    return max(around, key=lambda n: n.lineno, default=None)


def _holds(node: ast.stmt, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)
