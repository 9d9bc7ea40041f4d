"""Dependencies point one way, as ``MAY_SEE`` says; docs/architecture.md draws it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_SEE: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "nests": set(),
    "quiet": set(),
    "ir": {"errors"},
    "rules": {"ir"},
    "solve": {"errors", "ir"},
    "estimate": {"errors", "solve"},
    "train": {"errors", "ir", "solve", "estimate"},
    "passes": {"errors", "nests", "quiet", "ir", "rules", "solve"},
    "compiled": {"ir", "passes"},
    "options": {"errors", "estimate", "passes", "rules", "backends"},
    "view": {"errors", "files", "ir", "solve", "compiled", "passes"},
    "hardware": {"errors", "files", "ir"},
    "resistive": {"errors", "ir", "solve", "hardware"},
    "emulate": {"errors", "files", "ir", "solve", "estimate", "hardware", "resistive"},
    "spice": {"errors", "files", "ir", "hardware"},
    "cost": {"errors", "files", "ir", "hardware"},
    "export": {"errors", "nests", "quiet", "ir", "solve", "train"},
    "bundle": {"errors", "files", "ir", "rules", "solve", "export"},
    "backends": {
        *("errors", "files", "nests", "ir", "rules", "solve", "estimate", "train", "passes", "compiled", "view"),
        *("hardware", "resistive", "emulate", "spice", "cost", "export", "bundle"),
    },
    "runtime": {
        *("errors", "files", "ir", "solve", "estimate", "train", "passes", "compiled"),
        *("hardware", "emulate", "export", "bundle", "backends"),
    },
    "study": {"errors", "files", "hardware", "backends", "compare"},
    "compare": {"errors", "estimate", "backends", "view"},
    "api": {"errors", "ir", "rules", "solve", "estimate", "passes", "compiled", "options", "view", "backends"},
}
SOLVE_IN_PASSES = {"verify.py"}


def unit_of(path: Path) -> str:
    """The package or module that a file belongs to."""
    parts = path.relative_to(ROOT).parts
    inner = parts[1:] if parts[0] == "ffebm_compiler" else parts
    return inner[0].removesuffix(".py")


def imported_units(path: Path) -> set[str]:
    """The units that a file's relative imports reach, those inside ``if TYPE_CHECKING`` excepted."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(n)
        for t in ast.walk(tree)
        if isinstance(t, ast.If) and "TYPE_CHECKING" in ast.unparse(t.test)
        for n in ast.walk(t)
    }
    package = ["ffebm_compiler", *([unit_of(path)] if path.parent != ROOT / "ffebm_compiler" else [])]
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node.level == 0 or id(node) in typing_only:
            continue
        base = package[: len(package) - node.level + 1]
        full = [*base, *(node.module or "").split(".")] if node.module else base
        names = [full[1]] if len(full) > 1 and full[1] else [a.name for a in node.names]
        found |= set(names)
    return found - {unit_of(path)}


def sources() -> list[Path]:
    files = [*(ROOT / "passes").glob("*.py"), *(ROOT / "backends").glob("*.py")]
    for folder, _, names in (
        (p, None, list(p.glob("*.py")))
        for p in (ROOT / "ffebm_compiler").iterdir()
        if p.is_dir() and not p.is_symlink()
    ):
        files += [folder / n.name for n in names]
    return [*files, *(ROOT / "ffebm_compiler").glob("*.py")]


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_sees_only_what_is_below_it(path: Path) -> None:
    unit = unit_of(path)
    if unit not in MAY_SEE:  # __init__ and the command line stand above everything
        assert unit in ("__init__", "cli", "__main__")
        return
    seen = imported_units(path) & set(MAY_SEE)
    if unit == "passes" and path.name not in {*SOLVE_IN_PASSES, "__init__.py"}:
        seen |= {"forbidden: solve"} if "solve" in seen else set()
    assert seen <= MAY_SEE[unit]


def test_nothing_is_allowed_that_nobody_needs() -> None:
    needed: dict[str, set[str]] = {}
    for path in sources():
        needed.setdefault(unit_of(path), set()).update(imported_units(path) & set(MAY_SEE))
    assert {unit: needed[unit] for unit in MAY_SEE} == MAY_SEE


def test_the_check_sees_an_import(tmp_path: Path) -> None:
    assert imported_units(ROOT / "passes" / "verify.py") == {"errors", "ir", "solve"}
    assert "backends" in imported_units(ROOT / "ffebm_compiler" / "api.py")


def test_nobody_prints_or_seeds_globally() -> None:
    """The library logs, and leaves the global random state alone (the gradient comparison forks it)."""
    for path in sources():
        if unit_of(path) in ("cli", "__main__"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called != "print", path
                assert (
                    called not in ("torch.manual_seed", "np.random.seed", "random.seed") or path.name == "compare.py"
                ), path


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
