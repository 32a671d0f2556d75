"""The page that describes the API is that of the API as it is."""

from __future__ import annotations

from docs.write_api import PAGE, document, page


def test_the_page_says_what_the_service_does():
    assert PAGE.read_text() == page(document()), "Run `python -m docs.write_api` and commit docs/api.md."


def test_every_field_and_parameter_of_the_page_is_explained_or_plain():
    openapi = document()
    assert all(operation["description"] for methods in openapi["paths"].values() for operation in methods.values())
