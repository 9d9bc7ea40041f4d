"""Metrics against closed forms on a chip of known errors, and on an ideal chip against the executor."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from study_fakes import FakeSubject, network
from torch import nn

import ffebm_compiler as fc
from ffebm_compiler.chip.hardware import Hardware
from ffebm_compiler.errors import InputError, OptionError
from ffebm_compiler.study import METRICS, Bench, Effort, Point, Samples

EFFORT = Effort(calibrate=8, samples=32, gradient_samples=16, batch=10)
X = FakeSubject().samples(40).inputs[0]
CLASSES = network()(X).argmax(1)


def measured(subject: Any, chip: int = 0, effort: Effort = EFFORT, **settings: Any) -> dict[str, float | None]:
    return Bench(subject, Hardware(), effort).measure(Point(tuple(settings.items()), chip))


def test_a_factor_on_the_output_is_the_output_error() -> None:
    found = measured(FakeSubject(), chip=2, read_noise=0.3)
    assert found["output_error"] == pytest.approx(0.32, rel=1e-12)
    assert (found["agreement"], found["accuracy"], found["loss"]) == (1.0, None, None)
    assert found["cosine_worst"] == pytest.approx(1, abs=1e-12)  # without targets the loss is linear in the output


def test_a_flipped_output_agrees_nowhere() -> None:
    found = measured(FakeSubject(flip=True))
    assert found["output_error"] == pytest.approx(2, rel=1e-12)
    assert found["agreement"] == 0


def test_accuracy_and_loss_are_those_of_the_samples_after_the_calibration() -> None:
    targets = CLASSES.clone()
    targets[:8] = (targets[:8] + 1) % 4  # wrong, but calibrated on
    targets[8:16] = (targets[8:16] + 1) % 4
    found = measured(FakeSubject(targets))
    assert found["accuracy"] == 24 / 32
    expected = nn.functional.cross_entropy(network()(X[8:]), targets[8:])
    assert found["loss"] == pytest.approx(float(expected.detach()), rel=1e-12)


def test_the_gradient_of_a_classifier_is_compared_with_the_exact_one() -> None:
    """Against cosines from gradients written out: of softmax(f o) - onehot for f = 1 and f = 1.5."""
    found = measured(FakeSubject(CLASSES), read_noise=0.5)
    x, y = X[8:24], nn.functional.one_hot(CLASSES[8:24], 4).double()

    def gradients(factor: float) -> list[torch.Tensor]:
        error = ((network()(x) * factor).softmax(1) - y).detach() / 16 * factor
        return [(error.T @ x).flatten(), error.sum(0)]

    cosines = [float(nn.functional.cosine_similarity(a, b, dim=0)) for a, b in zip(gradients(1.5), gradients(1.0))]
    assert found["cosine_worst"] == pytest.approx(min(cosines), abs=1e-10)
    assert found["cosine_median"] == pytest.approx(sum(cosines) / 2, abs=1e-10)


def test_real_targets_give_a_mean_squared_error() -> None:
    targets = network()(X).detach() + 0.5
    found = measured(FakeSubject(targets))
    assert found["loss"] == pytest.approx(0.25, rel=1e-12)
    assert found["accuracy"] is None


def test_relaxations_and_cost_are_summed_up() -> None:
    found = measured(FakeSubject(), chip=1)
    assert (found["sweeps"], found["residual"], found["converged"]) == (4, 2e-3, 0)
    assert (found["energy"], found["latency"]) == (1e-9, 2e-6)
    assert set(found) == set(METRICS)


def test_chips_are_calibrated_on_the_first_samples_only(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(FakeSubject(), Hardware(), EFFORT)
    chip: Any = bench._chip(bench.reference({}).model, Point((), 0))
    assert chip.calibrated == [8]
    assert torch.equal(bench.calibration.inputs[0], X[:8])
    assert torch.equal(bench.samples.inputs[0], X[8:])


def test_without_gradient_samples_there_is_no_cosine() -> None:
    found = measured(FakeSubject(), effort=Effort(8, 32, 0, 10))
    assert (found["cosine_worst"], found["cosine_median"]) == (None, None)


def test_points_of_one_conversion_share_the_reference() -> None:
    subject = FakeSubject()
    bench = Bench(subject, Hardware(), EFFORT)
    for chip in range(3):
        bench.measure(Point((("loop_gain", 0.1),), chip))
    assert subject.conversions == 1
    bench.measure(Point((("loop_gain", 0.2),), 0))
    assert subject.conversions == 2


@pytest.mark.parametrize(
    ("targets", "what"),
    [
        (torch.full((40,), 4), "y has the class 4, and the model has 4 outputs"),
        (torch.zeros(40, 3, dtype=torch.long), "y has the shape (32, 3), the model's output (32, 4)"),
        (torch.zeros(40, 3), "y has the shape (32, 3), the model's output (32, 4)"),
    ],
)
def test_targets_that_do_not_fit_the_model_are_told_at_once(targets: torch.Tensor, what: str) -> None:
    with pytest.raises(InputError) as raised:
        Bench(FakeSubject(targets), Hardware(), EFFORT).digital()
    assert what in str(raised.value)


def test_inputs_that_the_model_does_not_take_are_told() -> None:
    class Wrong(FakeSubject):
        def samples(self, needed: int) -> Samples:
            return Samples((torch.randn(needed, 5, dtype=torch.float64),))

    with pytest.raises(InputError, match="the model does not take it"):
        Bench(Wrong(), Hardware(), EFFORT).digital()


def test_too_few_samples_and_impossible_efforts_are_refused() -> None:
    with pytest.raises(OptionError, match="takes 40 of 40 samples"):
        Bench(FakeSubject(), Hardware(), Effort(calibrate=40))
    with pytest.raises(OptionError) as raised:
        Effort(calibrate=0, samples=0, gradient_samples=-1, batch=0)
    assert len(raised.value.problems) == 4


# --- on the emulator ---------------------------------------------------------------------------------------


class Classifier:
    """Three layers, random weights."""

    def convert(self, conversion: Any) -> fc.FFEBM:
        torch.manual_seed(1)
        layers = [nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 10), nn.Tanh(), nn.Linear(10, 4)]
        return fc.convert(nn.Sequential(*layers).double(), **{"block_size": 3, "loop_gain": 0.05, **conversion})

    def samples(self, needed: int) -> Samples:
        generator = torch.Generator().manual_seed(2)
        return Samples((torch.randn(needed, 12, generator=generator, dtype=torch.float64),))


def test_an_ideal_chip_gives_the_exact_gradient_and_the_executors_output() -> None:
    found = measured(Classifier(), effort=Effort(16, 48, 16, 24))
    assert found["cosine_worst"] > 0.9999
    model = Classifier().convert({}).eval()
    x = Classifier().samples(64).inputs[0][16:]
    with torch.no_grad():
        wanted = model.to_feedforward()(x)
        error = float((model(x) - wanted).norm() / wanted.norm())
    assert found["output_error"] == pytest.approx(error, rel=1e-4)
    assert found["converged"] == 1
    assert found["energy"] > 0
    assert found["latency"] > 0


def test_noise_and_coarse_converters_cost_accuracy_and_gradients() -> None:
    bench = Bench(Classifier(), Hardware(), Effort(16, 48, 16, 24))
    ideal, noisy, coarse = (
        bench.measure(Point(s, 0)) for s in ((), (("read_noise", 0.3),), (("adc_bits", 2), ("nudge_bits", 2)))
    )
    for worse in (noisy, coarse):
        assert worse["output_error"] > 2 * ideal["output_error"]
        assert worse["cosine_worst"] < ideal["cosine_worst"] - 1e-3
    assert not math.isnan(noisy["residual"])


def test_a_chip_is_the_same_whenever_it_is_measured() -> None:
    point = Point((("read_noise", 0.1), ("offset", 0.01)), 3)

    def once() -> dict[str, float | None]:
        found = measured(Classifier(), 3, Effort(16, 48, 16, 24), **dict(point.settings))
        return {k: v for k, v in found.items() if k != "seconds"}

    assert once() == once()
    other = measured(Classifier(), 4, Effort(16, 48, 16, 24), **dict(point.settings))
    assert other["output_error"] != once()["output_error"]


def test_the_docs_name_every_metric() -> None:
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    assert [m for m in METRICS if f"`{m}`" not in page] == []
