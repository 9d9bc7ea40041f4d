"""A converted model under torch.compile: graphs break at blocks, and all else is as without it.

Most tests trace and differentiate the graphs (``aot_eager``); one generates code.
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
import torch._dynamo.testing
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import ffebm_compiler as fc
from ffebm_compiler.model.converted_module import runner_of

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


class Mixed(nn.Module):
    """Blocks with digital parts before, between and after them; one of these trains, and counts in buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.scale = nn.BatchNorm2d(6), nn.Parameter(torch.ones(6, 1, 1))
        self.layers = nn.ModuleList([nn.Conv2d(3, 6, 3, padding=1), *(nn.Conv2d(6, 6, 3, padding=1) for _ in range(2))])
        self.last = nn.Linear(384, 9)

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.layers
        h = torch.relu(second(torch.relu(first(torch.erf(x)))))
        h = self.norm(torch.sin(h) * h * self.scale)
        h = self.last(torch.relu(third(h)).flatten(1))
        return torch.log_softmax(torch.relu(h), 1)


def mixed() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Mixed(), torch.randn(4, 3, 8, 8, dtype=torch.float64)


def compiled(model: Any) -> Any:
    return torch.compile(model, backend=BACKEND)


def counted(model: nn.Module) -> tuple[Any, Any]:
    """A compiled model, and what counts its graphs."""
    counter = torch._dynamo.testing.CompileCounterWithBackend(BACKEND)
    return torch.compile(model, backend=counter), counter


def digital_calls(model: fc.FFEBM) -> int:
    return sum(n.op.startswith("call") for part in model.program.digital_blocks for n in part.graph.nodes)


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


@pytest.mark.parametrize("build", [vgg, mixed])
def test_training_for_a_few_steps(build: Any) -> None:
    net, x = build()
    model, twin = twins(net, 3)
    run, seen = compiled(model), set()
    optimizers = [torch.optim.SGD(m.parameters(), 0.05, momentum=0.9) for m in (model, twin)]
    for _ in range(4):
        assert_alike(model, twin, run, (x,))
        seen.add(tuple(w for b in model.blocks for w in b.layer_weights.values()))
        for optimizer in optimizers:
            optimizer.step()
    assert len(seen) == 4, "a training step measures the gains of its weights"


def test_digital_parts_are_compiled_and_blocks_are_not() -> None:
    net, x = mixed()
    model, twin = twins(net, 3)
    run, counter = counted(model)
    for _ in range(2):
        assert_alike(model, twin, run, (x,))
    parts = model.program.digital_blocks
    assert counter.frame_count == len(parts) > 1, "one graph a digital part, made once"
    assert counter.op_count == digital_calls(model) + 1, "and the norm's count of its batches"


