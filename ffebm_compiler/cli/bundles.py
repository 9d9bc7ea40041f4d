"""``ffebm inspect`` and ``ffebm verify``: what a bundle holds, and whether it is right."""

from __future__ import annotations

import argparse
import json


def inspect_bundle(options: argparse.Namespace) -> int:
    from ..bundle import inspect

    found = inspect(options.bundle)
    print(json.dumps(found.to_dict(), indent=2) if options.json else found.text())
    return 0


def verify_bundle(options: argparse.Namespace) -> int:
    """Exit status 1 if a check fails."""
    from ..bundle.run.verify import verify

    found = verify(options.bundle)
    print(json.dumps(found.to_dict(), indent=2) if options.json else found.text())
    return 0 if found.ok else 1
