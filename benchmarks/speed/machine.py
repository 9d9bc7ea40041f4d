"""The machine that a figure was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def processor() -> str:
    """The CPU's own name."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        names = [line.partition(":")[2].strip() for line in listing.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def memory() -> float:
    """Of the machine, in GiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)


def machine(device: str) -> dict[str, str]:
    """What the times of a run may depend on, besides versions."""
    return {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory():.0f} GiB",
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "threads": str(torch.get_num_threads()),
        "waiting threads": os.environ.get("OMP_WAIT_POLICY", "spin").lower(),
        "system": platform.platform(),
    }
