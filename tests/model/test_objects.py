"""A converted model is an ordinary object: its signature, its layers by index, its names, its phases in a profile."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import transformers
from torch import Tensor, nn

import ffebm_compiler as fc


class Classifier(nn.Module):
    """Arguments by name, as Hugging Face's models have them; a method of its own."""

    classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, values: Tensor, labels: Tensor | None = None, *, scale: float = 1.0) -> Any:
        logits = self.head(torch.tanh(self.b(torch.relu(self.a(values))))) * scale
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}

    def probabilities(self, values: Tensor) -> Tensor:
        return self(values)["logits"].softmax(-1)  # type: ignore[no-any-return]


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def test_the_signature_is_the_users() -> None:
    net = Classifier()
    model = fc.convert(net)
    for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.lower()):
        assert inspect.signature(other.forward) == inspect.signature(net.forward)
        assert inspect.signature(other) == inspect.signature(net)
    assert "equilibrium" in (model.forward.__doc__ or "")
    assert list(inspect.signature(fc.FFEBM).parameters) == ["runner"]
    assert inspect.isfunction(fc.FFEBM.forward)


def test_it_is_freed_without_the_garbage_collector() -> None:
    gc.disable()
    try:
        model = fc.convert(layers())
        model(torch.randn(2, 4))
        assert inspect.signature(model)
        left = weakref.ref(model)
        del model
        assert left() is None
    finally:
        gc.enable()


@pytest.mark.slow
def test_hugging_faces_trainer_keeps_its_columns(tmp_path: Path) -> None:
    hugging_face = transformers()
    pytest.importorskip("accelerate")  # the Trainer needs it
    data = [{"values": torch.randn(4), "labels": i % 3, "unused": "text"} for i in range(8)]
    arguments = hugging_face.TrainingArguments(
        str(tmp_path), max_steps=1, per_device_train_batch_size=4, report_to=[], use_cpu=True, save_strategy="no"
    )
    labelled = {"values": torch.randn(4, 4), "labels": torch.zeros(4, dtype=torch.int64)}
    model = fc.convert(Classifier(), example_inputs=labelled)
    before = model.a.weight.detach().clone()
    trainer = hugging_face.Trainer(model, arguments, train_dataset=data)
    trainer._set_signature_columns_if_needed()
    assert {"values", "labels"} <= set(trainer._signature_columns)
    trainer.train()
    assert not torch.equal(model.a.weight, before)


def test_layers_by_index() -> None:
    net, x = layers(), torch.randn(2, 4)
    model = fc.convert(net, 1)
    assert len(model) == 5
    assert isinstance(model[1], nn.ReLU)
    assert [type(layer) for layer in model] == [type(layer) for layer in net]
    assert torch.equal(model[:2](x), net[:2](x))
    assert model[-1] is model.get_submodule("4")
    assert model[1] in model
    model[2] = nn.Linear(6, 5)
    torch.testing.assert_close(model(x), model.to_feedforward()(x))
    model[1] = nn.Tanh()
    with pytest.raises(fc.errors.ChangedError, match=r"layer 1: was a ReLU"):
        model(x)


def test_models_without_order_are_true_and_have_no_length() -> None:
    model = fc.convert(Classifier())
    assert bool(model)
    for ask in (len, iter, lambda m: m[0]):
        with pytest.raises(TypeError, match="Classifier"):
            ask(model)


def test_names_and_methods_of_the_users() -> None:
    model, x = fc.convert(Classifier(), 1), torch.randn(2, 4)
    assert {"classes", "probabilities", "head", "report", "a"} <= set(dir(model))
    torch.testing.assert_close(model.probabilities(x), model(x)["logits"].softmax(-1))


def test_functional_calls_before_the_first_and_after() -> None:
    net, x = layers(), torch.randn(2, 4)
    model = fc.convert(net, 1)
    doubled = {name: 2 * p.detach() for name, p in net.named_parameters()}
    expected = torch.func.functional_call(net, doubled, (x,))
    for _ in range(2):
        torch.testing.assert_close(torch.func.functional_call(model, doubled, (x,)), expected)
        torch.testing.assert_close(model(x), net(x))
    torch.testing.assert_close(model.to_feedforward()(x), net(x))


def _profiled(run: Any) -> set[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return {event.key for event in profile.key_averages()}


def test_blocks_appear_in_a_profile_by_name() -> None:
    model, x, y = fc.convert(layers(), 2), torch.randn(2, 4), torch.randn(2, 3)
    names = {f"{b.name}: {phase}" for b in model.blocks for phase in ("free phase", "nudged phase")}
    assert len(names) == 4
    assert names <= _profiled(lambda: F.mse_loss(model(x), y).backward())
    assert names <= _profiled(lambda: model.training_step(x, y, F.mse_loss))
    chip = model.lower().calibrate(x)
    assert names <= _profiled(lambda: F.mse_loss(chip(x), y).backward())
