"""What a forward asks while it is traced, answered as it would be at a call, or refused.

    isinstance(h, Tensor), torch.is_tensor(h), type(h)    of a traced value: by the type that it will have
    torch.is_grad_enabled(), torch.is_autocast_enabled()  depend on the caller, one answer would be baked in: refused,
                                                          but where the forward itself has set what it asks for
    torch.compiler.is_compiling()                         no, though torch.export would say yes
    torch.manual_seed()                                   a graph does not seed: refused

PyTorch itself goes on asking as ever, and so do other threads. The functions are replaced in PyTorch and, under
whatever names, in the files that the model's forwards are written in.
"""

from __future__ import annotations

import builtins
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn

from ...errors import Problem
from ..graph.value_types import ValueType
from ..refusals import LosesMeaning, kept_whole
from ..torch_private import FakeTensor
from ..users_code import frame_outside, is_users, place_of, running_module, spaces_of, users_frame
from .opened_contexts import Surroundings
from .patching import all_of, replaced, replaced_everywhere, this_thread

_plain_isinstance = isinstance

_ABOUT_CALLER: Mapping[Callable[..., Any], str] = {
    torch.is_grad_enabled: "whether its caller records gradients",
    torch.is_inference_mode_enabled: "whether its caller is in inference mode",
    torch.is_autocast_enabled: "whether its caller uses autocast",
    torch.is_autocast_cpu_enabled: "whether its caller uses autocast",
    torch.get_autocast_dtype: "what its caller's autocast computes in",
    torch.get_autocast_cpu_dtype: "what its caller's autocast computes in",
    torch.get_autocast_gpu_dtype: "what its caller's autocast computes in",
}
_SEEDS = ("manual_seed", "seed", "set_rng_state")
_NOT_AT_A_CALL = (torch.compiler.is_compiling, torch.compiler.is_exporting, torch.compiler.is_dynamo_compiling)
_GRADIENTS = (torch.autograd.grad, torch.autograd.backward)
_IS_GRAD_ENABLED = torch.is_grad_enabled
DIFFERENTIATES = "differentiates, and blocks keep no history of their calls"


@dataclass
class Asked:
    """What a forward asks, and the first thing that it can't be told: raised at once, and at the end if it was caught.

    Args:
        network: what is traced.
        type_of: the type of a traced value, where it is known.
        surroundings: the contexts that the forward has opened.
        caught: what else it could not be told: raised if the forward goes on.
    """

    network: nn.Module
    type_of: Callable[[fx.Proxy], ValueType]
    surroundings: Surroundings
    lost: LosesMeaning | None = None
    caught: Exception | None = None
    is_open: bool = False
    mine: Callable[[], bool] = field(default_factory=this_thread)

    def listens(self) -> bool:
        """Whether the model is being traced, here: modules that are imported meanwhile keep the replacements."""
        return self.is_open and self.mine()

    def lose(self, what: str) -> NoReturn:
        frame = users_frame()
        path = running_module(frame, self.network)
        self.lost = self.lost or LosesMeaning(Problem(place_of(frame), f"the forward {what}", kept_whole(path)), path)
        raise self.lost

    def check(self, node: fx.Node) -> None:
        """Refuses a call that is not recorded rightly, where it stands."""
        if node.target == "backward":
            self.lose(DIFFERENTIATES)
        self.check_settings()
        if self.surroundings.open and node.op == "call_module":
            self.lose(f"calls {node.target} within autocast, which is called as a whole")

    def check_settings(self) -> None:
        if self.surroundings.is_set_otherwise:
            self.lose("changes PyTorch's default type or precision for what follows")

    def type_behind(self, value: Any) -> type:
        """The type of what a stand-in stands for."""
        if _plain_isinstance(value, fx.Proxy):
            return self.type_of(value) or self.lose("asks for the type of a value, which a graph does not tell")
        return _NUMBERS.get(type(value)) or (nn.Parameter if _plain_isinstance(value, nn.Parameter) else Tensor)


