"""How a model is called: what is an input, what stays, and what is wrong with another call."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.errors import InputError
from ffebm_compiler.passes.calling import form_by_signature, form_of_call


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def body(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(torch.tanh(self.a(x)))
        return out


class Masked(Layers):
    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 1.0, twice: bool = False) -> Tensor:
        x = x if mask is None else x * mask
        out = self.body(x) * scale
        return 2 * out if twice else out


class Looped(Layers):
    def forward(self, x: Tensor, steps: int = 2) -> Tensor:
        for _ in range(steps):
            x = torch.tanh(self.a(x))
        return self.b(x) / steps


class Many(Layers):
    def forward(self, *xs: Tensor, **more: Tensor) -> Tensor:
        total = xs[0]
        for x in xs[1:]:
            total = total + x
        for name in more:
            total = total * more[name]
        return self.body(total)


class Unpacked(Layers):
    def forward(self, *xs: Tensor) -> Tensor:
        x, y = xs
        return self.body(x * y)


class Optional(Layers):
    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        return self.body(x + more[0] if more else x)


class Mapped(Layers):
    def forward(self, batch: dict[str, Any]) -> Tensor:
        return self.body(sum(batch["parts"]) if "parts" in batch else batch["x"])


@dataclass
class Batch:
    x: Tensor
    mask: Tensor | None = None
    flag: bool = False


class Structured(Layers):
    def forward(self, batch: Batch) -> Tensor:
        x = batch.x if batch.mask is None else batch.x * batch.mask
        return self.body(-x if batch.flag else x)


X, M = torch.linspace(-1, 1, 12).view(3, 4), torch.tensor([1.0, 0.0, 1.0, 2.0])

RIGHT: dict[str, tuple[Callable[[], nn.Module], Any, list[tuple[tuple[Any, ...], dict[str, Any]]]]] = {
    "defaults": (Masked, None, [((X,), {}), ((X,), {"scale": 3.0}), ((X, None), {"twice": False})]),
    "optional given": (Masked, (X, M), [((X, M + 1), {}), ((X,), {"mask": M}), ((), {"mask": M, "x": X})]),
    "flag given": (
        Masked,
        {"x": X, "twice": True},
        [((X,), {"twice": True}), ((X, None), {"twice": True, "scale": 2})],
    ),
    "number chooses": (Looped, None, [((X,), {}), ((X, 2), {})]),
    "number chosen": (Looped, (X, 3), [((X, 3), {}), ((X,), {"steps": 3})]),
    "stars": (Many, (X, X + 1), [((X, X), {}), ((X, 2 * X), {})]),
    "stars that nobody has shown": (Many, None, [((X,), {})]),
    "unpacked stars that nobody has shown": (Unpacked, None, [((X, X + 1), {})]),
    "stars besides another": (Optional, None, [((X,), {})]),
    "stars and keywords": (Many, {"m": M, "n": M}, []),
    "dict": (Mapped, ({"x": X},), [(({"x": X + 1},), {}), ((), {"batch": {"x": X}})]),
    "list in a dict": (Mapped, ({"parts": [X, X]},), [(({"parts": [X, X + 1]},), {})]),
    "dataclass": (Structured, (Batch(X),), [((Batch(X + 1),), {})]),
    "dataclass, all given": (Structured, (Batch(X, M, True),), [((Batch(X, M + 1, True),), {})]),
}


@pytest.mark.parametrize("name", RIGHT)
def test_calls_of_the_same_form_are_the_models(name: str) -> None:
    make, example, calls = RIGHT[name]
    if not calls:
        with pytest.raises(fc.errors.TraceError):
            fc.convert(make(), 1, example_inputs=example)
        return
    net = make()
    model = fc.convert(net, 1, example_inputs=example)
    for args, kwargs in calls:
        assert torch.equal(model(*args, **kwargs), net(*args, **kwargs))


WRONG: dict[str, tuple[Callable[[], nn.Module], Any, tuple[Any, ...], dict[str, Any], str]] = {
    "optional given": (Masked, None, (X, M), {}, "argument 'mask': is a tensor of shape (4,), but 'mask' was None"),
    "optional left out": (Masked, (X, M), (X,), {}, "argument 'mask': is None, but 'mask' was a tensor"),
    "other flag": (Masked, None, (X,), {"twice": True}, "argument 'twice': is True, but 'twice' was False"),
    "a flag for a number": (Masked, None, (X,), {"scale": True}, "argument 'scale': is True"),
    "none for a tensor": (Masked, None, (None,), {}, "argument 'x': is None"),
    "other number": (Looped, None, (X, 3), {}, "argument 'steps': is 3, but 'steps' was 2"),
    "more arguments": (Many, (X, X), (X, X, X), {}, "argument 'xs': has 3 entries, and had 2"),
    "more than nobody has shown": (Many, None, (X, X), {}, "argument 'xs': has 2 entries, and had 1"),
    "more besides another": (Optional, None, (X, X), {}, "argument 'more': has 1 entries, and had 0"),
    "a keyword": (Many, (X, X), (X, X), {"m": M}, "argument 'more': has the parts ['m'], and had the parts none"),
    "a dict for a tensor": (Masked, (X,), ({"x": X},), {}, "argument 'x': is a dict, but 'x' was a tensor"),
    "a tensor for a dict": (
        Mapped,
        ({"x": X},),
        (X,),
        {},
        "argument 'batch': is a tensor of shape (3, 4), but 'batch' was a dict",
    ),
    "other keys": (
        Mapped,
        ({"x": X},),
        ({"y": X},),
        {},
        "argument 'batch': has the parts ['y'], and had the parts ['x']",
    ),
    "other length": (Mapped, ({"parts": [X, X]},), ({"parts": [X]},), {}, "argument batch['parts']: has 1 entries"),
    "other field": (
        Structured,
        (Batch(X),),
        (Batch(X, M),),
        {},
        "argument batch.mask: is a tensor of shape (4,), but batch.mask was None",
    ),
    "other flag inside": (
        Structured,
        (Batch(X),),
        (Batch(X, flag=True),),
        {},
        "argument batch.flag: is True, but batch.flag was False",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_another_call_is_refused_by_the_arguments_name(name: str) -> None:
    make, example, args, kwargs, says = WRONG[name]
    model = fc.convert(make(), 1, example_inputs=example)
    with pytest.raises(InputError, match="example_inputs=") as raised:
        model(*args, **kwargs)
    assert says in str(raised.value)


def test_all_that_differs_is_said_at_once() -> None:
    model = fc.convert(Masked(), 1)
    with pytest.raises(InputError, match="2 problems") as raised:
        model(X, M, twice=True)
    assert len(raised.value.problems) == 2


def test_forms_pickle() -> None:
    for form in (form_by_signature(Masked().forward), form_of_call(Structured().forward, (Batch(X, M),), {})):
        again = pickle.loads(pickle.dumps(form))
        assert again.inputs == form.inputs
        assert copy.deepcopy(form).inputs == form.inputs


def test_one_tensor_at_two_places_is_two_inputs() -> None:
    net = Mapped()
    model = fc.convert(net, 1, example_inputs=({"parts": [X, X]},))
    call = {"parts": [X, 5 * X]}
    assert torch.equal(model(call), net(call))
