"""The published schemas: sound, described, bounded, and what every bundle is held to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from bundle_samples import variety_files

from ffebm_compiler.bundle.format.cross_checks import DEEPEST_PATH, path_problems
from ffebm_compiler.bundle.format.program_checks import program_problems
from ffebm_compiler.bundle.format.schemas import MANIFEST, PROGRAM, schema, schema_problems
from ffebm_compiler.ir import Program

BOTH = pytest.mark.parametrize(("name", "file"), [(PROGRAM, "program.json"), (MANIFEST, "manifest.json")])


def _objects(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for key, inner in node.items():
            yield from _objects(inner) if key != "if" else ()
    elif isinstance(node, list):
        for inner in node:
            yield from _objects(inner)


@BOTH
def test_a_schema_is_one_and_says_what_it_is_of(name: str, file: str) -> None:
    found = schema(name)
    jsonschema.Draft202012Validator.check_schema(found)
    assert found["title"]
    assert found["description"]
    jsonschema.Draft202012Validator(found).validate(json.loads(variety_files()[file]))


@BOTH
def test_every_list_text_and_table_is_bounded(name: str, file: str) -> None:
    for node in _objects(schema(name)):
        kinds = node.get("type", [])
        kinds = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
        assert "array" not in kinds or "maxItems" in node, node
        assert "string" not in kinds or "maxLength" in node or "pattern" in node, node
        assert "object" not in kinds or "maxProperties" in node or node.get("additionalProperties") is False, node


def test_a_whole_number_is_no_float_and_no_flag() -> None:
    document = json.loads(variety_files()["program.json"])
    for value in (200.0, True, "200"):
        document["execution"]["max_sweeps"] = value
        assert [*schema_problems(document, PROGRAM)]
    document["execution"]["max_sweeps"] = 200
    assert not [*schema_problems(document, PROGRAM)]


def test_paths_are_those_of_a_tree_of_modules() -> None:
    assert not [*path_problems(["0.weight", "a.b.c", "a.b.d", "parametrizations.weight.original0"])]
    for wrong, says in (
        (["a", "a.b"], "of a module and of a tensor"),
        (["a..b"], "''"),
        (["a.training"], "'training'"),
        (["forward"], "'forward'"),
        (["__dict__"], "'__dict__'"),
        (["a\nb"], "'a\\nb'"),
        (["a." * 400 + "b"], f"more than {DEEPEST_PATH} modules"),
    ):
        assert any(says in p for p in path_problems(wrong)), wrong


def test_an_empty_program_is_sound() -> None:
    assert not [*program_problems(Program(("x",), (), None, {}, {}))]
