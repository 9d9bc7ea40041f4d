"""An exported program holds for the sizes of which its forward's questions have the same answers; other calls are
refused by name.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ffebm_compiler as fc
from ffebm_compiler import runtime
from ffebm_compiler.model.converted_module import runner_of


class Net(nn.Module):
    def __init__(self, before: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.before = nn.Linear(4, 6), nn.Linear(6, 3), before

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(self.before(x))))


def _threshold(x: Tensor) -> Tensor:
    return 5 * x if x.shape[0] > 4 else x


def _single(x: Tensor) -> Tensor:
    return 5 * x if x.shape[0] == 1 else x


def _odd(x: Tensor) -> Tensor:
    return 5 * x if x.size(0) % 2 else x


def _computed(x: Tensor) -> Tensor:
    rows = x.shape[0] * 2
    return x * 3 if rows // 4 >= 2 else x


def _half(x: Tensor) -> Tensor:
    return x * (1 + int(x.shape[0] * 0.5))


def _text(x: Tensor) -> Tensor:
    return x * (5 if f"{x.shape[0]} rows" == "3 rows" else 1)


def _twice(x: Tensor) -> Tensor:
    return _threshold(_odd(x))


CASES: dict[Callable[..., Tensor], tuple[str, Callable[[int], object]]] = {
    _threshold: (r"x\.shape\[0\] > 4", lambda n: n > 4),
    _single: (r"x\.shape\[0\] == 1", lambda n: n == 1),
    _odd: (r"x\.shape\[0\] % 2", lambda n: n % 2),
    _computed: (r"x\.shape\[0\]", lambda n: n * 2 // 4 >= 2),
    _half: (r"int\(.*x\.shape\[0\]", lambda n: int(n * 0.5)),
    _text: ("in dimension 0", lambda n: n),
    _twice: (r"x\.shape\[0\]", lambda n: (n > 4, n % 2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("verify", [True, False], ids=["verified", "unverified"])
@pytest.mark.parametrize("given", [1, 2, 3, 6])
@pytest.mark.parametrize("before", CASES, ids=lambda f: f.__name__)
def test_another_batch_is_right_or_refused(before: Callable[..., Tensor], given: int, verify: bool) -> None:
    says, answer = CASES[before]
    net = Net(before).eval()
    model = fc.convert(copy.deepcopy(net), 1, example_inputs=torch.randn(given, 4), verify=verify)
    assert runner_of(model).mode.tracer == "torch.export"
    for batch in (given, 1, 2, 3, 4, 5, 6, 7):
        x = torch.randn(batch, 4)
        if answer(batch) == answer(given) and (given > 1 or batch == 1):
            torch.testing.assert_close(model(x), net(x))
        elif answer(batch) != answer(given):
            with pytest.raises(fc.InputError, match=says if given > 1 else "in dimension 0|" + says):
                model(x)


def test_a_question_of_two_inputs() -> None:
    class Two(Net):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return super().forward(5 * x if x.shape[0] > y.shape[0] else x).sum(0) + y.sum()

    net = Two(lambda x: x).eval()
    model = fc.convert(copy.deepcopy(net), 1, example_inputs=(torch.randn(3, 4), torch.randn(2, 4)))
    longer, shorter = torch.randn(5, 4), torch.randn(1, 4)
    torch.testing.assert_close(model(longer, shorter), net(longer, shorter))
    with pytest.raises(fc.InputError, match=r"x\.shape\[0\] = 1, y\.shape\[0\] = 5(.|\n)*test_size_choices.py:\d+"):
        model(shorter, longer)
    form = pickle.loads(pickle.dumps(runner_of(model).mode.signature.bind))
    with pytest.raises(fc.InputError, match="example_inputs="):
        form((shorter, longer), {})


@pytest.mark.parametrize("given", [1, 3])
def test_a_size_that_python_took_for_a_number_is_that_number(given: int) -> None:
    """torch.export finds out that ``len(x)`` fixes a size after it has made a symbol of it."""
    net = Net(lambda x: x * len(x) if x.shape[1] < 9 and x.shape[0] < 99 else x).eval()
    model = fc.convert(copy.deepcopy(net), 1, example_inputs=torch.randn(given, 4), verify=False)
    x = torch.randn(given, 4)
    torch.testing.assert_close(model(x), net(x))
    with pytest.raises(
        fc.InputError, match=f"has size 5 in dimension 0, and the trace of the model holds for {given} "
    ):
        model(torch.randn(5, 4))


def test_sizes_that_follow_from_others_are_held() -> None:
    class Two(Net):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            y = y.view(x.shape[0], 2, 4).sum(1) if x.shape[0] < 99 else y
            return super().forward(x) + super().forward(y)

    net = Two(lambda x: x).eval()
    model = fc.convert(copy.deepcopy(net), 1, example_inputs=(torch.randn(3, 4), torch.randn(6, 4)))
    x, y = torch.randn(5, 4), torch.randn(10, 4)
    torch.testing.assert_close(model(x, y), net(x, y))
    with pytest.raises(fc.InputError):
        model(x, torch.randn(9, 4))


def exported_of_two(kind: type[Net], batch: int) -> fc.FFEBM:
    """A model of two inputs, exported at a batch of four, which at another batch does what the original does."""
    net = kind(lambda x: x).eval()
    model = fc.convert(copy.deepcopy(net), 1, example_inputs=(torch.randn(4, 4), torch.randn(4, 4)))
    given = torch.randn(batch, 4), torch.randn(batch, 4)
    torch.testing.assert_close(model(*given), net(*given))
    return model


def test_sizes_that_were_one_are_held_to() -> None:
    class Same(Net):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return super().forward(x + y if x.shape[0] == y.shape[0] else x - y)

    model = exported_of_two(Same, batch=3)
    with pytest.raises(fc.InputError, match="they were one when the model was traced"):
        model(torch.randn(4, 4), torch.randn(1, 4))


def test_a_question_of_sizes_that_turn_out_to_be_one_is_held_to() -> None:
    class Late(Net):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            x, y = (5 * x, 5 * y) if y.shape[0] > 2 and x.shape[0] > 3 else (x, y)
            return super().forward(x + y)

    model = exported_of_two(Late, batch=5)
    with pytest.raises(fc.InputError, match="another case"):
        model(torch.randn(3, 4), torch.randn(3, 4))


@pytest.mark.slow
def test_a_compiled_call_is_held_to_them_too() -> None:
    net = Net(_threshold).eval()
    model = fc.convert(copy.deepcopy(net), 1, example_inputs=torch.randn(6, 4))
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(5, 4)
    torch.testing.assert_close(compiled(x), net(x))
    with pytest.raises(fc.InputError, match="another case"):
        compiled(torch.randn(3, 4))


def test_a_file_that_could_not_ask_is_refused(tmp_path: Path) -> None:
    model = fc.convert(Net(_threshold).eval(), 1, example_inputs=torch.randn(3, 4))
    for write, name in ((model.compile_to, "net.ffebm"), (model.export_onnx, "net.onnx")):
        with pytest.raises(fc.OptionError, match=r"choice by sizes at test_size_choices\.py:\d+"):
            write(tmp_path / name, torch.randn(3, 4))
    assert not list(tmp_path.iterdir())


class Sizes(nn.Module):
    """Only torch.export traces it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = 2 * x if x.shape[2] > 100 else x
        y = F.interpolate(self.b(torch.relu(self.a(x))), size=(2 * x.shape[2], x.shape[3]))
        return y / x.shape[2]


