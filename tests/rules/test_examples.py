"""Every rule by its own examples: the operation that it reads is the operation that PyTorch runs, however it is
spelled.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffebm_compiler.passes import canonicalize, trace
from ffebm_compiler.passes.canonicalize import Canonical
from ffebm_compiler.rules import FORMS, RULES, Reading, Role, Rule
from ffebm_compiler.rules.forms import same
from ffebm_compiler.train import attribute

EXAMPLES = [
    pytest.param(rule, *example, id=f"{rule.name}-{i}") for rule in RULES for i, example in enumerate(rule.examples)
]


def is_read_from_export(rule: Rule) -> bool:
    """Whether a rule for its kinds names an operation of torch.ops.aten, as torch.export writes it."""
    alike = [r for r in RULES if r is rule or r.forms.keys() & rule.forms.keys()]
    return any(isinstance(f, torch._ops.OpOverload) for r in alike for f in r.functions)


class Holder(nn.Module):
    """The layer under a name, as in a user's model."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Calls(nn.Module):
    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(4))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def read(net: nn.Module, exported_with: Tensor | None = None) -> tuple[Canonical, Reading]:
    """The one reading of a model with one operation."""
    traced = trace(net.eval(), False)
    if exported_with is not None:
        from ffebm_compiler.passes.export.export_trace import export_trace

        traced = export_trace(net.eval(), (exported_with,), {})
    canonical = canonicalize(traced, RULES)
    (reading,) = canonical.readings.values()
    assert isinstance(reading, Reading), reading
    assert_made_again(reading)
    return canonical, reading


def assert_made_again(reading: Reading) -> None:
    """Kind and options say all that there is to know of an operation or a potential."""
    given = tuple(o is not None for o in reading.operands)
    if (operation := reading.operation) is not None:
        assert same(FORMS.operation_again(operation, given), operation)
    if (potential := reading.potential) is not None:
        assert same(FORMS.potential_again(potential), potential)


def evaluate(canonical: Canonical, reading: Reading, x: Tensor) -> Tensor:
    operands = [
        None if o is None else attribute(canonical.network, o.path) if hasattr(o, "path") else x
        for o in reading.operands
    ]
    if reading.potential is not None:
        return reading.potential.activation(operands[0])
    assert reading.operation is not None
    return reading.operation(*operands)


def generic(layer: nn.Module) -> nn.Module:
    """Weights and statistics off 0 and 1."""
    with torch.no_grad():
        for tensor in (*layer.parameters(), *(b for n, b in layer.named_buffers() if "running" in n)):
            tensor.copy_(0.5 + torch.rand_like(tensor))
    return layer


