"""Switches off each guard against silent faults in turn: a test must fail each time.

python -m benchmarks.guards
python -m benchmarks.guards --only draws,hooks
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

OFF = "FFEBM_GUARD_OFF"
"""The environment variable that tells the plugin of a test run which guard to switch off."""


def _nothing(*given: Any, **named: Any) -> tuple[()]:
    return ()


def _zero(*given: Any, **named: Any) -> float:
    return 0.0


def _none(*given: Any, **named: Any) -> None:
    return None


def _yes(*given: Any, **named: Any) -> bool:
    return True


@dataclass(frozen=True)
class Guard:
    """A function that notices something, what it returns when it is blind, and the tests that must miss it.

    Attributes:
        place: ``module:name`` or ``module:class.name``, within ffebm_compiler.
        blind: what takes its place.
        tests: arguments of pytest.
    """

    place: str
    blind: Callable[..., Any]
    tests: tuple[str, ...]

    def switch_off(self) -> None:
        module, _, path = self.place.partition(":")
        importlib.import_module(f"ffebm_compiler.{module}")
        owner: Any = sys.modules[f"ffebm_compiler.{module}"]  # a package may have a function of the module's name
        *outer, name = path.split(".")
        for step in outer:
            owner = getattr(owner, step)
        assert hasattr(owner, name), f"there is no {self.place}"
        setattr(owner, name, self.blind)


_COMPARED, _VERIFIED, _ENERGIES = (
    ("tests/backends/test_comparison.py",),
    ("tests/backends/test_verification.py",),
    ("tests/passes/test_verify.py",),
)
GUARDS: dict[str, Guard] = {
    "results": Guard("backends.comparison:_results", _nothing, _COMPARED),
    "gradients": Guard("backends.comparison:_gradients", _nothing, _COMPARED),
    "parameters and buffers": Guard("backends.comparison:_registered", _nothing, _COMPARED),
    "attributes": Guard("backends.comparison:_attributes", _nothing, _COMPARED),
    "draws": Guard("backends.comparison:_draws", _nothing, _COMPARED),
    "the first input": Guard("backends.torch_ep:FFEBM._compare_once", _none, _VERIFIED),
    "the check at conversion": Guard("api:verify_early", _none, _VERIFIED),
    "transposes": Guard("train.without_feedback:_apart", _zero, _VERIFIED),
    "stationarity": Guard("passes.verify:_stationarity", _zero, _ENERGIES),
    "equilibrium": Guard("passes.verify:_gradient", _zero, _ENERGIES),
    "increments": Guard("passes.verify:_increments", _zero, _ENERGIES),
    "inverse": Guard("passes.verify:_inverse", _zero, _ENERGIES),
    "changes after conversion": Guard("backends.watch:Seen.still", _yes, ("tests/backends/test_watch.py",)),
    "hooks": Guard("backends.watch:_hooked", _nothing, ("tests/backends/test_watch.py",)),
    "weights that moved": Guard("backends.gain_store:Measured.is_of", _yes, ("tests/backends/test_weights_seen.py",)),
    "what a model keeps": Guard("passes.state:State.changes", lambda self: {}, ("tests/passes/test_whole_calls.py",)),
    "statistics of norms": Guard(
        "passes.norm_statistics:Statistics.known", property(_yes), ("tests/passes/test_norms.py",)
    ),
    "names in choices": Guard("api:check_choices", _none, ("tests/passes/test_choices.py",)),
}


def pytest_configure(config: Any) -> None:
    """As a plugin of pytest: switches one guard off before any test is read."""
    GUARDS[os.environ[OFF]].switch_off()


def survives(name: str) -> bool:
    """Whether all tests pass without the guard."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "benchmarks.guards"]
    environment = {**os.environ, OFF: name}
    done = subprocess.run([*command, *GUARDS[name].tests], env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"the tests without {name} did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.guards", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="NAME,...", help=f"some of them: {', '.join(GUARDS)}")
    options = parser.parse_args(argv)
    names = options.only.split(",") if options.only else list(GUARDS)
    unknown = [n for n in names if n not in GUARDS]
    if unknown:
        parser.error(f"there is no guard {unknown[0]!r}; choose of {', '.join(GUARDS)}")
    left = [name for name in tqdm(names, unit="guard", file=sys.stderr) if survives(name)]
    for name in left:
        print(f"no test misses: {name}")
    print(f"{len(names) - len(left)} of {len(names)} guards are missed by a test when they are switched off")
    return int(bool(left))


if __name__ == "__main__":
    sys.exit(main())
