"""The report: right numbers, every operation findable, before and after the gains are known."""

from __future__ import annotations

import json

import pytest
import torch
from models import ZOO, with_statistics
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.api import compile_model
from ffebm_compiler.options import Options
from ffebm_compiler.view import build_report


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Shared(nn.Module):
    """Tied weights, a weight that both sides read, and one that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(torch.relu(self.a(x)))
        return torch.cumsum(torch.relu(self.c(h)), -1) * self.a.weight.sum()


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 3))


def test_gains_are_unknown_before_a_run_and_measured_after() -> None:
    report = fc.explain(small())
    assert report.blocks[0].convex is None
    assert "measured at first use" in str(report)
    model = fc.convert(small())
    model(torch.randn(2, 6))
    block = model.report().blocks[0]
    assert block.convex is True
    assert block.loop_gain == pytest.approx(0.01, rel=1e-3)
    assert "strictly convex: coupling" in str(model.report())


def test_unit_feedback_says_that_nothing_is_certified() -> None:
    report = fc.explain(small(), loop_gain=None)
    assert "unit reverse gains" in str(report)
    assert report.blocks[0].convex is None
    assert "not known" in str(report)


def test_a_block_without_feedback_needs_no_measurement() -> None:
    report = fc.explain(small(), block_size=1)
    assert all(b.convex and not b.couplings for b in report.blocks)
    assert str(report).count("no feedback") == len(report.blocks)


def test_rows_are_the_steps_in_order_with_the_users_names() -> None:
    report = fc.explain(small())
    assert [r.name for r in report.rows] == ["block1", "digital1", "block2"]
    assert report.blocks[0].layers == ("0", "2")
    assert report.blocks[0].states == (("1", "relu"), ("3", "tanh"))
    assert report.blocks[0].couplings == (("1", "3"),)
    ((label, kind, reason),) = report.digital[0].operations
    assert (label, kind) == ("4", "Dropout")
    assert "random" in reason


def test_parameters_are_counted_once() -> None:
    model = Shared()
    count = fc.explain(model).parameters
    assert count.analog + count.digital == sum(p.numel() for p in model.parameters())
    assert count.analog == 16 + 4 + 4 + 16 + 4
    assert count.both == 16
    assert count.unread == count.digital == 9 + 3


def test_shared_parameters_name_their_readers() -> None:
    assert dict(fc.explain(Shared()).shared) == {"a.weight": ("sum", "a", "b")}  # in order of execution


@pytest.mark.parametrize("entry", [e for e in ZOO if not e.export and e.requires == "torch"], ids=lambda e: e.name)
def test_counts_and_names_are_complete_on_the_zoo(entry: object) -> None:
    model, _ = entry.build()
    compiled = compile_model(model, Options(block_size=2, loop_gain=0.01))
    report = build_report(compiled, model.training, 0.01, {}, {})
    assert report.parameters.analog + report.parameters.digital == sum(p.numel() for p in compiled.network.parameters())
    if not report.shared:
        assert sum(b.parameters for b in report.blocks) == report.parameters.analog
    text = " ".join(str(report).split())
    for row in report.digital:
        assert all(label in text for label, _, _ in row.operations)
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()


def test_norms_are_said_to_be_held_or_to_train() -> None:
    net = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Residual(4)))
    report = fc.explain(net)
    assert report.trained_norms == ("1",)
    assert report.held_norms == ("3.bn1", "3.bn2")
    split = fc.explain(net, norm="split")
    assert split.held_norms == ()
    assert split.trained_norms == ("1", "3.bn1", "3.bn2")
    assert fc.explain(net, norm="held").trained_norms == ()


def test_repeated_reasons_are_said_once() -> None:
    net = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU()) for _ in range(40)))
    text = str(fc.explain(net))
    reason = fc.explain(net).digital[0].operations[0][2]
    assert " ".join(text.split()).count(reason) == 1
    boundaries = text[text.index("Boundaries") : text.index("Energies")]
    assert len(boundaries.splitlines()) < 20
    assert all(f"{i}.1" in boundaries for i in range(40))


def test_verification_is_reported() -> None:
    model = fc.convert(small(), example_inputs=torch.randn(2, 6))
    assert "verified for 2 of 2 blocks" in str(model.report())
    assert all(b.verified["ok"] for b in model.report().blocks)
    assert "not verified" in str(fc.explain(small()))


def test_it_says_which_mode_and_tracer() -> None:
    text = str(fc.explain(small().eval()))
    assert "evaluation mode, traced by torch.fx" in text


def test_html_escapes_the_users_names() -> None:
    net = nn.Sequential()
    net.add_module("<script>", nn.Linear(3, 3))
    net.add_module("drop & <b>", nn.Dropout())
    html = fc.explain(net)._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "drop &amp; &lt;b&gt;" in html


def test_a_long_layer_name_is_not_broken() -> None:
    net = nn.Sequential()
    name = "encoder_layer_number_10_self_attention_out"
    net.add_module(name, nn.Linear(3, 3))
    table = str(fc.explain(net)).split("Boundaries")[0]
    assert table.count(name) == 2  # a layer and a state
    many = nn.Sequential(*(m for _ in range(9) for m in (nn.Linear(3, 3), nn.ReLU())))
    assert "0, 2, 4, …, 16 (9)" in str(fc.explain(many, block_size=9))


def test_wide_characters_keep_the_columns() -> None:
    net = nn.Sequential()
    net.add_module("層", nn.Linear(3, 3))
    net.add_module("x", nn.Linear(3, 3))
    wide, plain = (
        line
        for line in str(fc.explain(net, block_size=1)).splitlines()
        if line.startswith("block1") or line.startswith("block2")
    )
    assert plain.index("x (identity)") == wide.index("層 (identity)") + 1  # the first takes one cell more


def test_a_model_without_energy_or_parameters_reports_too() -> None:
    with pytest.warns(fc.GradientWarning):
        report = fc.explain(nn.Sequential(nn.Dropout(), nn.Flatten()))
    assert "0 energy-based blocks" in str(report)
    assert report.parameters.analog == report.parameters.digital == 0
