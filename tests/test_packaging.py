"""The package on disk is the package that is built."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_on_disk_is_listed() -> None:
    homes = {
        "ffebm_compiler": ROOT / "ffebm_compiler",
        "ffebm_compiler.passes": ROOT / "passes",
        "ffebm_compiler.backends": ROOT / "backends",
    }
    found = set()
    for name, home in homes.items():
        for init in home.rglob("__init__.py"):
            inner = init.parent.relative_to(home).parts
            if not any((home / Path(*inner[: i + 1])).is_symlink() for i in range(len(inner))):
                found.add(".".join([name, *inner]))
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_passes_and_backends_are_subpackages() -> None:
    for name in ("passes", "backends"):
        module = importlib.import_module(f"ffebm_compiler.{name}")
        assert Path(module.__file__ or "").resolve().parent == ROOT / name


def test_one_version() -> None:
    assert (
        importlib.import_module("ffebm_compiler").__version__
        == PROJECT["project"]["version"]
        == importlib.metadata.version("ffebm_compiler")
    )


def test_the_command_line_is_installed() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts")
    assert [s.load().__module__.startswith("ffebm_compiler.cli") for s in scripts if s.name == "ffebm"] == [True]


def test_top_level() -> None:
    for name in (
        "ffebm_compiler",
        "passes",
        "backends",
        "examples",
        "tests",
        "benchmarks",
        "docs",
        "pyproject.toml",
        "README.md",
        ".ci/run",
        "LICENSE",
    ):
        assert (ROOT / name).exists(), name
