"""Errors carry problems: one, several, or none."""

from __future__ import annotations

import pickle

import pytest

from ffebm_compiler.errors import InputError, OptionError, Problem, problems_of

ONE, TWO = Problem("a", "is wrong", "Mend it."), Problem("b", "is too", "Mend it as well.")


def test_an_error_of_one_problem() -> None:
    failure = InputError.at("a", "is wrong", "Mend it.")
    assert failure.problems == (ONE,)
    assert pickle.loads(pickle.dumps(failure)).problems == (ONE,)


def test_all_problems_are_raised_at_once_and_none_raises_nothing() -> None:
    OptionError.raise_if(iter(()))
    with pytest.raises(OptionError) as raised:
        OptionError.raise_if(p for p in (ONE, TWO))
    assert raised.value.problems == (ONE, TWO)


def test_the_problems_of_a_step() -> None:
    assert problems_of(lambda: OptionError.raise_if([ONE])) == (ONE,)
    assert problems_of(lambda: None) == ()
