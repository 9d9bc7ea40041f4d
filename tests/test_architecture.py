"""Dependencies point one way, as ``MAY_SEE`` says; docs/architecture.md draws it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
MAY_SEE: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "tables": set(),
    "figures": {"errors", "files"},
    "nests": set(),
    "quiet": set(),
    "former_names": set(),
    "ir": {"errors"},
    "rules": {"ir"},
    "solve": {"errors", "ir"},
    "estimate": {"errors", "solve"},
    "train": {"errors", "ir", "solve", "estimate"},
    "codegen": {"errors", "ir", "estimate"},
    "passes": {"errors", "nests", "quiet", "ir", "rules", "solve"},
    "compiled": {"ir", "passes"},
    "options": {"errors", "rules", "estimate", "passes", "model"},
    "view": {"errors", "files", "tables", "figures", "ir", "solve", "passes", "compiled"},
    "chip": set(),
    "chip.hardware": {"errors", "files", "ir", "rules"},
    "chip.resistive": {"errors", "ir", "rules", "solve", "chip.hardware"},
    "chip.emulate": {"errors", "files", "ir", "rules", "solve", "estimate", "chip.hardware", "chip.resistive"},
    "chip.spice": {"errors", "files", "ir", "rules", "chip.hardware"},
    "chip.cost": {"errors", "tables", "figures", "ir", "rules", "chip.hardware"},
    "onnx": {"errors", "nests", "quiet", "ir", "solve", "train"},
    "model": {"errors", "nests", "ir", "solve", "estimate", "train", "codegen", "passes", "compiled"},
    "bundle.format": {"errors", "ir", "rules", "solve", "onnx"},
    "bundle.write": {"errors", "files", "ir", "rules", "bundle.format"},
    "bundle.read": {"errors", "ir", "rules", "onnx", "bundle.format", "bundle.write"},
    "bundle.compile": {
        "errors",
        "files",
        "nests",
        "ir",
        "rules",
        "solve",
        "estimate",
        "train",
        "codegen",
        "passes",
        "compiled",
        "view",
        "chip.hardware",
        "chip.resistive",
        "chip.spice",
        "onnx",
        "model",
        "bundle.format",
        "bundle.write",
        "backends",
        "chip.emulate",
    },
    "bundle": {"bundle.format", "bundle.write", "bundle.read"},
    "backends": {
        "tables",
        "errors",
        "files",
        "ir",
        "solve",
        "estimate",
        "train",
        "codegen",
        "passes",
        "chip.hardware",
        "chip.resistive",
        "chip.emulate",
        "chip.spice",
        "chip.cost",
        "onnx",
        "model",
    },
    "chip_doors": {"train", "chip.hardware", "chip.emulate", "chip.cost", "model", "backends"},
    "ffebm": {
        "errors",
        "files",
        "ir",
        "solve",
        "estimate",
        "train",
        "passes",
        "view",
        "chip.hardware",
        "chip.spice",
        "model",
        "backends",
        "bundle.compile",
        "chip_doors",
    },
    "bundle.run": {
        "tables",
        "errors",
        "files",
        "ir",
        "solve",
        "estimate",
        "train",
        "codegen",
        "passes",
        "compiled",
        "chip.hardware",
        "chip.emulate",
        "onnx",
        "model",
        "bundle.format",
        "bundle.write",
        "bundle.read",
        "bundle.compile",
        "backends",
        "ffebm",
    },
    "runtime": {"bundle.run"},
    "study": {"errors", "files", "tables", "figures", "chip.hardware", "compare", "ffebm"},
    "compare": {"errors", "estimate", "view", "model", "ffebm"},
    "api": {
        "errors",
        "ir",
        "rules",
        "solve",
        "estimate",
        "passes",
        "compiled",
        "options",
        "view",
        "model",
        "backends",
        "ffebm",
    },
}
ANYONE = {"torch_private"}
"""What every unit may see, and which sees none."""
NESTED = ("chip", "bundle")
"""Packages whose own packages are units."""
SOLVE_IN_PASSES = {"verify.py"}


def module_of(path: Path) -> list[str]:
    """A file's dotted name below the package, as parts: ``["chip", "spice", "netlist"]``."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    inner = parts[1:] if parts[0] == "ffebm_compiler" else parts
    return inner[:-1] if inner[-1] == "__init__" and len(inner) > 1 else inner


def unit_of(module: list[str]) -> str:
    """The package or module that a dotted name belongs to: two levels where a package has units of its own."""
    return ".".join(module[:2]) if module[0] in NESTED and len(module) > 1 and is_package(module[:2]) else module[0]


def is_package(module: list[str]) -> bool:
    return ROOT.joinpath("ffebm_compiler", *module).is_dir()


def imported_units(path: Path) -> set[str]:
    """The units that a file's relative imports reach, those inside ``if TYPE_CHECKING`` excepted."""
    return {unit_of(name) for name in imports(path, for_types_too=False)} - {unit_of(module_of(path))}


