"""What a forward says to people is no part of what it computes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.errors import TraceError
from ffebm_compiler.passes.refusals import LosesMeaning

logger = logging.getLogger(__name__)


def asserting(x: Tensor) -> None:
    h = x.shape[0]
    torch._assert(h < 100, f"expected less than 100, got {h}")


def printing(x: Tensor) -> None:
    print("shape", x.shape, f"{x.size(0)}")


def logging_it(x: Tensor) -> None:
    logger.debug(
        f"a batch of {x.shape[0]}",
    )


class Saying(nn.Module):
    def __init__(self, say: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.a, self.b, self.say = nn.Linear(4, 4), nn.Linear(4, 2), say

    def forward(self, x: Tensor) -> Tensor:
        self.say(x)
        return self.b(torch.relu(self.a(x)))


@pytest.mark.parametrize("say", [asserting, printing, logging_it], ids=lambda f: f.__name__)
def test_what_is_said_does_not_matter(say: Callable[[Tensor], object]) -> None:
    net, x = Saying(say).eval(), torch.randn(3, 4)
    model = fc.convert(net, 1).eval()
    for batch in (x, torch.randn(7, 4)):
        torch.testing.assert_close(model(batch), net(batch))


def kept(x: Tensor) -> None:
    text = f"{x.shape[0]}"
    warnings.warn(text, stacklevel=1)


def test_a_text_that_is_kept_does() -> None:
    with pytest.raises((LosesMeaning, TraceError), match=r"test_messages.py:\d+(.|\n)*makes a text of a value"):
        fc.convert(Saying(kept), 1)


class Refusing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            raise ValueError("one sample is too few")
        return self.b(torch.relu(self.a(x)))


@pytest.mark.slow
def test_a_file_goes_on_where_a_model_only_raises(tmp_path: Path) -> None:
    x = torch.randn(3, 4)
    model = fc.convert(Refusing(), 1, example_inputs=x).eval()
    model.export_onnx(tmp_path / "net.onnx", x)
    with pytest.raises(fc.InputError, match=r"test_messages.py:\d+|one sample is too few"):
        model(x[:1])
