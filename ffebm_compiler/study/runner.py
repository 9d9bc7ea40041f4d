"""Runs the points of a study that have no result yet, in this process or in several.

Processes are spawned, not forked, and get their share of the cores; only this one writes, a record the moment it is
there. A point that fails is recorded with its reason; if the first points all fail for the same reason, so will the
others, and the study stops.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import torch

from ..chip.hardware import Hardware
from ..errors import FFEBMError, OptionError
from .evaluate import Bench, Effort, Subject
from .point import Point, Record
from .records import Folder

logger = logging.getLogger(__name__)

HOPELESS = 3
"""The study stops if so many points fail alike before any succeeds."""


@dataclass(frozen=True)
class Study:
    """What every process needs to know; it pickles.

    Attributes:
        subject: the model and its data.
        base: the chip that settings change.
        effort: how much is measured.
        fingerprint: of weights and data, which every process must find the same.
    """

    subject: Subject
    base: Hardware
    effort: Effort
    fingerprint: Mapping[str, str]

    def bench(self) -> Bench:
        """The measuring bench.

        Raises:
            OptionError: the model or the data are not what the study began with.
        """
        bench = Bench(self.subject, self.base, self.effort)
        fingerprint = bench.fingerprint()
        for what, wanted in self.fingerprint.items():
            if fingerprint[what] != wanted:
                raise OptionError.at(
                    what,
                    "are others each time they are made",
                    "Let the factory make the same ones every time: seed its random numbers, or save them to a file.",
                )
        return bench


def run(
    study: Study,
    folder: Folder,
    points: Iterable[Point],
    jobs: int,
    done: Callable[[Record], None] = lambda record: None,
) -> None:
    """Measures every point that the folder has no result of, and writes each as it is done.

    Args:
        done: called with every record.

    Raises:
        FFEBMError: the first points all failed for the same reason, or a process died.
    """
    left, failures, hopeful = folder.left(points), list[str](), any(r.error is None for r in folder.records.values())
    results = _parallel(study, left, jobs) if jobs > 1 and len(left) > 1 else _serial(study, left)
    with contextlib.closing(results):
        for record in results:
            folder.append(record)
            done(record)
            hopeful = hopeful or record.error is None
            failures += [record.error] if record.error is not None else []
            if not hopeful and len(failures) >= min(HOPELESS, len(left)) and len(set(failures)) == 1:
                raise FFEBMError.at(
                    f"study {folder.path}",
                    f"the first {len(failures)} points all failed: {failures[0]}",
                    "Remove the cause, then run the same command again; -v shows where a point failed.",
                )


def _measured(bench: Bench, point: Point) -> Record:
    try:
        return Record(point, bench.measure(point))
    except Exception as failure:  # the user's model and an extreme chip may raise anything
        logger.info("%s failed:\n%s", point.key, traceback.format_exc())
        return Record(point, {}, _one_line(failure))


def _one_line(failure: Exception) -> str:
    text = " ".join(str(failure).split())
    return text if isinstance(failure, FFEBMError) else f"{type(failure).__name__}: {text}"


def _serial(study: Study, points: Sequence[Point]) -> Generator[Record, None, None]:
    bench = study.bench()
    yield from (_measured(bench, point) for point in points)


# --- several processes ------------------------------------------------------------------------------------


def _parallel(study: Study, points: Sequence[Point], jobs: int) -> Generator[Record, None, None]:
    context, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    jobs = min(jobs, len(points))
    threads = max(1, (os.cpu_count() or 1) // jobs)
    executor = ProcessPoolExecutor(jobs, context, _start, (study, threads, logger.getEffectiveLevel()))
    try:
        with _deaf_to_interrupts(), _threads_of_children(threads):
            futures = [executor.submit(_work, point) for point in points]
        for future in as_completed(futures):
            yield future.result()
        executor.shutdown()
    except BrokenProcessPool as failure:
        raise FFEBMError.at(
            "study",
            "a process ended without a word, perhaps for lack of memory",
            "Run the same command again with fewer --jobs: it goes on where this one stopped.",
        ) from failure
    finally:  # after an interrupt nobody waits for the points under way
        executor.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()


_STUDY: Study | None = None
_BENCH: Bench | None = None
"""Of a child process, which does nothing else."""


def _start(study: Study, threads: int, level: int) -> None:
    global _STUDY
    _STUDY = study
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its children
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    torch.set_num_threads(threads)
    if level <= logging.INFO:
        logging.basicConfig(level=logging.WARNING)
        logging.getLogger(__package__).setLevel(level)


def _leave_with_the_parent() -> None:
    """A parent that was killed can't end its children, which would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(point: Point) -> Record:
    global _BENCH
    assert _STUDY is not None
    if _BENCH is None:
        _BENCH = _STUDY.bench()
    return _measured(_BENCH, point)


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Children inherit blocked signals while they start, when they can't yet ignore one by themselves."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _threads_of_children(threads: int) -> Iterator[None]:
    """OpenMP and BLAS read their number of threads when they are loaded: children inherit it."""
    wanted = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