@contextmanager
def answered(asked: Asked) -> Iterator[None]:
    """While a model is traced.

    Raises:
        LosesMeaning: the forward asked what has no one answer, whatever it made of that.
    """
    homes = [vars(m) for m in (torch, torch.autograd, torch.compiler, torch.random)]
    theirs = list(spaces_of(asked.network))
    type_of = _type(asked)
    types = [replaced(space, "type", type_of) for space in theirs if "type" not in space]
    is_instance = replaced(builtins, "isinstance", _isinstance(asked, type_of))
    with replaced_everywhere([*homes, *theirs], dict(_answers(asked))), all_of(types), is_instance:
        asked.is_open = True
        try:
            yield
        except Exception:
            if asked.lost is None:
                raise
        finally:
            asked.is_open = False
    if asked.lost is not None:
        raise asked.lost
    if asked.caught is not None:
        raise asked.caught


def _answers(asked: Asked) -> Iterator[tuple[Callable[..., Any], Callable[..., Any]]]:
    for function, what in _ABOUT_CALLER.items():
        yield function, _refused(asked, function, f"asks {what}", known=True)
    for name, home in itertools.product(_SEEDS, (torch, torch.random)):
        yield getattr(home, name), _refused(asked, getattr(home, name), f"calls torch.{name}, which no graph does")
    for function in _GRADIENTS:
        yield function, _refused(asked, function, DIFFERENTIATES)
    for function in _NOT_AT_A_CALL:
        yield function, _never(asked, function)


# --- answers ----------------------------------------------------------------------------------------------


def _refused(asked: Asked, function: Callable[..., Any], what: str, known: bool = False) -> Callable[..., Any]:
    """Refused to the user's code, but for what the forward has set itself."""

    def answer(*given: Any, **named: Any) -> Any:
        # torch.export may have put a wrapper around this
        frame = frame_outside(sys._getframe(1), "torch._dynamo", "torch._compile")
        if not (asked.listens() and is_users(frame)):
            return function(*given, **named)
        own = _set_by_forward(asked, function, frame, *given, *named.values()) if known else None
        return asked.lose(what) if own is None else own

    return answer


def _set_by_forward(asked: Asked, function: Callable[..., Any], frame: FrameType, *given: Any) -> Any:
    """The answer that does not depend on the caller; None where it does."""
    if function is _IS_GRAD_ENABLED:
        return None if function() else False
    if frame.f_code.co_name == "maybe_autocast" and frame.f_globals.get("__name__") == "transformers.utils.generic":
        return True  # it asks whether there is anything to switch off
    own = {a.device for a in asked.surroundings.now.autocast}
    return function(*given) if own.intersection(g for g in given if _plain_isinstance(g, str)) else None


def _never(asked: Asked, function: Callable[..., bool]) -> Callable[..., bool]:
    """No to the user's code, and to other threads, of which PyTorch says what is so of this one."""

    def answer() -> bool:
        return function() and (not asked.is_open or (asked.mine() and not is_users(sys._getframe(1))))

    return answer


_NUMBERS: Mapping[type, type] = {torch.SymInt: int, torch.SymFloat: float, torch.SymBool: bool}
_STAND_INS = (fx.Proxy, FakeTensor, *_NUMBERS)
"""What a forward is traced with, in the place of tensors and sizes."""


def _isinstance(asked: Asked, type_of: Callable[..., Any]) -> Callable[[Any, Any], bool]:
    def is_instance(value: Any, kinds: Any) -> bool:
        kinds = type if kinds is type_of else kinds
        plain = _plain_isinstance(value, kinds)
        if plain or not _plain_isinstance(value, _STAND_INS) or not asked.listens():
            return plain
        frame = sys._getframe(1)  # the user's code, or what of PyTorch's asks for them: torch.is_tensor
        asks = is_users(frame) or frame.f_globals.get("__name__") == "torch"
        return issubclass(asked.type_behind(value), kinds) if asks else plain

    return is_instance


def _type(asked: Asked) -> Any:
    """In the place of ``type`` in the user's files, which use it as a function."""

    def type_of(*given: Any, **named: Any) -> Any:
        if len(given) == 1 and _plain_isinstance(given[0], _STAND_INS) and asked.listens():
            return asked.type_behind(given[0])
        return type(*given, **named)

    return type_of
