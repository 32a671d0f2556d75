"""API keys over HTTP, and what a caller learns of itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from graphs.http.app import build_http_app
from graphs.http.auth import KNOWN_FOR_S, AccessControl
from graphs.http.routes import keys as key_routes
from pipeline.settings import OwnerLimits
from testing.harness import Bench, make_bench, working
from testing.waiting import until
from tests.integration.clients import client_of, is_problem

pytestmark = pytest.mark.anyio

UNKNOWN_ID = "0198a3c0-0000-7000-8000-000000000000"
PEAR = {"prompt": "pear", "seed": 3, "steps": 2, "width": 64, "height": 64}


class Clock:
    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("graphs.http.auth.time", SimpleNamespace(time=clock, monotonic=clock))
    return clock


def client_with(bench: Bench, token: str) -> httpx.AsyncClient:
    """A client of a service that requires keys, as a process of its own with its own cache of keys."""
    app = build_http_app(bench.services, AccessControl(bench.store.keys, bench.settings.limits))
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers)


async def test_an_owner_creates_lists_and_revokes_keys(bench):
    first, token = bench.store.keys.create("ann", "laptop")
    bench.store.keys.create("bob", "other")
    async with client_with(bench, token) as client:
        created = await client.post("/v1/keys", json={"name": "phone"})
        assert (created.status_code, created.headers["cache-control"]) == (201, "no-store")
        key = created.json()
        new_token = key.pop("token")
        assert new_token.startswith("aip_")
        listed = (await client.get("/v1/keys")).json()
        assert (listed["data"][0], [each["key_id"] for each in listed["data"]]) == (key, [key["key_id"], first.key_id])
        assert (listed["has_more"], listed["next"]) == (False, None)
        assert new_token not in str(listed)

        async with client_with(bench, new_token) as other:
            me = (await other.get("/v1/me")).json()
            assert (me["owner"], me["key"]) == ("ann", key)
        for _ in range(2):
            assert (await client.delete(f"/v1/keys/{key['key_id']}")).status_code == 204
        async with client_with(bench, new_token) as other:
            assert is_problem(await other.get("/v1/me"), 401, "unauthorized")
        assert [each["key_id"] for each in (await client.get("/v1/keys")).json()["data"]] == [first.key_id]


async def test_keys_are_paginated(bench):
    _, token = bench.store.keys.create("ann", "0")
    async with client_with(bench, token) as client:
        for name in "12":
            await client.post("/v1/keys", json={"name": name})
        page = (await client.get("/v1/keys", params={"limit": 2})).json()
        rest = (await client.get("/v1/keys", params={"limit": 2, "after": page["next"]})).json()
    assert [each["name"] for each in page["data"] + rest["data"]] == ["2", "1", "0"]


async def test_a_revoked_key_is_rejected_in_every_process_within_ten_seconds(tmp_path: Path, clock):
    here, elsewhere = make_bench(tmp_path), make_bench(tmp_path)
    _, token = here.store.keys.create("ann")
    key, lost = here.store.keys.create("ann", "lost")
    async with client_with(here, token) as client, client_with(elsewhere, lost) as thief:
        assert (await thief.get("/v1/me")).json()["key"]["key_id"] == key.key_id
        assert (await client.delete(f"/v1/keys/{key.key_id}")).status_code == 204
        clock.now_s += KNOWN_FOR_S
        for request in (thief.get("/v1/me"), thief.post("/v1/keys", json={"name": "again"}), thief.get("/v1/images")):
            assert is_problem(await request, 401, "unauthorized")
        assert (await client.get("/v1/me")).status_code == 200


async def test_a_key_may_revoke_itself(bench, clock):
    key, token = bench.store.keys.create("ann")
    async with client_with(bench, token) as client:
        assert (await client.delete(f"/v1/keys/{key.key_id}")).status_code == 204
        clock.now_s += KNOWN_FOR_S
        assert is_problem(await client.get("/v1/keys"), 401, "unauthorized")


async def test_keys_of_other_owners_can_be_neither_seen_nor_revoked(bench):
    _, token = bench.store.keys.create("ann")
    theirs, their_token = bench.store.keys.create("bob")
    async with client_with(bench, token) as client:
        for key_id in (theirs.key_id, UNKNOWN_ID):
            assert (await client.delete(f"/v1/keys/{key_id}")).status_code == 204
        assert theirs.key_id not in (await client.get("/v1/keys")).text
        assert is_problem(await client.delete("/v1/keys/nonsense"), 404, "key_not_found")
    assert bench.store.keys.authenticate(their_token) == theirs


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "name"),
        ({"name": " "}, "send a name"),
        ({"name": "x" * 101}, "100"),
        ({"name": "a\0b"}, "control characters"),
        ({"name": "x", "owner": "bob"}, "owner: there is no such field"),
        ({"name": 7}, "name"),
    ],
)
async def test_an_invalid_key_is_rejected_with_what_to_send(bench, body, expected):
    _, token = bench.store.keys.create("ann")
    async with client_with(bench, token) as client:
        rejected = await client.post("/v1/keys", json=body)
        assert is_problem(rejected, 422, "invalid_request")
        assert expected in rejected.json()["detail"]
        assert len((await client.get("/v1/keys")).json()["data"]) == 1


async def test_the_number_of_keys_is_limited(bench, monkeypatch):
    monkeypatch.setattr(key_routes, "MAX_VALID_KEYS", 2)
    _, token = bench.store.keys.create("ann")
    async with client_with(bench, token) as client:
        assert (await client.post("/v1/keys", json={"name": "a"})).status_code == 201
        assert is_problem(await client.post("/v1/keys", json={"name": "b"}), 409, "key_limit_reached")


async def test_a_service_without_keys_creates_and_revokes_none(bench):
    theirs, token = bench.store.keys.create("public")
    async with client_of(bench) as client:
        for request in (client.post("/v1/keys", json={"name": "a"}), client.delete(f"/v1/keys/{theirs.key_id}")):
            refused = await request
            assert is_problem(refused, 409, "keys_not_required")
            assert "`--keys`" in refused.json()["detail"]
        me = (await client.get("/v1/me", headers={"Authorization": f"Bearer {token}"})).json()
        assert (me["owner"], me["key"]) == ("public", None)
    assert bench.store.keys.authenticate(token) == theirs


async def test_limits_and_usage_are_the_owner_s(tmp_path: Path):
    bench = make_bench(tmp_path, limits=OwnerLimits(requests_per_minute=30, unfinished_jobs=2))
    _, token = bench.store.keys.create("ann")
    _, other = bench.store.keys.create("bob")
    async with client_with(bench, token) as client, client_with(bench, other) as stranger, working(bench):
        me = (await client.get("/v1/me")).json()
        assert me["limits"] == {
            "requests_per_minute": 30,
            "concurrent_requests": None,
            "unfinished_jobs": 2,
            "webhooks": 20,
            "bytes": 10 << 30,
            "retention_s": 30 * 24 * 3600,
        }
        assert me["usage"] == {"images": 0, "bytes": 0, "unfinished_jobs": 0, "webhooks": 0}

        made = await client.post("/v1/images", json=PEAR)
        image_id = made.json()["images"][0]["image_id"]
        size_bytes = len((await client.get(f"/v1/images/{image_id}/content")).content)
        await client.post("/v1/webhooks", json={"url": "https://example.com"})
        bench.workers.gate.clear()
        waiting = asyncio.create_task(client.post("/v1/images", json=PEAR))
        await until(lambda: bench.workers.calls["generate"] == 2)
        usage = (await client.get("/v1/me")).json()["usage"]
        bench.workers.gate.set()
        await waiting
        assert usage == {"images": 1, "bytes": size_bytes, "unfinished_jobs": 1, "webhooks": 1}
        assert (await stranger.get("/v1/me")).json()["usage"]["images"] == 0
