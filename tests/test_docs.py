"""The README and the docs are true: their code runs, their table is the rules', their links lead somewhere."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from torch import nn

import ffebm_compiler

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page, in order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": page.stem}
    with warnings.catch_warnings():
        warnings.simplefilter("error", ffebm_compiler.ConvergenceWarning)
        for block in blocks(page):
            exec(compile(block, str(page), "exec"), namespace)


def test_the_readme_and_the_operations_page_have_code() -> None:
    assert blocks(ROOT / "README.md")
    assert blocks(ROOT / "docs" / "operations.md")


@pytest.mark.slow
@pytest.mark.parametrize("generator", ["generate_operations.py", "generate_hardware.py", "generate_api.py"])
def test_the_generated_tables_are_what_the_code_says(generator: str) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs" / generator), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"run python docs/{generator}" + done.stderr


def test_the_api_page_has_every_public_name_and_no_other() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    sections = re.split(r"^## `([\w.]+)`$", page, flags=re.MULTILINE)[1:]
    shown = {
        m: re.findall(r"^### `(\w+)`$", t, re.MULTILINE) for m, t in zip(sections[::2], sections[1::2], strict=True)
    }
    assert shown == {m: sorted(importlib.import_module(m).__all__, key=str.lower) for m in shown}
    assert {"ffebm_compiler", "ffebm_compiler.rules", "ffebm_compiler.runtime"} <= set(shown)


@pytest.mark.parametrize("facade", ["FFEBM", "AnalogFFEBM"])
def test_the_api_page_has_what_users_call_on_a_model(facade: str) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    entry, *_ = re.findall(rf"^### `{facade}`$(.*?)^###? ", page, re.MULTILINE | re.DOTALL)
    public = {n for n in vars(getattr(ffebm_compiler, facade)) if not n.startswith("_")}
    listed = set(re.findall(r"^- `\.(\w+)", entry, re.MULTILINE))
    assert public - set(dir(nn.Module)) <= listed


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_name_files_that_exist(page: Path) -> None:
    for script in re.findall(r"python ((?:examples|benchmarks|docs)/\w+\.py)", page.read_text(encoding="utf-8")):
        assert (ROOT / script).exists(), script


def test_the_package_docstring_runs() -> None:
    import doctest

    assert doctest.testmod(ffebm_compiler).failed == 0


def test_the_map_of_the_code_names_files_that_are_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = page.partition("## Where to change what")[2].partition("\n## ")[0].splitlines()
    named = 0
    for cell in (c for row in rows for c in row.split("|")):
        folder = Path()
        for path in re.findall(r"`([\w/]+(?:\.(?:py|json|schema))*/?)`", cell):
            folder = Path(path).parent if "/" in path else folder  # a bare name stands beside the one before it
            place = Path(path) if "/" in path else folder / path
            assert (ROOT / "ffebm_compiler" / place).exists() or (ROOT / place).exists(), path
            named += 1
    assert named > 25
