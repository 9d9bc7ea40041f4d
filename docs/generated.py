"""What the generators of pages share: a part of a page between two marks, written or checked."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def between(text: str, begin: str, end: str, fresh: str) -> str:
    """The text with what stands between two marks replaced."""
    head, rest = text.split(begin, 1)
    return head + begin + fresh + end + rest.split(end, 1)[1]


def run(description: str | None, page: Path, rewritten: Callable[[str], str]) -> int:
    """Rewrites a page, or with ``--check`` says by the exit status whether that would change it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    check = parser.parse_args().check
    old = page.read_text(encoding="utf-8")
    new = rewritten(old)
    if check:
        return int(old != new)
    page.write_text(new, encoding="utf-8")
    return 0
