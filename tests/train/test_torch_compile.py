"""A converted model under torch.compile, in one graph: what it computes, records, warns of and refuses is what it does
eagerly.

Most tests trace and differentiate the graph (``aot_eager``), which is where a compiler could go wrong with a block; two
generate code.
"""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import models
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import ffebm_compiler as fc
from ffebm_compiler.train import enrolment
from ffebm_compiler.train.opaque_operators import FORMAT

BACKEND = "aot_eager"
NAMES = (
    "mlp",
    "vgg_norm",
    "residual",
    "two_inputs",
    "output_namedtuple",
    "tied_modules",
    "siamese",
    "buffers",
    "weight_norm",
    "transformer",
    "branching",
)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def twins(net: nn.Module, block_size: int = 2, **options: Any) -> tuple[fc.FFEBM, fc.FFEBM]:
    """A model, and a copy that stays eager."""
    model = fc.convert(net.double(), block_size, **options)
    return model, copy.deepcopy(model)


def vgg() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return models.vgg(), torch.randn(4, 3, 8, 8, dtype=torch.float64)


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, fullgraph=True, backend=BACKEND)


def step(run: Any, model: nn.Module, args: Sequence[Any]) -> tuple[list[Tensor], list[Tensor | None]]:
    """Outputs and gradients of a quadratic loss."""
    model.zero_grad()
    outputs = [t for t in tree_leaves(run(*args)) if isinstance(t, Tensor) and t.requires_grad]
    torch.stack([o.square().sum() for o in outputs]).sum().backward()
    return [o.detach() for o in outputs], [p.grad for p in model.parameters()]


