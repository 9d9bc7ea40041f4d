"""What a forward asks of a traced value that no graph tells is right or refused, also where the forward catches the
error.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, factor: Callable[[Tensor], float]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.factor = nn.Linear(4, 6), nn.Linear(6, 3), factor

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x))) * self.factor(self.a(x))


def _text(x: Tensor) -> float:
    return 5 if f"{x.shape[0]} rows" == "3 rows" else 1


def _text_of_type(x: Tensor) -> float:
    return 5 if "float" in str(x.dtype) else 1


def _key(x: Tensor) -> float:
    return {3: 5.0}.get(x.shape[0], 1.0)


def _set(x: Tensor) -> float:
    return len({x.shape[0], 3})


def _caught_number(x: Tensor) -> float:
    try:
        return int(x.shape[0])
    except TypeError:
        return 7


def _caught_length(x: Tensor) -> float:
    try:
        return len(x)
    except Exception:
        return 7


def _caught_choice(x: Tensor) -> float:
    try:
        return 5 if x.sum() > -1e9 else 1
    except Exception:
        return 7


def _missing(x: Tensor) -> float:
    return 5 if hasattr(x, "logits") else 1


def _default(x: Tensor) -> float:
    return getattr(x, "scale", 5)


ASKED = (_text, _text_of_type, _key, _set, _caught_number, _caught_length, _caught_choice, _missing, _default)


@pytest.mark.parametrize("example", [False, True], ids=["alone", "example"])
@pytest.mark.parametrize("factor", ASKED, ids=lambda f: f.__name__)
def test_it_is_right_or_refused(factor: Callable[[Tensor], float], example: bool) -> None:
    net, said = Net(factor).eval(), ""
    try:
        model = fc.convert(copy.deepcopy(net), 1, example_inputs=X if example else None, verify=False)
    except fc.TraceError as refusal:
        said = str(refusal)
    if said:
        assert "test_asked_of_values.py:" in said
        return
    torch.testing.assert_close(model(X), net(X))
    x = torch.randn(5, 4)
    with contextlib.suppress(fc.InputError):  # a size that the forward took for a number
        torch.testing.assert_close(model(x), net(x))


def test_a_tensor_has_the_attributes_that_tensors_have() -> None:
    net = Net(_missing).eval()
    torch.testing.assert_close(fc.convert(copy.deepcopy(net), 1, verify=False)(X), net(X))
    net = Net(lambda x: 5 if hasattr(x, "shape") and hasattr(x, "mT") else 1).eval()
    torch.testing.assert_close(fc.convert(copy.deepcopy(net), 1, verify=False)(X), net(X))
