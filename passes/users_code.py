"""The user's code while it runs: which frame is theirs, in whose forward, and what the text of its line says.

Errors name the innermost line of the user's, the module in whose forward it stands, and the options that decide that
it runs:

    skip = self.training and np.random.rand() < self.config.layerdrop
    if not skip: ...                                    # It runs because of self.config.layerdrop = 0.1

What a forward says to people it does not compute with: a text made for a message changes no value, and a condition
under which nothing but an error happens chooses no other way.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType, FrameType
from typing import Any

from torch import fx, nn

_NOT_THEIRS = frozenset(("torch", "numpy", "ffebm_compiler")) | sys.stdlib_module_names
_MACHINERY = (
    *("torch.fx", "torch.export", "torch._", "torch.utils", "torch.func", "torch.nn.utils", "torch.nn.modules.module"),
    "ffebm_compiler",
)
"""What calls, traces and rewrites models."""


# --- whose code -------------------------------------------------------------------------------------------


def module_of(frame: FrameType) -> str:
    """The name of the file's module whose code a frame runs."""
    return str(frame.f_globals.get("__name__", ""))


def is_theirs(space: Mapping[str, Any]) -> bool:
    """Whether the names of a file are those of the user's code, or of a library of models."""
    return str(space.get("__name__", "")).split(".", 1)[0] not in _NOT_THEIRS


def is_users(frame: FrameType) -> bool:
    """Whether a frame runs code that is neither PyTorch's nor ours, nor in between."""
    return is_theirs(frame.f_globals)


def is_models(name: str) -> bool:
    """Whether code of a module of that name is the model's: the user's own, or that of a layer of PyTorch's."""
    is_between = name == "torch" or name.startswith(_MACHINERY)
    return not is_between and name.partition(".")[0] not in sys.stdlib_module_names


def spaces_of(network: nn.Module) -> Iterator[dict[str, Any]]:
    """The names of each file that a forward of the network is written in, once."""
    met: set[int] = set()
    for kind in dict.fromkeys(type(m) for m in network.modules()):
        for function in (f for c in kind.__mro__ if inspect.isfunction(f := vars(c).get("forward"))):
            space = inspect.unwrap(function).__globals__
            if id(space) not in met and is_theirs(space):
                met.add(id(space))
                yield space


# --- which line -------------------------------------------------------------------------------------------


def _own_code(function: Callable[..., Any]) -> CodeType:
    """That of a function which torch.compile may have wrapped."""
    own: CodeType = inspect.unwrap(function).__code__
    return own


def frames_from(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and its callers."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def users_frame() -> FrameType | None:
    """The innermost frame of the user's within the forward that is traced, if one is."""
    trace = _own_code(fx.Tracer.trace)  # torch.export runs it too
    for frame in frames_from(sys._getframe(1)):
        if frame.f_code is trace:
            return None
        if is_users(frame):
            return frame
    return None


def frame_outside(frame: FrameType, *machinery: str) -> FrameType:
    """A frame or the innermost of its callers whose code is not of modules whose names begin so; else the outermost."""
    return next((f for f in frames_from(frame) if f.f_back is None or not module_of(f).startswith(machinery)), frame)


def place_of(frame: FrameType | None, line: int | None = None) -> str:
    """``file.py:12``, as errors name a line."""
    if frame is None:
        return "a line"
    return f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno if line is None else line}"


# --- in whose forward -------------------------------------------------------------------------------------


def running_modules(frame: FrameType | None, network: nn.Module) -> list[str]:
    """The paths of the modules one of whose methods is running, the innermost first, the model itself last."""
    paths = {id(m): path for path, m in network.named_modules()}
    running: dict[str, None] = {}
    for each in frames_from(frame):
        code = each.f_code
        owner = each.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if isinstance(owner, nn.Module) and id(owner) in paths:
            running[paths[id(owner)]] = None
    return [*running]


def running_module(frame: FrameType | None, network: nn.Module) -> str:
    """The path of the innermost module in whose forward a frame stands."""
    return next(iter(running_modules(frame, network)), "")


# --- what its text says -----------------------------------------------------------------------------------