def assert_alike(model: fc.FFEBM, twin: fc.FFEBM, run: Any, args: Sequence[Any]) -> None:
    for found, expected in zip(step(run, model, args), step(twin, twin, args), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert model.relaxation == twin.relaxation
    assert model.nudged_relaxation == twin.nudged_relaxation
    assert [b.layer_weights for b in model.blocks] == [b.layer_weights for b in twin.blocks]


@pytest.mark.parametrize("name", NAMES)
def test_a_training_step_is_the_eager_one(name: str) -> None:
    entry = next(e for e in models.ZOO if e.name == name)
    net, args = entry.build()
    args = tuple(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)
    model, twin = twins(net.eval(), 3, example_inputs=args if entry.export else None)
    assert_alike(model.eval(), twin.eval(), compiled(model), args)


def test_gains_follow_the_weights() -> None:
    net, x = vgg()
    model, twin = twins(net)
    run, seen = compiled(model), set()
    for _ in range(3):
        assert_alike(model, twin, run, (x,))
        seen.add(tuple(w for b in model.blocks for w in b.layer_weights.values()))
        with torch.no_grad():
            for p in (*model.parameters(), *twin.parameters()):
                p.sub_(0.1 * p.grad)
    assert len(seen) == 3, "a training step measures the gains of its weights"


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile generates C++, and there is no g++")
def test_generated_code_trains_and_infers() -> None:
    net, x = vgg()
    model, twin = twins(net)
    run = torch.compile(model, fullgraph=True)
    for found, expected in zip(step(run, model, (x,)), step(twin, twin, (x,)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            torch.testing.assert_close(run(x), twin(x), rtol=1e-9, atol=1e-12)


def test_other_batch_sizes_need_no_graph_each() -> None:
    net, x = vgg()
    model, twin = twins(net)
    counter = torch._dynamo.testing.CompileCounterWithBackend(BACKEND)
    run = torch.compile(model, fullgraph=True, backend=counter)
    for batch in (4, 3, 7, 9):
        assert_alike(model, twin, run, (x.repeat(3, 1, 1, 1)[:batch],))
    assert counter.frame_count == 2, "one for the first batch size, one for any"


def test_both_modes() -> None:
    net, x = models.Residual().double(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    model, twin = twins(net, 3)
    run = compiled(model)
    for mode in (True, False, True):
        assert_alike(model.train(mode), twin.train(mode), run, (x,))


@pytest.mark.parametrize("estimator", [fc.Implicit(), fc.TangentEP(), fc.CenteredEP(subtract=True), fc.Unrolled()])
def test_backward_goes_by_the_options_of_its_forward(estimator: Any) -> None:
    net, x = vgg()
    model, twin = twins(net)
    run = compiled(model)
    assert_alike(model, twin, run, (x,))
    with model.using(estimator=estimator, tolerance=1e-3), twin.using(estimator=estimator, tolerance=1e-3):
        outputs = run(x), twin(x)
    for model_or_twin, output in zip((model, twin), outputs, strict=True):
        model_or_twin.zero_grad()
        output.square().sum().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-14)


def test_options_too_many_changes_ago_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "OPTIONS_KEPT", 1)
    net, x = vgg()
    run = compiled(model := twins(net)[0])
    output = run(x).sum()
    with model.using(tolerance=1e-2):
        run(x)
    with pytest.raises(fc.InputError, match=r"(?s)backward of block3.*Run backward before"):
        output.backward()


def test_held_winners_reach_the_backward() -> None:
    class Tie(nn.Module):
        """Feedback through a negative weight pushes the winner of a maximum below the next."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv1d(1, 1, 1, bias=False), nn.Conv1d(1, 1, 1)
            with torch.no_grad():
                for p, value in zip(self.parameters(), (1.0, -1.0, 2.0), strict=True):
                    p.fill_(value)

        def forward(self, x: Tensor) -> Tensor:
            pooled = nn.functional.max_pool1d(torch.relu(self.first(x)), 2)
            return torch.relu(self.second(pooled))

    model, twin = twins(Tie(), loop_gain=0.05)
    assert_alike(model, twin, compiled(model), (torch.tensor([[[1.0, 0.999]]], dtype=torch.float64),))
    assert [r.held for r in model.relaxation] == [True]


def test_mixed_precision() -> None:
    net, x = vgg()
    model, twin = twins(net)
    model, twin, x = model.float(), twin.float(), x.float()
    run, outputs = compiled(model), []
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [run(x), twin(x)]
    for output in outputs:
        assert output.dtype == torch.bfloat16
        output.float().square().sum().backward()
    assert torch.equal(*outputs)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_the_error_of_the_input_and_frozen_weights() -> None:
    net, x = vgg()
    model, twin = twins(net)
    for m in (model, twin):
        next(m.parameters()).requires_grad_(False)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    compiled(model)(inputs[0]).square().sum().backward()
    twin(inputs[1]).square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-12, atol=1e-14)
    assert next(model.parameters()).grad is None


def test_checkpointing_and_two_backwards() -> None:
    net, x = vgg()
    model, twin = twins(net)
    run = torch.compile(lambda x: checkpoint(model, x, use_reentrant=False), fullgraph=True, backend=BACKEND)
    for call in (run, twin):
        loss = call(x).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-14)


def test_a_copy_finds_its_own_weights() -> None:
    net, x = vgg()
    model, twin = twins(net)
    compiled(model)(x)
    with torch.no_grad():
        next(twin.parameters()).zero_()
    assert_alike(twin, copy.deepcopy(twin), compiled(twin), (x,))
    assert_alike(model, copy.deepcopy(model), compiled(model), (x,))


def test_a_graph_outlives_no_model() -> None:
    number = enrolment.enrol(torch.nn.Identity())
    with pytest.raises(fc.InputError, match="Compile the model again"):
        enrolment.find(number)


def test_calls_by_name_and_in_functions_with_dictionaries_of_their_own() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor, scale: Tensor, offset: None = None) -> Tensor:
            return self.b(torch.relu(self.a(x)) * scale)

    model, _ = twins(Two())
    x, scale = torch.randn(4, 3, dtype=torch.float64), torch.rand(5, dtype=torch.float64)

    @torch.compile(fullgraph=True, backend=BACKEND)
    def run(batch: dict[str, Tensor]) -> Tensor:
        batch["scale"] = scale * 2
        return model(batch.pop("x"), **batch)

    expected = model(x, 2 * scale)
    assert torch.equal(run({"x": x}), expected)
    assert torch.equal(compiled(model)(x, scale=2 * scale, offset=None), expected)


def test_warnings_and_problems_are_the_models_own() -> None:
    net, x = vgg()
    model, _ = twins(net, loop_gain=None, max_sweeps=3)
    run = compiled(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", fc.ConvergenceWarning)
        run(x).sum().backward()
    free, nudged = (
        [str(w.message) for w in caught if f"in its {phase}" in str(w.message)] for phase in ("free", "nudged")
    )
    assert [m.split()[0] for m in free] == ["block1", "block2", "block3"]
    assert [m.split()[0] for m in nudged] == ["block3", "block2", "block1"]
    x[0] = torch.nan
    with pytest.raises(fc.InputError, match=r"input input: has 192 values that are NaN"):
        run(x)


def test_a_wrong_input_is_refused_by_the_users_layer() -> None:
    net, x = vgg()
    with pytest.raises(RuntimeError, match=r"layer 0 \(Conv2d\)"):
        compiled(twins(net)[0])(x[:, :2])


def test_blocks_are_verified_at_first_use() -> None:
    net, x = vgg()
    model, _ = twins(net)
    model.__dict__["_verified"].clear()
    compiled(model)(x)
    assert set(model.verified) == {b.name for b in model.blocks}


def test_inference_exports() -> None:
    net, x = vgg()
    model, twin = twins(net.eval())
    with torch.no_grad():
        batch = {"input": {0: torch.export.Dim("batch")}}  # the name of the user's own argument
        exported = torch.export.export(model, (x,), dynamic_shapes=batch, strict=False).module()
        other = torch.cat([x, x + 0.1])
        torch.testing.assert_close(exported(other), twin(other), rtol=1e-12, atol=1e-14)


def test_a_chip_keeps_its_history() -> None:
    """It is run eagerly, between what is compiled: the graph breaks."""
    net, x = vgg()
    model, x = fc.convert(net, 2), x.float()
    chips = [model.lower(hardware="rram").calibrate(x) for _ in range(2)]
    run = torch.compile(chips[0], backend=BACKEND)
    for _ in range(2):
        assert torch.equal(run(x), chips[1](x)), "the same devices, and noise from the same generator"


def test_the_operators_are_what_they_say() -> None:
    """Schema, shapes and aliasing of ``settle`` as PyTorch checks them."""
    net, x = vgg()
    model, _ = twins(net)
    seen: list[tuple[Any, tuple[Any, ...]]] = []

    class Listening(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function.namespace == "ffebm":
                seen.append((function, args))
            return function(*args, **(kwargs or {}))

    with torch.no_grad():
        exported = torch.export.export(model, (x,), strict=False).module()
        with Listening(), warnings.catch_warnings():
            exported(x)
    assert [f.name().partition("::")[2] for f, _ in seen] == ["begin", "settle", "settle", "settle"]
    for function, args in seen:
        torch.library.opcheck(function, args, test_utils=("test_schema", "test_faketensor"))


def test_the_program_for_compilers_is_written_once_when_one_asks() -> None:
    net, x = vgg()
    model, _ = twins(net)
    model(x)
    assert not model._traceable
    compiled(model)(x)
    assert list(model._traceable) == [model.training]
    written = model._traceable[model.training]
    torch._dynamo.reset()
    compiled(model)(x)
    assert model._traceable[model.training] is written


def test_graphs_tell_the_format_of_the_operators_in_them() -> None:
    net, x = vgg()
    model, _ = twins(net)
    layouts: list[str] = []

    def keeping(module: torch.fx.GraphModule, examples: Any) -> Any:
        layouts.extend(n.args[3] for n in module.graph.nodes if n.target is torch.ops.ffebm.settle)
        return module.forward

    with torch.no_grad():
        torch.compile(model, fullgraph=True, backend=keeping)(x)
    assert len(layouts) == len(model.blocks)
    assert all(text.split()[0] == str(FORMAT) for text in layouts)
