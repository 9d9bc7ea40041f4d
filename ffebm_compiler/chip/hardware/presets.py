"""The hardware that somebody asks for: a chip by name, a file, or a specification."""

from __future__ import annotations

import os

from ...errors import OptionError, close_matches
from .documents import read_hardware
from .preset_tables import PRESETS, SOURCES
from .specification import Hardware


def preset(name_or_hardware: str | os.PathLike[str] | Hardware) -> Hardware:
    """A chip by the name of a preset, by the path of a .toml or .json file, or as it is.

    Raises:
        OptionError: no such preset or file, or a file that can't be used.
    """
    if isinstance(name_or_hardware, Hardware):
        return name_or_hardware
    if isinstance(name_or_hardware, str) and name_or_hardware in PRESETS:
        return PRESETS[name_or_hardware]
    if isinstance(name_or_hardware, (str, os.PathLike)) and os.fspath(name_or_hardware).endswith((".toml", ".json")):
        return read_hardware(name_or_hardware)
    known = name_or_hardware if isinstance(name_or_hardware, str) else ""
    raise OptionError.at(
        "option hardware",
        f"is {name_or_hardware!r}: neither a preset, nor a .toml or .json file, nor a Hardware",
        close_matches(known, list(PRESETS)),
    )


__all__ = ["PRESETS", "SOURCES", "preset"]
