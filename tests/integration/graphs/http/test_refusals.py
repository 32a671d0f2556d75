"""What a call doesn't know is refused, with what to send instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from graphs.http.app import build_http_app
from testing.harness import Bench
from tests.integration.clients import client_of, is_problem

pytestmark = pytest.mark.anyio

ID = "0198a3c0-0000-7000-8000-000000000000"


def v1_operations(bench: Bench) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in build_http_app(bench.services).openapi()["paths"].items():
        for method, operation in methods.items():
            if path.startswith("/v1/") and "OpenAI" not in operation["tags"]:
                yield method.upper(), path, operation


async def test_every_v1_call_refuses_unknown_query_parameters(bench: Bench):
    checked = 0
    async with client_of(bench) as client:
        for method, path, operation in v1_operations(bench):
            response = await client.request(method, path.format_map(AnyId()), params={"nonsense": "1"})
            assert response.status_code in (400, 415, 422), (method, path)  # some miss their body as well
            if "requestBody" not in operation:
                assert is_problem(response, 422, "invalid_request"), (method, path)
                assert response.json()["errors"][0]["field"] == "query.nonsense"
                known = [each["name"] for each in operation.get("parameters", []) if each["in"] == "query"]
                assert all(name in response.json()["detail"] for name in known), (method, path)
                checked += 1
    assert checked > 20


class AnyId(dict):
    def __missing__(self, name: str) -> str:
        return "0" if name == "region" else ID


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("/v1/images?labels=apple", "did you mean label?"),
        ("/v1/images?Limit=1", "did you mean limit?"),
        ("/v1/jobs?states=failed", "did you mean state?"),
        ("/v1/events?types=job.failed", "did you mean type?"),
        (f"/v1/images/{ID}/content?sizes=64", "did you mean size?"),
    ],
)
async def test_the_nearest_query_parameter_is_named(bench: Bench, path: str, nearest: str):
    async with client_of(bench) as client:
        response = await client.get(path)
    assert is_problem(response, 422, "invalid_request")
    assert nearest in response.json()["detail"]


@pytest.mark.parametrize(
    ("field", "nearest"),
    [("guidance_scale", "guidance"), ("negative", "negative_prompt"), ("widht", "width"), ("num_steps", "steps")],
)
async def test_the_nearest_field_is_named(bench: Bench, field: str, nearest: str):
    async with client_of(bench) as client:
        response = await client.post("/v1/images", json={"prompt": "pear", field: 1})
    assert is_problem(response, 422, "invalid_request")
    assert response.json()["errors"] == [
        {"field": field, "problem": f"there is no such field, did you mean {nearest}?"}
    ]


async def test_a_field_that_is_like_no_other_is_refused_without_advice(bench: Bench):
    async with client_of(bench) as client:
        response = await client.post("/v1/images", json={"prompt": "pear", "zzz": 1})
    assert response.json()["errors"] == [{"field": "zzz", "problem": "there is no such field"}]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", ""])
async def test_a_body_of_another_media_type_is_refused(bench: Bench, kind: str):
    headers = {"Content-Type": kind} if kind else {}
    async with client_of(bench) as client:
        for path in ("/v1/images", f"/v1/images/{ID}/edits", f"/v1/images/{ID}/probe", "/v1/webhooks"):
            response = await client.post(path, content=b'{"prompt": "pear"}', headers=headers)
            assert is_problem(response, 415, "unsupported_media_type"), path
            assert "application/json" in response.json()["detail"]


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"])
async def test_every_json_media_type_is_accepted(bench: Bench, kind: str):
    async with client_of(bench) as client:
        response = await client.post("/v1/webhooks", content=b"{}", headers={"Content-Type": kind})
    assert is_problem(response, 422, "invalid_request")  # it was read: `url` is missing


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v1/images/x", "image_not_found"),
        ("DELETE", "/v1/images/x", "image_not_found"),
        ("GET", "/v1/images/x/segments", "image_not_found"),
        ("GET", "/v1/jobs/x/events", "job_not_found"),
        ("GET", "/v1/webhooks/x", "webhook_not_found"),
        ("POST", f"/v1/webhooks/{ID}/deliveries/x/redeliver", "delivery_not_found"),
    ],
)
async def test_a_malformed_id_is_not_found(bench: Bench, method: str, path: str, code: str):
    async with client_of(bench) as client:
        assert is_problem(await client.request(method, path), 404, code)


async def test_deleting_what_is_gone_succeeds(bench: Bench):
    async with client_of(bench) as client:
        for path in (f"/v1/images/{ID}", f"/v1/webhooks/{ID}"):
            assert (await client.delete(path)).status_code == 204


async def test_only_legacy_calls_set_a_cookie(bench: Bench):
    async with client_of(bench) as client:
        v1 = await client.post("/v1/images", json={"prompt": "pear", "seed": 1, "width": 64, "height": 64})
        client.cookies.clear()
        legacy = await client.post("/generate", json={"prompt": "pear", "seed": 1, "width": 64, "height": 64})
    assert "set-cookie" not in v1.headers
    assert "session_id=" in legacy.headers["set-cookie"]


async def test_null_counts_as_left_out(bench: Bench):
    nulls = dict.fromkeys(("negative_prompt", "seed", "steps", "guidance", "scheduler", "deterministic", "width", "n"))
    async with client_of(bench) as client:
        response = await client.post("/v1/images", json={"prompt": "pear", **nulls})
        missing = await client.post("/v1/images", json={"prompt": None})
    assert response.status_code == 201
    assert response.json()["images"][0]["request"]["negative_prompt"] == ""
    assert is_problem(missing, 422, "invalid_request")