@pytest.mark.parametrize(("rule", "make", "shape"), EXAMPLES)
def test_the_reading_of_a_module_is_the_module(
    rule: Rule, make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layer, x = generic(make()).eval(), 2 * torch.randn(shape)
    canonical, reading = read(Holder(layer))
    assert next(iter(canonical.rules.values())) is rule
    assert torch.equal(evaluate(canonical, reading, x), layer(x))


@pytest.mark.parametrize(("rule", "make", "shape"), EXAMPLES)
def test_operations_print(rule: Rule, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    _, reading = read(Holder(make()))
    if (operation := reading.operation) is not None:
        operands = [f"s_{{{i}}}" for i in range(len(reading.operands))]
        text, tex = (t.format(*operands, layer="fc.1") for t in (operation.text, operation.tex))
        assert "s_{0}" in text
        assert "s_{0}" in tex
        assert tex.count("{") == tex.count("}")


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "make", "shape"), [e for e in EXAMPLES if is_read_from_export(e.values[0])])
def test_the_reading_of_what_torch_export_writes_is_the_module(
    rule: Rule, make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layer, x = generic(make()).eval(), 2 * torch.randn(shape)
    canonical, reading = read(Holder(layer), x)
    assert torch.allclose(evaluate(canonical, reading, x), layer(x), rtol=1e-6, atol=1e-6)
    assert rule.role is Role.IDENTITY or next(iter(canonical.rules.values())).role is rule.role


SPELLINGS: dict[str, list[Callable[[nn.Module, Tensor], Tensor]]] = {
    "relu": [
        lambda m, x: torch.relu(x),
        lambda m, x: F.relu(x),
        lambda m, x: x.relu(),
        lambda m, x: x.clone().relu_(),
        lambda m, x: F.relu(x, inplace=False),
        lambda m, x: x.clamp(min=0),
        lambda m, x: torch.clamp(x, 0),
        lambda m, x: x.clamp_min(0),
    ],
    "relu6": [
        lambda m, x: F.relu6(x),
        lambda m, x: F.hardtanh(x, 0.0, 6.0),
        lambda m, x: x.clamp(0, 6),
        lambda m, x: torch.clip(x, min=0, max=6),
    ],
    "sigmoid": [
        lambda m, x: torch.sigmoid(x),
        lambda m, x: x.sigmoid(),
        lambda m, x: F.sigmoid(x),
        lambda m, x: torch.special.expit(x),
    ],
    "tanh": [lambda m, x: torch.tanh(x), lambda m, x: x.tanh(), lambda m, x: F.tanh(x)],
    "leaky": [
        lambda m, x: F.leaky_relu(x, 0.2),
        lambda m, x: F.leaky_relu(x, negative_slope=0.2),
        lambda m, x: nn.functional.leaky_relu(input=x, negative_slope=0.2),
    ],
    "softplus": [lambda m, x: F.softplus(x, 2.0), lambda m, x: F.softplus(x, beta=2.0, threshold=20)],
    "softmax": [lambda m, x: torch.softmax(x, -1), lambda m, x: x.softmax(dim=-1), lambda m, x: F.softmax(x, dim=1)],
    "gelu": [lambda m, x: F.gelu(x), lambda m, x: F.gelu(x, approximate="none")],
    "linear": [
        lambda m, x: F.linear(x, m.weight, m.bias),
        lambda m, x: F.linear(x, weight=m.weight, bias=m.bias),
        lambda m, x: torch.addmm(m.bias, x, m.weight.t()),
    ],
    "product": [
        lambda m, x: F.linear(x, m.weight),
        lambda m, x: x @ m.weight.t(),
        lambda m, x: torch.matmul(x, m.weight.T),
        lambda m, x: x.mm(m.weight.t()),
    ],
    "scale": [
        lambda m, x: x * 0.5,
        lambda m, x: 0.5 * x,
        lambda m, x: x / 2,
        lambda m, x: torch.mul(x, 0.5),
        lambda m, x: x.div(2.0),
    ],
    "shift": [
        lambda m, x: x - 1.5,
        lambda m, x: x + -1.5,
        lambda m, x: torch.sub(x, 1.5),
        lambda m, x: -1.5 + x,
        lambda m, x: x.add(-1.5),
    ],
    "reflect": [lambda m, x: 1.5 - x, lambda m, x: torch.rsub(x, 1.5)],
    "flatten": [lambda m, x: x.flatten(1), lambda m, x: torch.flatten(x, start_dim=1)],
}


@pytest.mark.parametrize(("name", "i"), [(n, i) for n, fs in SPELLINGS.items() for i in range(len(fs))])
def test_spellings_mean_the_same(name: str, i: int) -> None:
    torch.manual_seed(0)
    x = 3 * torch.randn(6, 5)
    function = SPELLINGS[name][i]
    net = Calls(function)
    canonical = canonicalize(trace(net, False), RULES)
    found = [r for n, r in canonical.readings.items() if n.users and next(iter(n.users)).op == "output"]
    reading = found[-1]
    assert isinstance(reading, Reading)
    assert torch.allclose(evaluate(canonical, reading, x), SPELLINGS[name][0](net, x), rtol=1e-6, atol=1e-6)
    assert torch.allclose(evaluate(canonical, reading, x), function(net, x), rtol=1e-6, atol=1e-6)


REFUSED: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "a mean over the batch": lambda m, x: x.mean(0),
    "a concatenation along the batch": lambda m, x: torch.cat([x, x]),
    "a product of values": lambda m, x: x * x,
    "a product of matrices": lambda m, x: x @ x.t(),
    "a softmax over the batch": lambda m, x: torch.softmax(x, 0),
    "another type": lambda m, x: torch.softmax(x, 1, dtype=torch.float64),
    "a falling activation": lambda m, x: F.leaky_relu(x, -0.1),
    "a rounding quotient": lambda m, x: torch.div(x, 2.0, rounding_mode="floor"),
    "a quotient by a value": lambda m, x: 2 / x,
    "a squeeze of whatever has size 1": lambda m, x: x.unsqueeze(1).squeeze(),
    "tensor bounds": lambda m, x: torch.clamp(x, m.bias.min(), m.bias.max()),
    "reflecting padding": lambda m, x: F.pad(x, (1, 1), mode="reflect"),
    "scaled addmm": lambda m, x: torch.addmm(m.bias, x, m.weight.t(), alpha=2.0),
    "an unknown operation": lambda m, x: torch.erf(x),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_energy_is_refused_with_a_reason(name: str) -> None:
    canonical = canonicalize(trace(Calls(REFUSED[name]), False), RULES)
    last = [r for n, r in canonical.readings.items() if n.users and next(iter(n.users)).op == "output"][-1]
    assert not isinstance(last, Reading)
    assert len(last.reason) > 10
