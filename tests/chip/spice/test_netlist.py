"""Names, numbers and comments: what the user calls a layer can't change what a netlist means."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spice_circuits import INFINITY, Draw, Oracle, worst

from ffebm_compiler import InputError, OptionError
from ffebm_compiler.chip.hardware.circuit import Circuit
from ffebm_compiler.chip.spice import Bench, netlist, solve_op
from ffebm_compiler.chip.spice.netlist import comment, legal_names, long_line, number
from ffebm_compiler.ir import IDENTITY
from ffebm_compiler.rules.piecewise import RELU, clamp, leaky_relu
from ffebm_compiler.rules.sigmoidal import TANH
from ffebm_compiler.rules.softmax import softmax

needs_ngspice = pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")

ODD = "relu\n.control\nshell touch owned\n.endc\n*"


def small(physics: str = "hopfield") -> Circuit:
    return Draw((RELU, clamp(-0.5, 1.0)), (4, 3), 5, physics, inputs=3, nudge=0.1).circuit()


def labelled(circuit: Circuit, *labels: str) -> Circuit:
    banks = tuple(replace(b, label=label) for b, label in zip(circuit.banks, labels))
    return replace(circuit, banks=banks, edges=tuple(replace(e, label=labels[0]) for e in circuit.edges))


@settings(deadline=None, derandomize=True)
@given(st.lists(st.text(max_size=80), max_size=8))
def test_names_are_legal_and_different(labels: list[str]) -> None:
    names = legal_names(labels)
    assert all(re.fullmatch(r"[a-z0-9_]+", n) for n in names.values())
    assert len({*names.values()}) == len({*labels})


def test_names_are_the_users() -> None:
    assert legal_names(["features.3", "Features_3", "layer1.0.relu_1"]) == {
        "features.3": "features_3",
        "Features_3": "features_3_v2",
        "layer1.0.relu_1": "layer1_0_relu_1",
    }


@settings(derandomize=True)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_as_itself(value: float) -> None:
    assert float(number(value)) == value


@settings(derandomize=True)
@given(st.text())
def test_every_line_of_a_comment_is_one(text: str) -> None:
    assert all(line.startswith("*") for line in comment(text).splitlines())


def test_long_lines_are_continued() -> None:
    words = [f"node{k}" for k in range(100)]
    lines = long_line(["X1", *words]).splitlines()
    assert all(len(line) <= 118 for line in lines)
    assert " ".join(line.removeprefix("+ ") for line in lines).split()[1:] == words


@needs_ngspice
@pytest.mark.parametrize("physics", ["hopfield", "resistive"])
@pytest.mark.parametrize(
    "labels", [(ODD, "*"), ("s", "S"), ("层.1", "层.2"), ("a b;$c{d}'", ""), ("x" * 3000, "x" * 3001), ("v(0)", "0")]
)
def test_odd_labels_change_nothing(labels: tuple[str, str], physics: str) -> None:
    plain = small(physics)
    found, expected = solve_op(labelled(plain, *labels)), solve_op(plain)
    assert all(torch.equal(found[n], expected[n]) for n in expected)


def test_an_odd_label_starts_no_line() -> None:
    text = netlist(replace(labelled(small(), ODD, "b"), block="block1\n.control", input_labels={"x": "a\n.include b"}))
    assert not [line for line in text.splitlines() if re.match(r"\s*\.(control|include|endc)|shell", line)]


def test_the_layer_names_are_in_the_netlist() -> None:
    text = netlist(small())
    for part in (
        "s_features_1_0",
        "u_features_4_2",
        "x_images_1",
        ".subckt array_features_3",
        ".subckt neuron_features_4",
    ):
        assert part in text
    assert re.search(r"G0_0 0 out0 in0 0 \{siemens\*\([\d.e-]+-[\d.e-]+\)\}", text), "both conductances of a pair"


@needs_ngspice
def test_a_pair_that_is_not_there_is_not_written() -> None:
    """The structural zeros of an unrolled convolution."""
    circuit = small()
    mask = torch.zeros(4, 3, dtype=torch.float64)
    mask[0, 1] = mask[3, 2] = 1
    edge = circuit.edges[0]
    sparse = replace(edge, positive=edge.positive * mask, negative=edge.negative * mask)
    sparse = replace(sparse, back_positive=sparse.positive, back_negative=sparse.negative)
    circuit = replace(circuit, edges=(sparse, *circuit.edges[1:]))
    assert netlist(circuit).split(".subckt array_features_3")[1].split(".ends")[0].count("siemens*") == 2
    assert worst(solve_op(circuit), Oracle(circuit).equilibrium()) < 1e-9


# --- refusals ---------------------------------------------------------------------------------------------


def with_bank(circuit: Circuit, **changes: object) -> Circuit:
    return replace(circuit, banks=(replace(circuit.banks[0], **changes), *circuit.banks[1:]))  # type: ignore[arg-type]


def with_edge(circuit: Circuit, **changes: object) -> Circuit:
    return replace(circuit, edges=(circuit.edges[0], replace(circuit.edges[1], **changes)))  # type: ignore[arg-type]


HOPFIELD, RESISTIVE = small(), small("resistive")
WEIGHTS = HOPFIELD.edges[1].positive


@pytest.mark.parametrize(
    ("circuit", "what"),
    [
        (
            with_bank(HOPFIELD, potential=softmax(-1)),
            "layer features.1: has the activation softmax, for which there is no",
        ),
        (with_bank(RESISTIVE, potential=TANH), "layer features.1: has the activation tanh, which is not a clipping"),
        (with_bank(RESISTIVE, potential=leaky_relu(0.1)), "not a clipping"),
        (with_bank(RESISTIVE, offset=torch.ones(4, dtype=torch.float64)), "offsets or gains"),
        (with_bank(HOPFIELD, drive=torch.full((4,), float("nan"))), "drive that are not finite"),
        (with_bank(HOPFIELD, nudge=torch.zeros(5)), r"nudge of shape \(5,\)"),
        (with_bank(HOPFIELD, limit=0.0), "output limit"),
        (with_edge(HOPFIELD, positive=-WEIGHTS), "layer features.7: has positive below 0"),
        (with_edge(HOPFIELD, negative=WEIGHTS.T), "shape"),
        (with_edge(HOPFIELD, source="nowhere"), "joins nowhere to s1"),
        (with_edge(HOPFIELD, reverse=torch.full((4,), INFINITY)), "reverse that are not finite"),
        (with_edge(RESISTIVE, back_positive=2 * WEIGHTS), "second array"),
        (replace(HOPFIELD, physics="quantum"), "physics 'quantum'"),
        (replace(HOPFIELD, volts=0.0), "volts 0.0"),
        (
            replace(HOPFIELD, inputs={"x": torch.tensor([1.0, float("inf"), 0.0])}),
            "input images: has values that are not finite",
        ),
    ],
)
def test_refusals(circuit: Circuit, what: str) -> None:
    with pytest.raises(InputError, match=what):
        netlist(circuit)


def test_all_refusals_come_at_once() -> None:
    with pytest.raises(InputError) as raised:
        netlist(with_bank(with_edge(HOPFIELD, positive=-WEIGHTS), potential=softmax(-1), limit=-1.0))
    assert len(raised.value.problems) == 3


def test_too_many_devices() -> None:
    with pytest.raises(InputError, match="has 36 devices, more than max_devices=35"):
        netlist(HOPFIELD, Bench(max_devices=35))
    netlist(HOPFIELD, Bench(max_devices=36))


@pytest.mark.parametrize(
    "options",
    [
        {"duration": 0.0},
        {"step": float("nan")},
        {"diodes": "germanium"},
        {"operating_point": False, "transient": False},
    ],
)
def test_bad_options(options: dict) -> None:
    with pytest.raises(OptionError, match="option"):
        Bench(**options)


def test_identity_needs_no_diodes() -> None:
    text = netlist(Draw((IDENTITY,), (2,), 0, "resistive").circuit())
    assert ".subckt diode" not in text
    assert "Xlower" not in text
