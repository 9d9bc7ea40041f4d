"""A converted model is pickled as any other module: the same outputs, gradients, names and energies in another
process.
"""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import pytest
import torch
import torch.nn.functional as F
from models import ZOO, Entry, flatten
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.ir import Operation, Potential
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.rules import Call, Reading, Role, Rule
from ffebm_compiler.rules.piecewise import RELU


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.1), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def round_trip(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


def outcome(model: nn.Module, args: tuple[Any, ...]) -> list[Tensor]:
    """Outputs and gradients of a random linear loss."""
    model.zero_grad()
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(5)
        outputs = flatten(model(*args))
        sum((o * torch.randn_like(o)).sum() for o in outputs).backward()  # type: ignore[union-attr]
    return [*(o.detach() for o in outputs), *(p.grad for p in model.parameters() if p.grad is not None)]


def assert_same(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


CHOSEN = ["post_norm", "potentials", "two_inputs", "tied", "spellings", "control_flow"]
"""All kinds of operations, results, weights, and both tracers."""


@pytest.mark.slow
@pytest.mark.parametrize("entry", [e for e in ZOO if e.name in CHOSEN], ids=lambda e: e.name)
def test_models_of_the_zoo(entry: Entry) -> None:
    net, args = entry.build()
    model = fc.convert(net.eval(), block_size=2, example_inputs=args if entry.export else None)
    outcome(model, args)
    again = round_trip(model)
    assert [str(b.energy) for b in again.blocks] == [str(b.energy) for b in model.blocks]
    assert list(again.state_dict()) == list(model.state_dict())
    assert_same(outcome(again, args), outcome(model, args))


def test_both_modes_stay_one_program_and_a_shared_registry_one() -> None:
    model = round_trip(fc.convert(small()))
    assert runner_of(model).compiled.modes[True] is runner_of(model).compiled.modes[False]
    assert model._parameters is model.network._parameters
    assert model._modules is model.network._modules


def test_training_goes_on_from_where_it_was() -> None:
    x, y = torch.randn(8, 4), torch.randn(8, 3)
    model = fc.convert(small())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.training_step(x, y, F.mse_loss)
    optimizer.step()
    again = round_trip(model)
    assert again.verified.keys() == model.verified.keys() != set()
    assert [b.layer_weights for b in again.blocks] == [b.layer_weights for b in model.blocks]
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    again.zero_grad()
    assert torch.isfinite(again.training_step(x, y, F.mse_loss))


def test_torch_save(tmp_path: Path) -> None:
    model, x = fc.convert(small()), torch.randn(2, 4)
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    assert_same(outcome(again, (x,)), outcome(model, (x,)))


def test_a_file_with_an_option_that_is_no_more_is_read() -> None:
    """A tolerance once had ``narrow`` as well."""
    model, x = fc.convert(small()), torch.randn(2, 4)
    vars(model.execution.tolerance)["narrow"] = True
    again = round_trip(model)
    assert again.execution == fc.convert(small()).execution
    assert_same(outcome(again, (x,)), outcome(model, (x,)))


def test_joblib_and_cloudpickle() -> None:
    model, x, file = fc.convert(small()), torch.randn(2, 4), io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    assert torch.equal(joblib.load(file)(x), model(x))
    assert torch.equal(cloudpickle.loads(cloudpickle.dumps(model))(x), model(x))


@pytest.mark.slow
def test_a_spawned_process_computes_the_same() -> None:
    model, x = fc.convert(small()), torch.randn(2, 4)
    chip = model.lower(hardware="rram").calibrate(x)
    jacobian = torch.autograd.functional.jacobian(model, x)
    with torch.multiprocessing.get_context("spawn").Pool(1) as pool:
        assert torch.equal(pool.apply(nn.Module.__call__, (model.requires_grad_(False), x)), model(x))
        assert torch.equal(pool.apply(torch.autograd.functional.jacobian, (model, x)), jacobian)
        theirs = pool.apply(nn.Module.__call__, (chip.requires_grad_(False), x))
    assert torch.equal(theirs, chip(x))


@pytest.mark.parametrize("hardware", ["ideal", "rram"])
def test_a_chip_with_its_devices_and_its_noise(hardware: str) -> None:
    x = torch.randn(6, 4)
    chip = fc.convert(small(), 3).lower(hardware=hardware, chip_seed=3).calibrate(x)
    outcome(chip, (x,))
    again = round_trip(chip)
    assert again.chip_report() == chip.chip_report()
    assert_same(outcome(again, (x,)), outcome(chip, (x,)))


def test_a_copy_of_an_unpickled_model_is_independent() -> None:
    model, x = round_trip(fc.convert(small())), torch.randn(2, 4)
    twin, before = copy.deepcopy(model), model(x).detach()
    nn.init.zeros_(twin.get_parameter("0.weight"))
    assert torch.equal(model(x), before)
    assert not torch.equal(twin(x), before)


def test_the_original_comes_out_of_an_unpickled_model() -> None:
    net, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)), torch.randn(2, 4)
    original = round_trip(fc.convert(net)).to_feedforward()
    assert original[1].inplace
    assert torch.equal(original(x), net(x))


# --- a rule of the user's own ------------------------------------------------------------------------------


def _own(potential: Potential) -> fc.FFEBM:
    def read(call: Call) -> Reading:
        return Reading((call.as_operand(call.value()),), potential=potential)

    rule = Rule("own", Role.POTENTIAL, read, "max(a, 0)", modules=(nn.ReLU,))
    return fc.convert(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), rules=[rule])


def test_a_rule_of_importable_functions() -> None:
    model, x = _own(replace(RELU, name="own", activation=F.relu)), torch.randn(2, 4)
    assert torch.equal(round_trip(model)(x), model(x))


def test_a_function_without_a_name_is_named_by_its_line() -> None:
    model = _own(replace(RELU, name="own", activation=lambda a: a.clamp(min=0)))
    with pytest.raises(pickle.PicklingError, match=r"lambda.*test_pickle.py:\d+") as failure:
        pickle.dumps(model)
    assert isinstance(failure.value, fc.errors.PickleError)


def test_an_operation_keeps_its_winners() -> None:
    """Pooling computes with functions that torch makes in a closure."""
    model = fc.convert(nn.Sequential(nn.Conv1d(1, 2, 2), nn.MaxPool1d(2), nn.Conv1d(2, 2, 2)), 2)
    terms = [t for b in model.program.energy_blocks for s in b.states for t in s.drive.terms]
    again = round_trip(next(t.operation for t in terms if t.operation.routed))
    assert isinstance(again, Operation)
    assert again.function is F.max_pool1d
    assert again.choose.keywords["function"] is F.max_pool1d