Place = tuple[FrameType, int]
"""A frame, and the line that it is at."""

_OPTIONS = (bool, int, float)
_CONDITIONS = (ast.If, ast.While, ast.IfExp)
_SAYS = frozenset(
    ("_assert", "_check", "print", "warn", "debug", "info", "warning", "warning_once", "error", "exception", "log")
)
"""Functions and methods that are called for what they say."""
MOST = 3
"""Options that are named."""


def places_from(frame: FrameType | None) -> list[Place]:
    """The lines of a frame and of its callers, as they are now."""
    return [(f, f.f_lineno) for f in frames_from(frame)]


def decided_by(places: Iterable[Place]) -> str:
    """A sentence with the options that decide that the innermost of these lines runs; nothing where there is none.

    Options are the numbers and flags of modules that the conditions around a line read, in its function and in those
    that called it; of a name in a condition, what it was assigned.

    Args:
        places: the innermost first.
    """
    options = dict.fromkeys(text for frame, line in places for text in _options(frame, line))
    if not options:
        return ""
    named = ", ".join([*options][:MOST])
    return f"It runs because of {named}: set that otherwise before the conversion (0 or False, say)."


def _options(frame: FrameType, line: int) -> Iterator[str]:
    tree = _text_of(frame.f_code)
    for chain in _chains(_deciding(tree, line - frame.f_code.co_firstlineno + 1)) if tree is not None else ():
        name, value = ast.unparse(chain), _value_of(chain, frame.f_locals)
        if type(value) in _OPTIONS and value and not name.endswith(".training"):
            yield f"{name} = {value!r}"


def _text_of(code: CodeType) -> ast.AST | None:
    """The function's own text, whose first line is 1."""
    try:
        return ast.parse(textwrap.dedent("".join(inspect.getsourcelines(code)[0])))
    except (OSError, SyntaxError, TypeError):
        return None


def _around(tree: ast.AST, kinds: Any, line: int) -> list[Any]:
    """The parts of a text that hold a line, the innermost first."""
    nodes = [n for n in ast.walk(tree) if isinstance(n, kinds) and n.lineno <= line <= (n.end_lineno or n.lineno)]
    return sorted(nodes, key=lambda n: -n.lineno)


def _deciding(tree: ast.AST, line: int) -> Iterator[ast.AST]:
    """The conditions around a line, the innermost first, and what their names were assigned."""
    assigned = [n for n in ast.walk(tree) if isinstance(n, ast.Assign) and not isinstance(n.value, ast.Call)]
    for node in _around(tree, _CONDITIONS, line):
        yield node.test
        names = {n.id for n in ast.walk(node.test) if isinstance(n, ast.Name)}
        yield from (n.value for n in assigned if names & {t.id for t in n.targets if isinstance(t, ast.Name)})


def _chains(parts: Iterable[ast.AST]) -> Iterator[ast.Attribute]:
    """Attributes of attributes, each as long as it is written."""
    for part in parts:
        inner = {id(n.value) for n in ast.walk(part) if isinstance(n, ast.Attribute)}
        yield from (n for n in ast.walk(part) if isinstance(n, ast.Attribute) and id(n) not in inner)


def _value_of(chain: ast.expr, names: dict[str, Any]) -> Any:
    """The value of a chain that begins at a module, without running anything."""
    if isinstance(chain, ast.Name):
        owner = names.get(chain.id)
        return owner if isinstance(owner, nn.Module) else None
    if not isinstance(chain, ast.Attribute):
        return None
    owner = getattr(_value_of(chain.value, names), "__dict__", {})
    return owner.get(chain.attr, owner.get("_modules", {}).get(chain.attr))


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
    if isinstance(statement, ast.If):
        return not statement.orelse and len(statement.body) == 1 and isinstance(statement.body[0], ast.Raise)
    return isinstance(statement, ast.Assert)


def _statement(frame: FrameType) -> ast.stmt | None:
    """The innermost one at the line that runs."""
    tree = _text_of(frame.f_code)
    around = [] if tree is None else _around(tree, ast.stmt, frame.f_lineno - frame.f_code.co_firstlineno + 1)
    return next(iter(around), None)
