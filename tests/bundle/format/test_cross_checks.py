"""What a few bytes of a document must not ask for."""

from __future__ import annotations

from ffebm_compiler.bundle.format.cross_checks import MOST_MODULES, path_problems, whole


def test_paths_go_through_no_more_modules_than_a_model_has() -> None:
    deep = ".m" * 60
    (problem,) = path_problems([f"a{i}{deep}.w" for i in range(MOST_MODULES // 60 + 1)])
    assert f"more than {MOST_MODULES} modules" in problem
    assert not [*path_problems([f"layer{i}.sub.weight" for i in range(2000)])]


def test_a_leaf_has_a_place_that_a_nest_can_have() -> None:
    assert whole("state[12]") == "state"
    assert whole("state[999999999]") == "state[999999999]"
