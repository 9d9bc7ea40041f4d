"""A progress bar around what a suite goes through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

from benchmarks.speed.result import Options

T = TypeVar("T")


def watched(items: Sequence[T], options: Options, describe: Callable[[T], str]) -> Iterator[T]:
    """The items, the present one named beside the bar."""
    with tqdm(total=len(items), leave=False, disable=None if options.progress else True) as bar:
        for item in items:
            bar.set_description(describe(item))
            yield item
            bar.update()
