"""The error of what tracing can't keep."""

from __future__ import annotations

import pickle

from ffebm_compiler.errors import Problem, TraceError
from ffebm_compiler.passes.refusals import LosesMeaning


def test_it_travels_with_its_module() -> None:
    error = LosesMeaning(Problem("model.py:3", "asks for the mode of its caller", "Keep it whole."), "body.gate")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, TraceError)
    assert (again.path, again.problems, str(again)) == (error.path, error.problems, str(error))
