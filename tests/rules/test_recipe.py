"""The file of docs/operations.md is all that an operation needs: in a copy of the package, nothing else is touched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
USES = """
import pickle

import torch
from torch import nn

import ffebm_compiler as fc
from ffebm_compiler import runtime
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.rules.softsign import SOFTSIGN

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.Softsign(), nn.Linear(8, 4), nn.Softsign(), nn.Linear(4, 3)).eval()
x = torch.randn(4, 6)
model = fc.convert(net, block_size=3)
assert [b.size for b in model.blocks] == [3]

# a bundle
model.compile_to("net.ffebm", (x,))
assert torch.allclose(runtime.load("net.ffebm")(x), model(x), atol=1e-6)

# another process
(block,) = pickle.loads(pickle.dumps(runner_of(model).compiled)).modes[False].program.energy_blocks
assert block.states[0].potential.kind is SOFTSIGN.kind

# a chip and its netlist
chip = model.lower("analog-emu", hardware="rram")
chip.calibrate(x)
chip(x)
(netlist,) = chip.export_spice("netlists", x)
assert "1 + abs(" in netlist.read_text(encoding="utf-8")

# resistors, which refuse it by the layer's name
try:
    model.lower("analog-emu", hardware=fc.Hardware(physics="resistive"))
except fc.FFEBMError as refusal:
    assert "layer 1 (Softsign): ideal diodes make no softsign, only a clip" in str(refusal), refusal
else:
    raise AssertionError("not refused")
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, its tests of rules and its page of operations, and in it the recipe's file."""
    folder = tmp_path_factory.mktemp("copy")
    for part in ("ffebm_compiler", "tests/rules", "docs"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "tests/conftest.py", "tests/chip/spice/test_activations.py"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, folder / file)
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    recipe = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0]
    (folder / "ffebm_compiler" / "rules" / "softsign.py").write_text(recipe, encoding="utf-8")
    return folder


def run(package: Path, *command: str, cwd: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(package), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd or package, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_generic_tests_run_it(package: Path) -> None:
    tests = ("tests/rules", "tests/chip/spice/test_activations.py", "--deselect", "tests/rules/test_recipe.py")
    said = run(package, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", "softsign")
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None, said
    assert int(passed.group(1)) > 20
    assert "skipped" not in said


@pytest.mark.slow
def test_it_is_documented(package: Path) -> None:
    generator = "docs/generate_operations.py"
    run(package, generator)
    assert "| softsign | a / (1 + \\|a\\|) | `nn.Softsign`, `F.softsign` | Σ[−\\|s\\| − log(1−\\|s\\|)] |" in (
        package / "docs" / "operations.md"
    ).read_text(encoding="utf-8")
    run(package, generator, "--check")


@pytest.mark.slow
def test_it_goes_into_bundles_processes_chips_and_netlists(package: Path, tmp_path: Path) -> None:
    run(package, "-c", USES, cwd=tmp_path)
