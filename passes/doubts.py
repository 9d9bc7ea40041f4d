"""What a conversion does as it was asked to, though it may not be what was meant: each said once, in a sentence
with its remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import nn

from ..ir import Program
from ..rules import Rule, Rules
from .canonicalize import Canonical
from .naming import function_name
from .norm_statistics import Statistics, statistics_of


def norm_doubts(programs: Iterable[Program], network: nn.Module) -> Iterator[str]:
    """Norms that are held at statistics which say little of their inputs."""
    found: dict[Statistics, dict[str, None]] = {}
    for block in (b for program in programs for b in program.energy_blocks):
        held = {o.label for o in block.held_norms}
        for term in (t for s in block.states for t in s.drive.terms if t.origin.label in held):
            known = statistics_of(term.operation, term.operands, network)
            if known is not None and known.few:
                found.setdefault(known, {})[term.origin.label] = None
    for statistics, labels in found.items():
        yield (
            f"The batch norm {', '.join(labels)} is held at {statistics}: it hardly normalises, and takes no statistics while "
            "training. Convert after training, or give norm='split'."
        )


def rule_doubts(canonicals: Sequence[Canonical], rules: Rules) -> Iterator[str]:
    """Rules of the user's that matched no call, in training or in evaluation."""
    matched = {id(rule) for canonical in canonicals for rule in canonical.matched}
    for rule in rules.own:
        if id(rule) not in matched:
            yield f"The rule {rule.name!r} for {_spellings(rule)} matched no call of the model. {_why(rule, canonicals)}"


def _spellings(rule: Rule) -> str:
    """What a rule is to match."""
    names = [
        *(kind.__name__ for kind in rule.modules),
        *(f"{function_name(function)}()" for function in rule.functions),
        *(f".{method}()" for method in rule.methods),
    ]
    return ", ".join(names) or "nothing"


def _why(rule: Rule, canonicals: Sequence[Canonical]) -> str:
    """What kept it from matching, as far as that shows."""
    network = canonicals[0].network
    for path, module in network.named_modules():
        for kind in (k for k in rule.modules if isinstance(module, k)):
            if "forward" in vars(module) or type(module).forward is not kind.forward:
                name = f"{type(module).__name__} {path!r}" if path else type(module).__name__
                return f"{name} has a forward of its own, and so computes something else: name its class in modules=."
            if all(path not in c.called for c in canonicals):
                return f"{path!r} is a {kind.__name__}, but is never called on its own."
            return (
                f"Another rule reads {path!r}." if not _opened(canonicals) else f"{path!r} was opened by torch.export."
            )
    if rule.functions and _opened(canonicals):
        return "torch.export opens functions to operations of torch.ops.aten: name those in functions=, or a module's class in modules=."
    if rule.functions:
        return "torch.fx traces through a function unless it is decorated with torch.fx.wrap."
    return "The model has no such layer."


def _opened(canonicals: Sequence[Canonical]) -> bool:
    return any(c.traced.tracer == "torch.export" for c in canonicals)
