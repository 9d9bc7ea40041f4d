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
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

OFF = "FFEBM_GUARD_OFF"
"""The environment variable that tells the plugin of a test run which guard to switch off."""


def _nothing(*given: Any, **named: Any) -> tuple[()]:
    return ()


def _no_list(*given: Any, **named: Any) -> list[Any]:
    return []


def _zero(*given: Any, **named: Any) -> float:
    return 0.0


def _none(*given: Any, **named: Any) -> None:
    return None


def _yes(*given: Any, **named: Any) -> bool:
    return True


def _no(*given: Any, **named: Any) -> bool:
    return False


def _first(value: Any, *given: Any, **named: Any) -> Any:
    return value


def _second(first: Any, value: Any, *given: Any, **named: Any) -> Any:
    return value


def _run(trace: Callable[[], Any], *given: Any, **named: Any) -> Any:
    return trace()


def _dispatched(self: Any, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    return function(*args, **(kwargs or {}))


def _left_behind(network: Any) -> Any:
    from ffebm_compiler.passes import State

    return nullcontext(State(network))


def _plain_code(function: Any) -> Any:
    return function.__code__


def _unsettled(self: Any, residual: float) -> float:
    return float("inf")


def _gains_at_first(self: Any, key: Any, *given: Any) -> Any:
    return self.followed[key] if key in self.followed else self.followed.setdefault(key, self._converge(key, *given))


def _one_sample(example: Any) -> Any:
    import torch

    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda v: v[:1] if v.dim() else v, example)


@dataclass(frozen=True)
class Guard:
    """What notices something, what stands in for it when it is blind, and the tests that must miss it.

    Attributes:
        place: ``module:name`` or ``module:class.name``, within ffebm_compiler.
        blind: what takes its place: a function, or the value of a bound that is never reached.
        tests: arguments of pytest.
    """

    place: str
    blind: Any
    tests: tuple[str, ...]

    def switch_off(self) -> None:
        setattr(*self.found(), self.blind)

    def found(self) -> tuple[Any, str]:
        """What has the function or bound, and its name there."""
        module, _, path = self.place.partition(":")
        importlib.import_module(f"ffebm_compiler.{module}")
        owner: Any = sys.modules[f"ffebm_compiler.{module}"]  # a package may have a function of the module's name
        *outer, name = path.split(".")
        for step in outer:
            owner = getattr(owner, step)
        assert hasattr(owner, name), f"there is no {self.place}"
        return owner, name


