"""The rules of docs/api-conventions.md, for every operation and schema of the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import pytest

from docs.openapi import document

VERBS = {"cancel", "retry", "enable", "test", "redeliver", "rotate-secret", "probe", "upload", "delete"}
SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
OWN_FORMS = ("legacy", "OpenAI")  # tags

# What breaks a rule, and stays until its alias has replaced it.
PATH_EXCEPTIONS = {"/v1/images/{image_id}/analysis", "/v1/images/{image_id}/content"}
PATH_EXCEPTIONS |= {"/v1/me"}  # the one thing that a request has without naming it


@cache
def api() -> dict[str, Any]:
    return document()


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in api()["paths"].items():
        for method, operation in methods.items():
            if path.startswith("/v1/") and not set(operation["tags"]) & set(OWN_FORMS):
                yield path, method, operation


def schemas_of(*nodes: Any) -> dict[str, dict[str, Any]]:
    """Return the schemas that parts of the document use, directly or through others."""
    found: dict[str, dict[str, Any]] = {}

    def visit(node: Any) -> None:
        if isinstance(node, dict):
            name = str(node.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found[name] = api()["components"]["schemas"][name]
                visit(found[name])
            for value in node.values():
                visit(value)
        elif isinstance(node, list):
            for value in node:
                visit(value)

    for node in nodes:
        visit(node)
    return found


def schemas_of_v1() -> dict[str, dict[str, Any]]:
    return schemas_of(*(operation for _, _, operation in operations()))


def fields() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, schema in schemas_of_v1().items():
        if not name.startswith("Coco"):  # COCO's names
            for field, facts in schema.get("properties", {}).items():
                yield name, field, facts


def types_of(facts: dict[str, Any]) -> set[str]:
    return {str(option.get("type")) for option in facts.get("anyOf", [facts])}


def test_the_document_has_what_is_checked():
    assert len(list(operations())) > 25
    assert len(list(fields())) > 100


def test_paths_are_plural_nouns_ids_and_verbs():
    for path, method, _ in operations():
        if path in PATH_EXCEPTIONS:
            continue
        *_, last = path.rstrip("/").split("/")
        is_noun = last.endswith(("s", ".png", ".json", "}"))
        assert is_noun or (last in VERBS and method == "post"), (method, path)


def test_ids_are_strings_but_for_regions():
    for name, field, facts in fields():
        if field == "id" or field.endswith("_id"):
            assert field != "id", (name, field)
            assert types_of(facts) <= ({"integer"} if field == "region_id" else {"string", "null"}), (name, field)


def test_times_are_named_by_a_participle():
    for name, field, facts in fields():
        is_time = any(option.get("format") == "date-time" for option in facts.get("anyOf", [facts]))
        assert is_time == field.endswith("_at"), (name, field)


def test_names_and_values_are_in_lower_snake_case():
    for name, field, facts in fields():
        assert SNAKE.fullmatch(field), (name, field)
        for value in facts.get("enum", []):
            assert SNAKE.fullmatch(str(value)), (name, field)
    for name, schema in schemas_of_v1().items():
        for value in schema.get("enum", []):
            assert SNAKE.fullmatch(str(value)), (name, value)


def test_lists_have_a_limit_a_cursor_and_the_next_page():
    lists = 0
    for path, method, operation in operations():
        names = {parameter["name"] for parameter in operation.get("parameters", [])}
        if method == "get" and "limit" in names and path != "/v1/events":  # a log: oldest first, after an event
            schema = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
            assert {"after", "order", "created_after", "created_before"} <= names, path
            properties = api()["components"]["schemas"][schema.rpartition("/")[2]]["properties"]
            assert {"data", "has_more", "next"} <= set(properties), path
            lists += 1
    assert lists == 5


def test_responses_always_have_every_field():
    bodies = schemas_of(*(operation.get("requestBody") for _, _, operation in operations()))
    sent = {"Problem", "Event", *bodies}  # `errors` of a problem, and what an event doesn't have, are left out
    for name, schema in schemas_of_v1().items():
        if name not in sent and not name.startswith("Coco") and "properties" in schema:
            written = {field for field, facts in schema["properties"].items() if "default" in facts}
            assert set(schema.get("required", [])) | written == set(schema["properties"]), name


def test_deletions_answer_204():
    assert all("204" in operation["responses"] for _, method, operation in operations() if method == "delete")


@pytest.mark.parametrize("status", ["401", "422", "429"])
def test_every_call_documents_its_refusals(status: str):
    for path, method, operation in operations():
        kinds = operation["responses"][status]["content"]
        assert "application/problem+json" in kinds, (method, path)


def test_bodies_document_other_media_types():
    for path, method, operation in operations():
        assert ("requestBody" in operation) == ("415" in operation["responses"]), (method, path)


def test_every_schema_has_an_example_that_is_valid():
    schemas = api()["components"]["schemas"]
    for name, schema in schemas.items():
        assert schema["examples"], name
        for example in schema["examples"]:
            jsonschema.validate(example, schema | {"components": api()["components"]}, jsonschema.Draft202012Validator)