def imports(path: Path, for_types_too: bool) -> Iterator[list[str]]:
    """What a file's relative imports name, wherever they stand."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(n)
        for t in ast.walk(tree)
        if isinstance(t, ast.If) and "TYPE_CHECKING" in ast.unparse(t.test)
        for n in ast.walk(t)
    }
    here = module_of(path)
    package = here if path.name == "__init__.py" else here[:-1]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node.level == 0 or (id(node) in for_types and not for_types_too):
            continue
        base = package[: len(package) - (node.level - 1)] + (node.module.split(".") if node.module else [])
        yield from ([*base, name.name] for name in node.names)


def sources() -> list[Path]:
    files = [*(ROOT / "passes").rglob("*.py"), *(ROOT / "backends").rglob("*.py")]
    for inner in (ROOT / "ffebm_compiler").iterdir():
        if not inner.is_symlink():
            files += inner.rglob("*.py") if inner.is_dir() else [inner] if inner.suffix == ".py" else []
    return sorted(files)


@pytest.mark.slow
@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_sees_only_what_is_below_it(path: Path) -> None:
    unit = unit_of(module_of(path))
    if unit in ANYONE:
        assert not imported_units(path)
        return
    if unit not in MAY_SEE:  # __init__ and the command line stand above everything
        assert unit in ("__init__", "cli", "__main__")
        return
    seen = imported_units(path) & set(MAY_SEE)
    if unit == "passes" and path.name not in {*SOLVE_IN_PASSES, "__init__.py"}:
        seen |= {"forbidden: solve"} if "solve" in seen else set()
    assert seen <= MAY_SEE[unit]


@pytest.mark.slow
def test_nothing_is_allowed_that_nobody_needs() -> None:
    needed: dict[str, set[str]] = {}
    for path in sources():
        needed.setdefault(unit_of(module_of(path)), set()).update(imported_units(path) & set(MAY_SEE))
    assert {unit: needed[unit] for unit in MAY_SEE} == MAY_SEE


def private_names(path: Path) -> set[str]:
    """The private names of PyTorch that a file spells, in full: ``torch._ops.OpOverload``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    full: dict[str, str] = {}  # what a name of this file stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full |= {a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            full |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    spelled = set(full.values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.fullmatch(r"\w+(\.\w+)+", text := ast.unparse(node)):
            first, _, rest = text.partition(".")
            spelled.add(f"{full.get(first, first)}.{rest}")
    private = {name for name in map(upto_private, spelled) if name}
    return {name for name in private if not any(other.startswith(name + ".") for other in private)}


def upto_private(name: str) -> str:
    """``torch._ops.OpOverload`` of that or of its attributes; empty for a public name, or one that isn't of torch."""
    parts = name.split(".")
    private = [i for i, p in enumerate(parts) if p.startswith("_") and not p.startswith("__")]
    return ".".join(parts[: private[-1] + 2]) if parts[0] == "torch" and private else ""


@pytest.mark.slow
def test_each_private_name_of_torch_is_spelled_in_one_module() -> None:
    spelled: dict[str, set[str]] = {}
    for path in sources():
        for name in private_names(path):
            spelled.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    assert {name: places for name, places in spelled.items() if len(places) > 1} == {}


def test_the_check_sees_a_private_name(tmp_path: Path) -> None:
    path = tmp_path / "uses.py"
    path.write_text(
        "import torch\nfrom torch import nn\nfrom torch._ops import OpOverload as O\n"
        "torch._C._set(1), nn.modules.batchnorm._BatchNorm.x, O.name, self._of, torch.nn.Linear.__init__\n"
    )
    assert private_names(path) == {"torch._ops.OpOverload", "torch._C._set", "torch.nn.modules.batchnorm._BatchNorm.x"}


@pytest.mark.parametrize("what", ["units", "files"])
def test_there_is_no_circle(what: str) -> None:
    """Imports inside of functions, and those for types alone, are edges too."""
    files = {".".join(module_of(path)): path for path in sources()}
    graph = nx.DiGraph()
    for name, path in files.items():
        for reached in imports(path, for_types_too=True):
            file = next((n for n in (".".join(reached), ".".join(reached[:-1])) if n in files), None)
            if file is not None and what == "files":
                graph.add_edge(name, file)
            elif what == "units":
                graph.add_edge(unit_of(module_of(path)), unit_of(reached))
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    circles = [sorted(c) for c in nx.strongly_connected_components(graph) if len(c) > 1]
    assert not circles


def test_the_check_sees_an_import(tmp_path: Path) -> None:
    assert imported_units(ROOT / "passes" / "verify.py") == {"errors", "ir", "solve"}
    assert "backends" in imported_units(ROOT / "ffebm_compiler" / "api.py")


def test_nobody_prints_or_seeds_globally() -> None:
    """The library logs, and leaves the global random state alone (the gradient comparison forks it)."""
    for path in sources():
        if unit_of(module_of(path)) in ("cli", "__main__"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called != "print", path
                assert (
                    called not in ("torch.manual_seed", "np.random.seed", "random.seed") or path.name == "compare.py"
                ), path


@pytest.mark.slow
def test_nobody_imports_passes_or_backends_bare() -> None:
    for path in [
        *sources(),
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "examples").rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*.py"),
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and node.level == 0
                else []
            )
            assert not [n for n in names if n.split(".")[0] in ("passes", "backends")], path
