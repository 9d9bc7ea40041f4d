"""A block has first derivatives only: any other is an error that names it, never a silent zero or an error of torch's
own.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor, func, nn
from torch.autograd import functional

import ffebm_compiler as fc

ESTIMATORS = (None, fc.CenteredEP(), fc.OneSidedEP(), fc.TangentEP(), fc.Implicit(), fc.Unrolled(), fc.SPSA())
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1))


def converted(size: int = 2, **options: object) -> fc.FFEBM:
    return fc.convert(network(), size, loop_gain=0.1, **options)  # type: ignore[arg-type]


def penalty(critic: Callable[[Tensor], Tensor]) -> Tensor:
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return (slope.norm(dim=1) - 1).square().mean()


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_a_gradient_penalty_is_refused(size: int, estimator: object) -> None:
    with pytest.raises(fc.DerivativeError, match=r"block\d \(.*second"):
        penalty(converted(size, estimator=estimator)).backward()


def test_a_gradient_penalty_on_a_chip_is_refused() -> None:
    chip = converted(2).lower(hardware="ideal").calibrate(X)
    with pytest.raises(fc.DerivativeError, match="second"):
        penalty(chip).backward()


@pytest.mark.parametrize("on_chip", [False, True], ids=["executor", "chip"])
@pytest.mark.parametrize("of_weights", [False, True], ids=["of_inputs", "of_weights"])
def test_second_derivatives_of_a_compiled_model_are_refused(on_chip: bool, of_weights: bool) -> None:
    """A graph that is run as it was traced (``backend="eager"``) keeps no grad mode of its caller's."""
    torch._dynamo.reset()
    model = converted(2, verify=False)
    model = model.lower(hardware="ideal").calibrate(X) if on_chip else model
    run, x = torch.compile(model, backend="eager"), X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(run(x).sum(), x, create_graph=True)
    with pytest.raises(fc.DerivativeError, match=r"block\d \(.*second"):
        torch.autograd.grad(slope.square().sum(), model.get_parameter("0.weight") if of_weights else x)


def test_a_compiled_model_refuses_many_errors_at_once() -> None:
    torch._dynamo.reset()
    run, x = torch.compile(converted(2, verify=False), backend="eager"), X.clone().requires_grad_()
    with pytest.raises(fc.DerivativeError, match="of many errors at once"):
        torch.autograd.grad(run(x)[:2], x, torch.eye(2)[..., None], is_grads_batched=True)


def test_a_compiled_models_gradients_have_no_history() -> None:
    torch._dynamo.reset()
    run, x = torch.compile(converted(2, verify=False), backend="eager"), X.clone().requires_grad_()
    (kept,) = torch.autograd.grad(run(x).sum(), x, create_graph=True)
    (plain,) = torch.autograd.grad(run(x).sum(), x)
    assert kept.requires_grad
    assert not plain.requires_grad
    torch.testing.assert_close(kept.detach(), plain)


def test_the_remedy_is_one() -> None:
    """The network without feedback has them, of the model's own parameters."""
    model, net = converted(1), network()
    for critic, whole in ((model.network, model), (net, net)):
        (whole(X).mean() + 10 * penalty(critic)).backward()
    for (n, p), q in zip(model.named_parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6, msg=n)


def test_a_graph_that_is_kept_and_never_differentiated_is_no_question() -> None:
    model, plain = converted(2), converted(2)
    model(X).square().mean().backward(create_graph=True)
    plain(X).square().mean().backward()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad.detach(), q.grad, rtol=0, atol=0)
        p.grad = None  # which breaks the circle of a graph that holds its parameters


def test_what_lies_behind_the_last_block_has_its_second_derivatives() -> None:
    """The loss, and a digital head: a cotangent with history is no reason to refuse what does not pass a block."""
    model, x = converted(2), X.clone().requires_grad_()
    y = model(x)
    (error,) = torch.autograd.grad(y.pow(3).sum(), y, create_graph=True)
    (second,) = torch.autograd.grad(error.sum(), y)
    torch.testing.assert_close(second, 6 * y)


def _scalar(model: fc.FFEBM) -> Callable[[Tensor], Tensor]:
    return lambda x: model(x).sum()


def _dual(model: fc.FFEBM) -> Tensor:
    with forward_mode.dual_level():
        return model(forward_mode.make_dual(X, torch.ones_like(X)))  # type: ignore[no-any-return]


def _dual_without_gradients(model: fc.FFEBM) -> Tensor:
    with torch.no_grad():
        return _dual(model)


def _per_sample(model: fc.FFEBM) -> object:
    parameters = dict(model.named_parameters())

    def loss(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return func.functional_call(model, p, (x[None],)).sum()  # type: ignore[no-any-return]

    return func.vmap(func.grad(loss), (None, 0))(parameters, X)


def _batched(model: fc.FFEBM) -> object:
    x = X.clone().requires_grad_()
    y = model(x)
    return torch.autograd.grad(y, x, torch.eye(5)[..., None], is_grads_batched=True)


WAYS: dict[str, Callable[[fc.FFEBM], object]] = {
    "hvp": lambda m: functional.hvp(_scalar(m), X, X),
    "vhp": lambda m: functional.vhp(_scalar(m), X, X),
    "hessian": lambda m: functional.hessian(_scalar(m), X),
    "jvp by double backward": lambda m: functional.jvp(m, X, X),
    "vectorized jacobian": lambda m: functional.jacobian(m, X, vectorize=True),
    "forward-mode jacobian": lambda m: functional.jacobian(m, X, vectorize=True, strategy="forward-mode"),
    "batched errors": _batched,
    "func.grad": lambda m: func.grad(_scalar(m))(X),
    "func.vjp": lambda m: func.vjp(m, X),
    "func.jvp": lambda m: func.jvp(m, (X,), (X,)),
    "func.jacrev": lambda m: func.jacrev(m)(X),
    "func.jacfwd": lambda m: func.jacfwd(m)(X),
    "func.hessian": lambda m: func.hessian(_scalar(m))(X),
    "func.vmap": lambda m: func.vmap(m)(X[:, None]),
    "per sample": _per_sample,
    "dual numbers": _dual,
    "dual numbers without gradients": _dual_without_gradients,
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("size", "used"), [(1, True), (3, False)], ids=["later", "first call"])
def test_every_other_derivative_is_refused(way: str, size: int, used: bool) -> None:
    model = converted(size)
    if used:
        model(X)
    with pytest.raises(fc.DerivativeError, match=r"block\d \((.|\n)*model\.network\(x\)"):
        WAYS[way](model)
    plain = converted(size)
    torch.testing.assert_close(model(X), plain(X))


def test_jacobians_by_ordinary_backward_passes_are_right() -> None:
    torch.testing.assert_close(functional.jacobian(converted(1), X), functional.jacobian(network(), X))
