"""docs/api.md is generated from the API."""

from __future__ import annotations

from docs.write_api import PAGE, document, page


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == page(document()), "Run `python -m docs.write_api` and commit docs/api.md."


def test_every_operation_has_a_description():
    openapi = document()
    assert all(operation["description"] for methods in openapi["paths"].values() for operation in methods.values())
