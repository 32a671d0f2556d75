"""docs/api.md is generated from the API."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from docs.write_api import PAGE, document, page


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(document()), "Run `python -m docs.write_api` and commit docs/api.md."


def test_every_operation_has_a_description():
    openapi = document()
    assert all(operation["description"] for methods in openapi["paths"].values() for operation in methods.values())


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_operation_ids_are_unique_and_in_camel_case():
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z]+([A-Z][a-z]*)+|openai[A-Za-z]+", each) for each in ids), ids


def test_errors_are_one_component():
    for path, method, operation in operations():
        for status, response in operation["responses"].items():
            for kind, content in response.get("content", {}).items():
                if kind == "application/problem+json":
                    assert content["schema"] == {"$ref": "#/components/schemas/Problem"}, (path, method, status)
    assert "HTTPValidationError" not in document()["components"]["schemas"]


def test_pictures_are_binary():
    for path, method, operation in operations():
        for response in operation["responses"].values():
            for kind, content in response.get("content", {}).items():
                if kind.startswith("image/"):
                    assert content["schema"] == {"type": "string", "format": "binary"}, (path, method)


def test_every_tag_is_described():
    described = {tag["name"] for tag in document()["tags"]}
    assert {tag for _, _, operation in operations() for tag in operation["tags"]} == described


def test_every_field_and_parameter_has_a_description():
    schemas = document()["components"]["schemas"]
    missing = [
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, facts in schema.get("properties", {}).items()
        if not facts.get("description")
    ]
    missing += [
        f"{method} {path} {parameter['name']}"
        for path, method, operation in operations()
        for parameter in operation.get("parameters", [])
        if not parameter.get("description")
    ]
    assert missing == []


def test_every_json_body_has_an_example():
    schemas = document()["components"]["schemas"]
    bodies = 0
    for path, method, operation in operations():
        schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        for option in schema.get("anyOf", [schema]):
            if "$ref" in option:
                assert schemas[option["$ref"].rpartition("/")[2]].get("examples"), (path, method)
                bodies += 1
    assert bodies > 10