def test_a_model_of_blocks_alone_has_no_graph() -> None:
    net, x = vgg()
    model, twin = twins(net)
    run, counter = counted(model)
    assert_alike(model, twin, run, (x,))
    assert not model.program.digital_blocks
    assert counter.frame_count == 0


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile generates C++, and there is no g++")
def test_generated_code_trains_and_infers() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.sin(torch.relu(self.b(torch.relu(self.a(x))))) * 2)

    model, twin = twins(Small())
    run, x = torch.compile(model), torch.randn(4, 3, dtype=torch.float64)
    for found, expected in zip(step(run, model, (x,)), step(twin, twin, (x,)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(run(x), twin(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_inference(off: Any) -> None:
    net, x = mixed()
    model, twin = twins(net, 3)
    with off():
        torch.testing.assert_close(compiled(model)(x), twin(x), rtol=1e-12, atol=1e-14)


def test_one_graph_of_all_is_refused_with_the_remedy() -> None:
    net, x = mixed()
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"no graph can tell beforehand.*without fullgraph=True"):
        torch.compile(twins(net, 3)[0], fullgraph=True, backend=BACKEND)(x)


@pytest.mark.since("2.11", "torch.export breaks off with an error of its own at the first method")
def test_an_exported_program_is_refused_with_what_can_be_written_instead() -> None:
    net, x = vgg()
    model, _ = twins(net.eval())
    with torch.no_grad():
        with pytest.raises(fc.OptionError, match=r"(?s)no graph can tell beforehand.*model\.export_onnx"):
            torch.export.export(model, (x,), strict=False)
        with pytest.raises(torch._dynamo.exc.Unsupported, match="no graph can tell beforehand"):
            torch.export.export(model, (x,), strict=True)


def test_changed_weights_are_seen() -> None:
    net, x = mixed()
    model, twin = twins(net, 3)
    run = compiled(model)
    first = run(x)
    with torch.no_grad():
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            p.mul_(1.1)
            q.mul_(1.1)
    assert not torch.allclose(run(x), first)
    assert_alike(model, twin, run, (x,))
    state = {n: v * 0.9 if v.is_floating_point() else v for n, v in model.state_dict().items()}
    model.load_state_dict(state)
    twin.load_state_dict(state)
    assert_alike(model, twin, run, (x,))


def test_other_batch_sizes_need_no_graph_each() -> None:
    net, x = mixed()
    model, twin = twins(net, 3)
    run, counter = counted(model)
    for batch in (4, 3, 7, 9):
        assert_alike(model, twin, run, (x.repeat(3, 1, 1, 1)[:batch],))
    parts = len(model.program.digital_blocks)
    assert counter.frame_count == 2 * parts, "one for the first batch size, one for any"


def test_both_modes() -> None:
    net, x = models.Residual(), mixed()[1]
    model, twin = twins(net, 3)
    run = compiled(model)
    for mode in (True, False, True):
        assert_alike(model.train(mode), twin.train(mode), run, (x,))


def test_backward_goes_by_the_options_of_its_forward() -> None:
    net, x = vgg()
    model, twin = twins(net)
    run, estimator = compiled(model), fc.CenteredEP(subtract=True)
    with model.using(estimator=estimator, tolerance=1e-3), twin.using(estimator=estimator, tolerance=1e-3):
        outputs = run(x), twin(x)
    for model_or_twin, output in zip((model, twin), outputs, strict=True):
        model_or_twin.zero_grad()
        output.square().sum().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-14)


def test_mixed_precision() -> None:
    net, x = mixed()
    model, twin = twins(net, 3)
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
    net, x = mixed()
    model, twin = twins(net, 3)
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
    run = compiled(lambda x: checkpoint(model, x, use_reentrant=False))
    for call in (run, twin):
        loss = call(x).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-14)


def test_a_whole_training_step_in_one_function() -> None:
    """The backward pass of a block runs outside of the compiler as well."""
    net, x = mixed()
    model, twin = twins(net, 3)

    def train(net: nn.Module) -> Tensor:
        loss = net(x).square().sum()
        loss.backward()
        return loss.detach()

    counter = torch._dynamo.testing.CompileCounterWithBackend(BACKEND)
    found = torch.compile(train, backend=counter)(model)
    torch.testing.assert_close(found, train(twin), rtol=1e-12, atol=0)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-14)
    assert counter.op_count <= digital_calls(model) + 8, "the parts, and the loss"


def test_a_copy_finds_its_own_weights() -> None:
    net, x = mixed()
    model, twin = twins(net, 3)
    compiled(model)(x)
    with torch.no_grad():
        next(twin.parameters()).zero_()
    assert_alike(twin, copy.deepcopy(twin), compiled(twin), (x,))
    assert_alike(model, copy.deepcopy(model), compiled(model), (x,))


def test_calls_by_name_and_in_functions_with_dictionaries_of_their_own() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor, scale: Tensor, offset: None = None) -> Tensor:
            return self.b(torch.relu(self.a(x)) * scale)

    model, _ = twins(Two())
    x, scale = torch.randn(4, 3, dtype=torch.float64), torch.rand(5, dtype=torch.float64)

    @torch.compile(backend=BACKEND)
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
    with pytest.raises(fc.InputError, match=r"layer 0 \(Conv2d\)"):
        compiled(twins(net)[0])(x[:, :2])


def test_blocks_are_verified_at_first_use() -> None:
    net, x = vgg()
    model, _ = twins(net)
    runner_of(model).checks._verified.clear()  # type: ignore[attr-defined]
    compiled(model)(x)
    assert set(model.verified) == {b.name for b in model.blocks}


def test_a_chip_keeps_its_history() -> None:
    net, x = mixed()
    model, x = fc.convert(net, 3), x.float()
    chips = [model.lower(hardware="rram").calibrate(x) for _ in range(2)]
    run = compiled(chips[0])
    for _ in range(2):
        assert torch.equal(run(x), chips[1](x)), "the same devices, and noise from the same generator"
