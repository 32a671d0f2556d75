"""Authentication with API keys, and rate limits per owner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from graphs.http import auth
from graphs.http.app import build_http_app
from graphs.http.auth import KNOWN_FOR_S, AccessControl, ApiKeyCache
from graphs.http.context import ANONYMOUS_OWNER
from pipeline.events import RequestFinished
from pipeline.settings import AdmissionSettings, OwnerLimits
from testing.harness import Bench, make_bench, with_admission, working
from testing.waiting import cancel, until
from tests.integration.clients import is_problem

pytestmark = pytest.mark.anyio

PEAR = {"prompt": "pear", "seed": 3, "steps": 2, "width": 64, "height": 64}
SOME_ID = "0198a3c0-0000-7000-8000-000000000000"
PROTECTED = [
    ("POST", "/generate"),
    ("POST", "/analyze"),
    ("POST", "/probe"),
    ("POST", "/segment"),
    ("POST", "/visualize"),
    ("GET", "/v1/images"),
    ("POST", "/v1/images/upload"),
    ("GET", f"/v1/images/{SOME_ID}"),
    ("GET", f"/v1/images/{SOME_ID}/content"),
    ("DELETE", f"/v1/images/{SOME_ID}"),
    ("GET", "/v1/jobs"),
    ("GET", f"/v1/jobs/{SOME_ID}"),
    ("GET", f"/v1/jobs/{SOME_ID}/events"),
    ("POST", f"/v1/jobs/{SOME_ID}/cancel"),
    ("POST", f"/v1/jobs/{SOME_ID}/retry"),
    ("GET", "/v1/events"),
    ("GET", "/v1/webhooks"),
    ("GET", "/v1/me"),
    ("GET", "/v1/keys"),
    ("POST", "/v1/keys"),
    ("DELETE", f"/v1/keys/{SOME_ID}"),
    ("GET", "/nowhere"),
]
PUBLIC = ["/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"]


class Clock:
    """The clock of the rate limiter and of the key cache."""

    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("limits.storage.memory", "limits.storage.base", "graphs.http.auth"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(time=clock, monotonic=clock), raising=False)
    return clock


def client_of(bench: Bench, access_control: AccessControl, token: str | None = None) -> httpx.AsyncClient:
    app = build_http_app(with_admission(bench, AdmissionSettings(max_body_bytes=10_000)), access_control)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers)


def limited(**limits: int) -> AccessControl:
    return AccessControl(limits=OwnerLimits(**limits))


@asynccontextmanager
async def in_flight(bench: Bench, client: httpx.AsyncClient) -> AsyncIterator[asyncio.Task[httpx.Response]]:
    """Keep one generation request in flight while the block runs."""
    bench.workers.gate.clear()
    request = asyncio.create_task(client.post("/generate", json=PEAR))
    await until(lambda: bench.workers.calls["generate"] > 0)
    try:
        yield request
    finally:
        bench.workers.gate.set()
        await request


@pytest.mark.parametrize(
    "authorization",
    [None, "Bearer", "Bearer ", "Bearer aip_guess", "Basic YWlwOng=", "aip_guess"],
)
async def test_a_request_without_a_valid_key_is_unauthorized(bench, authorization):
    bench.store.keys.create("ann")
    headers = {} if authorization is None else {"Authorization": authorization}
    async with client_of(bench, AccessControl(bench.store.keys)) as client:
        for method, path in PROTECTED:
            response = await client.request(method, path, content=b"{" * 20_000, headers=headers)
            assert is_problem(response, 401, "unauthorized"), path
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert "keys create" in response.json()["detail"]


async def test_public_routes_need_no_key_and_are_not_rate_limited(bench):
    async with client_of(bench, AccessControl(bench.store.keys, OwnerLimits(requests_per_minute=1))) as client:
        for path in PUBLIC * 2:
            response = await client.get(path)
            assert response.status_code == 200
            assert "RateLimit" not in response.headers


async def test_the_documentation_is_public_and_declares_the_security_scheme(bench):
    async with client_of(bench, AccessControl(bench.store.keys)) as client:
        assets = [part.split('"')[0] for part in (await client.get("/docs")).text.split('src="')[1:]]
        assert assets
        assert {(await client.get(asset)).status_code for asset in assets} == {200}
        document = (await client.get("/openapi.json")).json()

    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert ("401" in operation["responses"]) == ("security" in operation) == (path not in PUBLIC), path


async def test_every_route_except_the_public_ones_requires_a_key(bench):
    async with client_of(bench, AccessControl(bench.store.keys)) as client:
        document = (await client.get("/openapi.json")).json()
        for path, methods in document["paths"].items():
            for method in methods:
                response = await client.request(
                    method, path.replace("{image_id}", SOME_ID).replace("{job_id}", SOME_ID)
                )
                assert (response.status_code == 401) == (path not in PUBLIC), (method, path)


async def test_images_belong_to_the_owner_of_the_key(bench):
    (_, ann), (_, ann_too), (_, bob) = (bench.store.keys.create(owner) for owner in ("ann", "ann", "bob"))
    access_control = AccessControl(bench.store.keys)
    async with client_of(bench, access_control, ann) as client:
        generated = (await client.post("/generate", json=PEAR)).json()["image_id"]
    async with client_of(bench, access_control, ann_too) as client:
        client.headers["Authorization"] = f"bearer {ann_too}"  # RFC 9110: the scheme's case doesn't matter
        assert (await client.post("/segment")).json()["image_id"] == generated  # the owner's shared session
    async with client_of(bench, access_control, bob) as client:
        assert is_problem(await client.post("/segment"), 400, "no_image_yet")
        assert is_problem(await client.get(f"/v1/images/{generated}"), 404, "image_not_found")
    assert bench.store.record(generated, "ann").owner == "ann"


async def test_without_keys_the_header_is_ignored(bench):
    async with client_of(bench, AccessControl(), "whatever") as client:
        generated = (await client.post("/generate", json=PEAR)).json()["image_id"]
    assert bench.store.record(generated, ANONYMOUS_OWNER).owner == ANONYMOUS_OWNER


async def test_a_revoked_key_is_rejected_within_ten_seconds_and_a_new_one_accepted_at_once(bench, clock):
    key, token = bench.store.keys.create("ann")
    async with client_of(bench, AccessControl(bench.store.keys), token) as client:
        assert (await client.get("/v1/images")).status_code == 200
        bench.store.keys.revoke(key.key_id)
        clock.now_s += KNOWN_FOR_S
        assert is_problem(await client.get("/v1/images"), 401, "unauthorized")
        _, client.headers["Authorization"] = key, "Bearer " + bench.store.keys.create("ann")[1]
        assert (await client.get("/v1/images")).status_code == 200


async def test_keys_are_looked_up_once_in_ten_seconds_and_the_cache_is_bounded(bench, clock, monkeypatch):
    monkeypatch.setattr(auth, "MAX_KNOWN", 3)
    lookups = []
    keys = SimpleNamespace(authenticate=lambda token: lookups.append(token) or (None if token == "bad" else "ann"))
    cache = ApiKeyCache(keys)
    for token in ("a", "a", "bad", "bad", "b", "c", "a"):
        await cache.authenticate(token)
    assert lookups == ["a", "bad", "bad", "b", "c"]
    assert await cache.authenticate("d") == "ann"
    assert len(cache) == 3
    clock.now_s += KNOWN_FOR_S
    await cache.authenticate("b")
    assert lookups[-2:] == ["d", "b"]


async def test_the_remaining_requests_are_reported_and_none_is_rejected_too_early(bench, clock):
    async with client_of(bench, limited(requests_per_minute=3)) as client:
        for remaining, seconds in ((2, 60), (1, 50), (0, 40)):
            response = await client.get("/v1/images")
            assert response.status_code == 200
            assert response.headers["RateLimit-Policy"] == '"default";q=3;w=60'
            assert response.headers["RateLimit"] == f'"default";r={remaining};t={seconds}'
            clock.now_s += 10
        rejected = await client.get("/v1/images")
        assert is_problem(rejected, 429, "rate_limited")
        assert (rejected.headers["Retry-After"], rejected.headers["RateLimit"]) == ("30", '"default";r=0;t=30')

        clock.now_s += 30.1
        assert (await client.get("/v1/images")).headers["RateLimit"] == '"default";r=0;t=10'
        assert is_problem(await client.get("/v1/images"), 429, "rate_limited")


async def test_rate_limits_are_per_owner(bench):
    (_, ann), (_, bob) = (bench.store.keys.create(owner) for owner in ("ann", "bob"))
    access_control = AccessControl(bench.store.keys, OwnerLimits(requests_per_minute=1))
    for token in (ann, bob):
        async with client_of(bench, access_control, token) as client:
            assert [(await client.get("/v1/images")).status_code for _ in range(2)] == [200, 429]


async def test_streams_and_errors_report_the_remaining_requests(bench):
    async with client_of(bench, limited(requests_per_minute=9)) as client:
        streamed = await client.post("/generate", json=PEAR, headers={"Accept": "text/event-stream"})
        errors = [
            await client.post("/generate", content=b"{", headers={"content-type": "application/json"}),
            await client.post("/generate", json={"prompt": ""}),
            await client.post("/generate", content=b"x" * 20_000),
            await client.get("/nowhere"),
        ]
    assert [error.status_code for error in errors] == [400, 422, 413, 404]
    remaining = [response.headers["RateLimit"].split(";")[1] for response in (streamed, *errors)]
    assert remaining == ["r=8", "r=7", "r=6", "r=5", "r=4"]


async def test_concurrent_requests_per_owner_are_limited(bench):
    async with client_of(bench, limited(concurrent_requests=1)) as client:
        async with in_flight(bench, client):
            rejected = await client.get("/v1/images")
            assert is_problem(rejected, 429, "concurrency_limited")
            assert int(rejected.headers["Retry-After"]) >= 1
            assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/v1/images")).status_code == 200


async def test_a_disconnect_releases_the_concurrency_slot(bench):
    bench.workers.gate.clear()
    async with client_of(bench, limited(concurrent_requests=1)) as client:
        request = asyncio.create_task(client.post("/generate", json=PEAR))
        await until(lambda: bench.workers.calls["generate"] > 0)
        request.cancel()
        await asyncio.wait({request})
        assert (await client.get("/v1/images")).status_code == 200
    assert [event.status for event in bench.of(RequestFinished)] == [499, 200]


async def test_an_event_stream_holds_a_concurrency_slot_until_it_ends(bench):
    async with client_of(bench, limited(concurrent_requests=1)) as client:
        following = asyncio.create_task(client.get("/v1/events"))
        await until(lambda: bench.services.feed.num_streams == 1)
        assert is_problem(await client.get("/v1/images"), 429, "concurrency_limited")
        following.cancel()
        await asyncio.wait({following})
        assert (await client.get("/v1/images")).status_code == 200


async def test_unfinished_jobs_per_owner_are_limited(tmp_path: Path):
    bench = make_bench(tmp_path, limits=OwnerLimits(unfinished_jobs=1))
    (_, ann), (_, bob) = (bench.store.keys.create(owner) for owner in ("ann", "bob"))
    access_control = AccessControl(bench.store.keys)
    later = {"Prefer": "respond-async"}
    async with (
        working(bench),
        client_of(bench, access_control, ann) as client,
        client_of(bench, access_control, bob) as other,
    ):
        bench.workers.gate.clear()
        keyed = later | {"Idempotency-Key": "k"}
        first = await client.post("/generate", json=PEAR, headers=keyed)
        assert (await client.post("/generate", json=PEAR, headers=keyed)).json()["job_id"] == first.json()["job_id"]
        for headers in (later, {}):
            rejected = await client.post("/generate", json=PEAR, headers=headers)
            assert is_problem(rejected, 429, "job_limit_reached")
            assert int(rejected.headers["Retry-After"]) >= 1
        assert (await other.post("/generate", json=PEAR, headers=later)).status_code == 202

        url = first.json()["url"]
        assert (await cancel(client, url))["state"] == "cancelled"
        second = (await client.post("/generate", json=PEAR, headers=later)).json()["url"]
        assert is_problem(await client.post(f"{url}/retry"), 429, "job_limit_reached")
        bench.workers.gate.set()
        assert "generation.finished" in (await client.get(f"{second}/events")).text
        assert (await client.post(f"{url}/retry")).status_code == 202
        assert "generation.finished" in (await client.get(f"{url}/events")).text