_COMPARED, _VERIFIED, _ENERGIES, _WATCHED, _CALLED, _DERIVED = (
    ("tests/model/test_comparison.py",),
    ("tests/model/test_verification.py",),
    ("tests/passes/test_verify.py",),
    ("tests/model/test_watch.py",),
    ("tests/passes/test_calling.py",),
    ("tests/train/test_first_derivatives.py",),
)
_ASKED, _EXPORTED, _MADE = (
    ("tests/passes/test_questions.py",),
    ("tests/passes/test_assigned_buffers.py",),
    ("tests/passes/test_made_tensors.py",),
)
GUARDS: dict[str, Guard] = {
    # the check: what is compared
    "results": Guard("model.comparison:_results", _nothing, _COMPARED),
    "gradients": Guard("model.comparison:_gradients", _nothing, _COMPARED),
    "parameters and buffers": Guard("model.comparison:_registered", _nothing, _COMPARED),
    "attributes": Guard("model.comparison:_attributes", _nothing, _COMPARED),
    "draws": Guard("model.comparison:_draws", _nothing, _COMPARED),
    "the first input": Guard("model.first_use:FirstUse.call", _none, _VERIFIED),
    "the check at conversion": Guard("api:verify_early", _none, _VERIFIED),
    "two samples": Guard("model.verification:first_samples", _one_sample, _VERIFIED),
    "roundings": Guard("model.verification:_is_rounding", _yes, _VERIFIED),
    "transposes": Guard("train.without_feedback:_apart", _zero, _VERIFIED),
    "stationarity": Guard("passes.verify:_stationarity", _zero, _ENERGIES),
    "equilibrium": Guard("passes.verify:_gradient", _zero, _ENERGIES),
    "increments": Guard("passes.verify:_increments", _zero, _ENERGIES),
    "inverse": Guard("passes.verify:_inverse", _zero, _ENERGIES),
    # the check: that it leaves no trace
    "weights that a run writes": Guard(
        "passes.tracing.copy_on_write:_CopyOnWrite.keep", _none, ("tests/passes/test_copy_on_write.py",)
    ),
    "state that a run writes": Guard("model.observation:only_looking", _left_behind, _VERIFIED),
    # what is looked at in every call
    "changes after conversion": Guard("model.unchanged:Seen.still", _yes, _WATCHED),
    "hooks": Guard("model.changes:_hooked", _nothing, _WATCHED),
    "changes of the original": Guard("model.original:Original.require_unchanged", _none, _WATCHED),
    "weights that moved": Guard("model.gain_store:Measured.is_of", _yes, ("tests/model/test_weights_seen.py",)),
    "weights that train": Guard(
        "model.gain_store:GainStore._follow", _gains_at_first, ("tests/model/test_weights_seen.py",)
    ),
    "norms that jump": Guard("solve.gain_following:JUMP", 50.0, ("tests/solve/test_loop_gain.py",)),
    "states that repeat": Guard("solve.iteration:_Repeating.__call__", _unsettled, ("tests/solve/test_stall.py",)),
    "types and sizes of arguments": Guard("passes.calling:_tensor_problems", _nothing, _CALLED),
    "values that choose": Guard("passes.calling:_same", _yes, _CALLED),
    "sizes": Guard("passes.calling:CallForm._other_sizes", _no_list, ("tests/passes/test_size_choices.py",)),
    "questions of sizes": Guard("passes.export.asked_sizes:_choices", _nothing, ("tests/passes/test_size_choices.py",)),
    # what tracing would lose
    "what a model keeps": Guard(
        "passes.tracing.state:State.changes", lambda self: {}, ("tests/passes/test_whole_calls.py",)
    ),
    "state that is read": Guard(
        "passes.tracing.whole_calls:held_back", lambda *given: nullcontext(), ("tests/passes/test_whole_calls.py",)
    ),
    "assigned buffers": Guard("passes.export.forward_watch:Registered.write", _none, _EXPORTED),
    "attributes that export puts back": Guard(
        "passes.export.export_trace:no_attribute_written", lambda network: nullcontext(), _EXPORTED
    ),
    "data of tensors": Guard("passes.export.forward_watch:TensorReads._write", _none, _EXPORTED),
    "calls before an export": Guard("passes.export.export_trace:_are_alike", _yes, _EXPORTED),
    "torch's draws": Guard(
        "passes.tracing.draws:NoDraws.__torch_dispatch__", _dispatched, ("tests/passes/test_draws.py",)
    ),
    "generators": Guard("passes.trace:without_draws", _run, ("tests/passes/test_draws.py",)),
    "constants that are written": Guard("passes.tracing.made_tensors:MadeTensors.check_constants", _none, _MADE),
    "tensors that a forward makes": Guard("passes.tracing.made_tensors:MadeTensors._check", _none, _MADE),
    "regions without gradients": Guard(
        "passes.tracing.symbolic_trace:check_regions", _none, ("tests/passes/test_history.py",)
    ),
    "history that is cut": Guard("passes.canonicalize:cut_history", _none, ("tests/passes/test_history.py",)),
    "autocast of the model's own": Guard(
        "passes.canonicalize:keep_autocast", _none, ("tests/passes/test_mixed_precision.py",)
    ),
    "views that are read again": Guard(
        "passes.graph.in_place:_Memory.is_read_through_a_view", _no, ("tests/passes/test_in_place.py",)
    ),
    "arguments that are written": Guard(
        "passes.graph.in_place:_check_argument", _none, ("tests/passes/test_written_arguments.py",)
    ),
    "containers of the caller": Guard(
        "passes.tracing.whole_calls:_containers", _nothing, ("tests/passes/test_written_arguments.py",)
    ),
    "buffers that are overwritten": Guard(
        "passes.canonicalize:_unless_overwritten", _first, ("tests/passes/test_written_buffers.py",)
    ),
    "the order of draws": Guard("passes.canonicalize:_in_order", _first, ("tests/passes/test_drawing_order.py",)),
    "questions of a forward": Guard("passes.tracing.questions:Asked.lose", _none, _ASKED),
    "calls that are not recorded": Guard("passes.tracing.questions:Asked.check", _none, _ASKED),
    "what an export bakes in": Guard("passes.export.forward_watch:TensorReads._check", _none, _ASKED),
    "statistics of norms": Guard(
        "passes.norm_statistics:Statistics.known", property(_yes), ("tests/passes/test_norms.py",)
    ),
    # errors that name what is the user's own
    "the user's line": Guard("passes.users_code:_own_code", _plain_code, ("tests/passes/test_draws.py",)),
    "names in choices": Guard("api:check_choices", _none, ("tests/passes/test_choices.py",)),
    "what a rule leaves out": Guard("passes.canonicalize:_of_own_rule", _second, ("tests/passes/test_own_rules.py",)),
    "second derivatives": Guard("train.operator:once", lambda block, found, origins: tuple(found), _DERIVED),
    "transforms of torch.func": Guard("model.runner:refuse_transforms", _none, _DERIVED),
    "forward mode": Guard("model.runner:refuse_forward_mode", _none, _DERIVED),
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
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="at a time (2)")
    options = parser.parse_args(argv)
    names = options.only.split(",") if options.only else list(GUARDS)
    unknown = [n for n in names if n not in GUARDS]
    if unknown:
        parser.error(f"there is no guard {unknown[0]!r}; choose of {', '.join(GUARDS)}")
    with ThreadPoolExecutor(options.processes) as pool:  # each waits for a process of its own
        survived = list(tqdm(pool.map(survives, names), total=len(names), unit="guard", file=sys.stderr))
    left = [name for name, found in zip(names, survived, strict=True) if found]
    for name in left:
        print(f"no test misses: {name}")
    print(f"{len(names) - len(left)} of {len(names)} guards are missed by a test when they are switched off")
    return int(bool(left))


if __name__ == "__main__":
    sys.exit(main())
