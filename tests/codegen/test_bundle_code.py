"""The training step of a bundle as source: readable, runnable, and nothing in a bundle can put code into it."""

from __future__ import annotations

import ast
import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ffebm_compiler as fc
from ffebm_compiler import runtime
from ffebm_compiler.codegen.bundle_code import bundle_training_code, bundle_training_script
from ffebm_compiler.errors import InputError
from ffebm_compiler.ir import Program
from ffebm_compiler.model.converted_module import runner_of


def program() -> Program:
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    return runner_of(fc.convert(net, block_size=2)).compiled.modes[True].program


PROGRAM = program()
BLOCKS = {b.name: None for b in PROGRAM.energy_blocks}


def renamed(text: str) -> Program:
    """The program with a text wherever a bundle may put one."""
    steps = tuple(
        replace(s, origins=tuple(replace(o, label=text) for o in s.origins)) if s in PROGRAM.digital_blocks else s
        for s in PROGRAM.steps
    )
    return replace(PROGRAM, steps=steps, labels=dict.fromkeys(PROGRAM.labels, text), inputs=(text,))


def skeleton(code: str) -> str:
    """What the code does, without names of values and texts."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)


EXPECTED = skeleton(bundle_training_code(PROGRAM, "Net", fc.CenteredEP(), BLOCKS))


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    text=st.text(max_size=40)
    | st.sampled_from(
        [
            '"""\nimport os\n"""',
            "x\nimport os",
            "x\rimport os",
            "\x0c\nimport os",
            "x\u2028import os",
            "\\",
            "@@STEP@@",
            "{0.__class__}",
        ]
    )
)
def test_no_text_of_a_bundle_becomes_code(text: str) -> None:
    code = bundle_training_code(renamed(text), text, fc.CenteredEP(), BLOCKS)
    assert skeleton(code) == EXPECTED
    script = bundle_training_script(renamed(text), text, fc.CenteredEP(), BLOCKS)
    assert [type(n) for n in ast.parse(script).body] == [
        type(n) for n in ast.parse(bundle_training_script(PROGRAM, "Net", fc.CenteredEP(), BLOCKS)).body
    ]


@pytest.mark.parametrize(
    "name", ["import os", "block1; x", "accumulate", "block", "Block1", "block1\n", "digital٣", ""]
)
def test_steps_have_the_compilers_names(name: str) -> None:
    steps = (replace(PROGRAM.steps[0], name=name), *PROGRAM.steps[1:])
    with pytest.raises(InputError, match="has a name that the compiler does not give"):
        bundle_training_code(replace(PROGRAM, steps=steps), "Net", fc.CenteredEP(), BLOCKS)


@pytest.mark.parametrize("estimator", [fc.CenteredEP(), fc.OneSidedEP(sign=-1), fc.TangentEP(), None])
def test_it_says_what_it_does(estimator: Any) -> None:
    code = bundle_training_code(PROGRAM, "Net", estimator, BLOCKS, computes_weights=True)
    compile(code, "code", "exec")
    assert code.index("weights = WeightsStep(model)") < code.index("block1 = EnergyStep")
    assert code.rindex("weights.vjp(error)") > code.rindex("block1")
    assert "torch" not in code.split("def training_step")[1]
    assert ("positive" in code) == isinstance(estimator, (fc.CenteredEP, fc.OneSidedEP))


def test_the_script_in_a_bundle_trains_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    g = np.random.default_rng(0)
    x = g.normal(size=(24, 3)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", (x[:, 0] > 0).astype("int64"))
    bundle = fc.convert(net, block_size=2).compile_to(tmp_path / "bundle", torch.from_numpy(x[:4]))
    data = [
        "--input",
        str(tmp_path / "x.npy"),
        "--target",
        str(tmp_path / "y.npy"),
        "--learning-rate",
        "0.05",
        "--batch-size",
        "7",
    ]
    main = runpy.run_path(str(bundle / "training_loop.py"))["main"]
    assert main([*data, "--epochs", "4", "--out", str(tmp_path / "whole")]) == 0
    with pytest.raises(SystemExit, match="2"):
        main([*data, "--resume"])
    halves = ["--checkpoint", str(tmp_path / "run"), "--out", str(tmp_path / "halves")]
    assert main([*data, *halves, "--epochs", "2"]) == 0
    with pytest.raises(SystemExit, match="2"):
        main([*data, *halves, "--epochs", "4", "--resume"])  # the trained bundle exists
    assert main([*data, *halves, "--epochs", "4", "--resume", "--force"]) == 0
    whole, resumed, before = (runtime.load(p).state_dict() for p in (tmp_path / "whole", tmp_path / "halves", bundle))
    assert all(torch.equal(a, b) for a, b in zip(whole.values(), resumed.values(), strict=True))
    assert not torch.equal(whole["0.weight"], before["0.weight"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match="2"):
        main([*data, "--epochs", "4"])
    assert "without torchrun" in capsys.readouterr().err


@pytest.mark.slow
def test_the_library_does_not_import_onnx() -> None:
    code = (
        "import json, sys, ffebm_compiler; print(json.dumps([m for m in ('onnx', 'onnxruntime', 'jsonschema') "
        "if m in sys.modules]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []
