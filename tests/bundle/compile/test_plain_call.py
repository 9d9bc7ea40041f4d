"""Bundles of models with results and calls of their own kinds: what a stranger's file can say, and refusals by name."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler import runtime

pytestmark = pytest.mark.slow


class Out(OrderedDict):  # type: ignore[type-arg]
    def __init__(self, **fields: Any):
        super().__init__({k: v for k, v in fields.items() if v is not None})
        self.__dict__.update(fields)


@dataclass
class Cache:
    keys: Tensor


class Net(nn.Module):
    def __init__(self, kind: str = "output"):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.kind = nn.Linear(4, 5), nn.Linear(5, 3), kind

    def forward(self, batch: dict[str, Tensor], twice: bool = False, scale: float = 1.0) -> Any:
        h = torch.relu(self.a(batch["x"] * batch["m"]))
        y = self.b(h) * scale
        y = 2 * y if twice else y
        if self.kind == "cache":
            return Out(logits=y, cache=Cache(h))
        return Out(logits=y, hidden=None, states=(h,))


BATCH = {"x": torch.ones(2, 4), "m": torch.rand(2, 4)}


def test_a_bundle_is_called_as_its_model(tmp_path: Path) -> None:
    model = fc.convert(Net(), 2, example_inputs=(BATCH, True))
    model.compile_to(tmp_path / "net.ffebm", example_inputs=(BATCH, True))
    loaded = runtime.load(tmp_path / "net.ffebm")
    batch = {"x": torch.randn(5, 4), "m": torch.rand(5, 4)}
    got, expected = loaded(batch, True), model(batch, True)
    assert type(got) is dict
    assert list(got) == list(expected)
    torch.testing.assert_close(got["logits"], expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got["states"][0], expected.states[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loaded(batch, True, scale=3.0)["logits"], model(batch, True, 3.0).logits)
    with pytest.raises(fc.errors.InputError, match="False, and was True"):
        loaded(batch, False)
    with pytest.raises(fc.errors.InputError, match="a dictionary of x"):
        loaded({"x": batch["x"]}, True)


def test_an_object_in_the_result_is_refused_by_name(tmp_path: Path) -> None:
    model = fc.convert(Net("cache"), 2)
    assert type(model(BATCH).cache) is Cache
    with pytest.raises(fc.errors.OptionError, match=r"result\['cache'\]: is a Cache, which a bundle can't hold"):
        model.compile_to(tmp_path / "net.ffebm", example_inputs=(BATCH,))
    assert not list(tmp_path.iterdir())


class Wrapped(Net):
    def forward(self, batch: Cache) -> Tensor:  # type: ignore[override]
        return self.b(torch.relu(self.a(batch.keys)))


def test_an_argument_of_the_users_own_class_is_refused_by_its_name(tmp_path: Path) -> None:
    example = (Cache(torch.randn(2, 4)),)
    model = fc.convert(Wrapped(), 2, example_inputs=example)
    with pytest.raises(fc.OptionError, match="argument batch: is a Cache, which a bundle can't be called with"):
        model.compile_to(tmp_path / "net.ffebm", example_inputs=example)
