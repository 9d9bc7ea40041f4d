"""Modules that have moved are found by the names that they had: the same objects, with a word."""

from __future__ import annotations

import importlib
import sys

import pytest

import ffebm_compiler as fc
from ffebm_compiler.former_names import FACED, MOVED, PACKAGE, present_name


@pytest.mark.parametrize("former", [*MOVED, "hardware.presets", "spice.ngspice", "export.parts"])
def test_a_former_name_is_the_module_of_today(former: str) -> None:
    name = f"{PACKAGE}.{former}"
    sys.modules.pop(name, None)
    with pytest.warns(DeprecationWarning, match=rf"{name} is {present_name(name)} now"):
        module = importlib.import_module(name)
    assert module is importlib.import_module(present_name(name) or "")


def test_classes_are_the_same_by_either_name() -> None:
    sys.modules.pop("ffebm_compiler.hardware", None)
    with pytest.warns(DeprecationWarning, match="chip.hardware"):
        module = importlib.import_module("ffebm_compiler.hardware")
    assert module.Hardware is fc.Hardware


def test_the_runtime_keeps_its_name() -> None:
    from ffebm_compiler import runtime
    from ffebm_compiler.bundle.run import steps

    assert importlib.import_module("ffebm_compiler.runtime.steps") is steps
    assert runtime.load is importlib.import_module(f"{PACKAGE}.{FACED['runtime']}").load


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["ffebm_compiler.hardwear", "ffebm_compiler.spice.typo", "hardware.presets"])
def test_no_other_name_is_found(name: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)