@pytest.mark.parametrize("verify", [True, False], ids=["verified", "unverified"])
def test_another_size_of_an_image_is_refused_by_its_dimension(verify: bool) -> None:
    net = Sizes().eval()
    model = fc.convert(copy.deepcopy(net), 1, example_inputs=torch.randn(2, 3, 8, 6), verify=verify)
    for batch in (1, 5):
        x = torch.randn(batch, 3, 8, 6)
        torch.testing.assert_close(model(x), net(x))
    for shape, dimension in (((2, 3, 10, 6), 2), ((2, 3, 8, 7), 3)):
        with pytest.raises(fc.InputError, match=rf"dimension {dimension}, and the trace(.|\n)*example_inputs="):
            model(torch.randn(shape))
    with pytest.raises(fc.InputError, match="has 3 dimensions"):
        model(torch.randn(3, 8, 6))


@pytest.mark.slow
def test_files_hold_for_the_sizes_that_were_exported(tmp_path: Path) -> None:
    net = Sizes().eval()
    model = fc.convert(copy.deepcopy(net), 1, example_inputs=torch.randn(2, 3, 8, 6))
    loaded = runtime.load(model.compile_to(tmp_path / "net.ffebm", torch.randn(2, 3, 8, 6)))
    session = onnxruntime.InferenceSession(model.export_onnx(tmp_path / "net.onnx", torch.randn(2, 3, 8, 6)))
    (given,) = session.get_inputs()
    x, other = torch.randn(5, 3, 8, 6), torch.randn(2, 3, 10, 6)
    torch.testing.assert_close(loaded(x).detach(), net(x).detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(fc.InputError, match=r"argument x: is of shape \(2, 3, 10, 6\), and the bundle holds for"):
        loaded(other)
    with pytest.raises(Exception, match="invalid dimensions"):
        session.run(None, {given.name: other.numpy()})
