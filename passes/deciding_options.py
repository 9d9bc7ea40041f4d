"""Which of the user's own options decide that a line runs: what an error names besides the line.

    skip = self.training and np.random.rand() < self.config.layerdrop
    if not skip: ...                                    # It runs because of self.config.layerdrop = 0.1

They are the numbers and flags that the conditions around a line read of a module, in its function and in those that called it; of a name in
a condition, what it was assigned.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from types import CodeType, FrameType
from typing import Any

from torch import nn

Place = tuple[FrameType, int]
"""A frame, and the line that it is at."""

_OPTIONS = (bool, int, float)
_CONDITIONS = (ast.If, ast.While, ast.IfExp)
MOST = 3
"""Options that are named."""


def frames_from(frame: FrameType | None) -> Iterator[Place]:
    """A frame and its callers."""
    while frame is not None:
        yield frame, frame.f_lineno
        frame = frame.f_back


def decided_by(places: Iterable[Place]) -> str:
    """A sentence with the options that decide that the innermost of these lines runs; nothing where there is none.

    Args:
        places: the innermost first.
    """
    found: dict[str, Any] = {}
    for frame, line in places:
        for text, value in _options(frame, line):
            found.setdefault(f"{text} = {value!r}", None)
    if not found:
        return ""
    return (
        f"It runs because of {', '.join([*found][:MOST])}: set that otherwise before the conversion (0 or False, say)."
    )


def _options(frame: FrameType, line: int) -> Iterator[tuple[str, Any]]:
    tree = text_of(frame.f_code)
    if tree is None:
        return
    for chain in _chains(_deciding(tree, line - frame.f_code.co_firstlineno + 1)):
        name = ast.unparse(chain)
        value = _held(chain, frame.f_locals)
        if type(value) in _OPTIONS and value and not name.endswith(".training"):
            yield name, value


def text_of(code: CodeType) -> ast.AST | None:
    """The function's own text, whose first line is 1."""
    try:
        return ast.parse(textwrap.dedent("".join(inspect.getsourcelines(code)[0])))
    except (OSError, SyntaxError, TypeError):
        return None


def _deciding(tree: ast.AST, line: int) -> Iterator[ast.AST]:
    """The conditions around a line, the innermost first, and what their names were assigned."""
    around = [n for n in ast.walk(tree) if isinstance(n, _CONDITIONS) and n.lineno <= line <= (n.end_lineno or 0)]
    for node in sorted(around, key=lambda n: -n.lineno):
        yield node.test
        names = {n.id for n in ast.walk(node.test) if isinstance(n, ast.Name)}
        for other in ast.walk(tree):
            given = {t.id for t in other.targets if isinstance(t, ast.Name)} if isinstance(other, ast.Assign) else set()
            if isinstance(other, ast.Assign) and names & given and not isinstance(other.value, ast.Call):
                yield other.value


def _chains(parts: Iterable[ast.AST]) -> Iterator[ast.Attribute]:
    """Attributes of attributes, each as long as it is written."""
    for part in parts:
        inner = {id(n.value) for n in ast.walk(part) if isinstance(n, ast.Attribute)}
        yield from (n for n in ast.walk(part) if isinstance(n, ast.Attribute) and id(n) not in inner)


def _held(chain: ast.expr, names: dict[str, Any]) -> Any:
    """The value of a chain that begins at a module, without running anything."""
    if isinstance(chain, ast.Name):
        owner = names.get(chain.id)
        return owner if isinstance(owner, nn.Module) else None
    if not isinstance(chain, ast.Attribute):
        return None
    owner = getattr(_held(chain.value, names), "__dict__", {})
    return owner.get(chain.attr, owner.get("_modules", {}).get(chain.attr))
