"""Deprecated calls say so in their responses and in the OpenAPI document."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from docs.openapi import document
from graphs.http.deprecation import DEPRECATION
from tests.integration.clients import client_of

pytestmark = pytest.mark.anyio

UNKNOWN_ID = "0198a3c0-0000-7000-8000-000000000000"


@pytest.fixture
async def client(bench) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(bench) as client:
        yield client


async def test_a_deprecated_call_names_its_successor_also_when_it_fails(client):
    refused = await client.post(f"/v1/webhooks/{UNKNOWN_ID}/enable")
    assert refused.status_code == 404
    assert refused.headers["deprecation"] == DEPRECATION == "@1795824000"
    assert refused.headers["link"] == f'</v1/webhooks/{UNKNOWN_ID}>; rel="successor-version"'


async def test_ids_are_quoted_in_the_link(client):
    refused = await client.post("/v1/webhooks/%3E%0D%0Ax%3A%20%C3%A9/enable")
    assert refused.status_code == 404
    assert refused.headers["link"] == '</v1/webhooks/%3E%0D%0Ax%3A%20%C3%A9>; rel="successor-version"'


async def test_other_calls_are_not_deprecated(client):
    assert "deprecation" not in (await client.get("/v1/webhooks")).headers


def test_the_headers_are_documented_where_a_call_is_deprecated():
    deprecated = 0
    for methods in document()["paths"].values():
        for operation in methods.values():
            is_deprecated = operation.get("deprecated", False)
            deprecated += is_deprecated
            for status, response in operation["responses"].items():
                if status.startswith("2"):
                    assert ("Deprecation" in response.get("headers", {})) == is_deprecated, operation["operationId"]
    assert deprecated >= 1
