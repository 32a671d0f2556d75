"""Two owners call every route concurrently, with their own ids and each other's: neither sees data of the other."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx
import pytest

from graphs.http.app import build_http_app
from graphs.http.auth import AccessControl
from pipeline.cache import CacheKey
from pipeline.events import StageFinished
from pipeline.settings import AdmissionSettings
from pipeline.store import PageQuery
from testing.harness import Bench, make_bench, with_admission, working

pytestmark = pytest.mark.anyio

NUM_CALLS, LONG_NUM_CALLS = 1500, 5000  # more than a hundred of each kind; with --chaos
NUM_CALLERS = 16
SEEDS = 4  # so few that both owners have images of the same pixels
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ROOMY = AdmissionSettings(max_generations=64, max_stages=64, deadline_s=600)
LATER = {"Prefer": "respond-async"}


@dataclass
class Owner:
    """One owner's client, and the ids it received."""

    name: str
    client: httpx.AsyncClient
    images: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    deleted: set[str] = field(default_factory=set)

    @property
    def ids(self) -> set[str]:
        return {*self.images, *self.jobs, *self.deleted}

    def add(self, known: list[str], id_: str) -> None:
        if id_ not in self.ids:
            known.append(id_)


class LoadGenerator:
    """Sends random calls of two owners; keeps the ids in every response for the final check."""

    def __init__(self, owners: list[Owner], random: Random) -> None:
        self.owners = owners
        self.random = random
        self.responses: list[tuple[Owner, set[str]]] = []  # with the ids in each
        self.calls: Counter[str] = Counter()

    async def call(self) -> None:
        owner, other = self.random.sample(self.owners, 2)
        kind = self.random.choices(
            ["generate", "later", "image", "job", "last", "lists", "delete", "foreign"], [3, 2, 30, 20, 8, 12, 1, 24]
        )[0]
        await getattr(self, f"_{kind}")(owner, other)
        self.calls[kind] += 1

    async def _generate(self, owner: Owner, other: Owner) -> None:
        streamed = {"Accept": "text/event-stream"} if self.random.random() < 0.3 else {}
        response = await self._send(owner, "POST", "/generate", 200, 409, json=self.random_request(), headers=streamed)
        if response.status_code == 200 and not streamed:  # 409: another call cancelled its job
            owner.add(owner.images, response.json()["image_id"])

    async def _later(self, owner: Owner, other: Owner) -> None:
        response = await self._send(owner, "POST", "/generate", 202, json=self.random_request(), headers=LATER)
        job_id = response.json()["job_id"]
        owner.add(owner.jobs, job_id)
        if self.random.random() < 0.2:
            await self._send(owner, "POST", f"/v1/jobs/{job_id}/cancel", 200, 202)  # 202 while it is still running

    async def _image(self, owner: Owner, other: Owner) -> None:
        if owner.images:
            image_id = self.random.choice(owner.images)
            method, path, options = self.random.choice(about_image(image_id))
            await self._send(owner, method, path, 200, gone=image_id, **options)

    async def _job(self, owner: Owner, other: Owner) -> None:
        if owner.jobs:
            job_id = self.random.choice(owner.jobs)
            method, path = self.random.choice(about_job(job_id))
            await self._send(owner, method, path, 200, 202, 409)

    async def _last(self, owner: Owner, other: Owner) -> None:
        await self._send(owner, "POST", "/segment", 200, 400, 404)  # another call may delete it meanwhile

    async def _lists(self, owner: Owner, other: Owner) -> None:
        path, ids = self.random.choice([("/v1/images", other.images), ("/v1/jobs", other.jobs)])
        before = {"before": self.random.choice(ids)} if ids and self.random.random() < 0.3 else {}
        response = await self._send(owner, "GET", path, 200, params=before | {"limit": 10})
        for item in [*response.json().get("images", ()), *response.json().get("jobs", ())]:
            owner.add(owner.jobs if "job_id" in item else owner.images, item.get("job_id") or item["image_id"])

    async def _delete(self, owner: Owner, other: Owner) -> None:
        if len(owner.images) > 3:
            image_id = owner.images.pop(0)
            owner.deleted.add(image_id)
            await self._send(owner, "DELETE", f"/v1/images/{image_id}", 204)

    async def _foreign(self, owner: Owner, other: Owner) -> None:
        """Send a call with an id of the other owner; assert that it is not found."""
        if ids := sorted(other.ids - other.deleted):
            id_ = self.random.choice(ids)
            options: dict[str, object]
            if id_ in other.images:
                method, path, options = self.random.choice(about_image(id_))
            else:
                method, path, options = *self.random.choice(about_job(id_)), {}
            headers = {"X-Session-ID": "shared"} if self.random.random() < 0.5 else {}
            response = await owner.client.request(method, path, headers=headers, **options)
            assert response.status_code == 404, (owner.name, method, path, response.status_code, response.text)

    def random_request(self) -> dict[str, object]:
        return {"prompt": "pear", "seed": self.random.randrange(SEEDS), "steps": 1, "width": 64, "height": 64}

    async def _send(
        self, owner: Owner, method: str, path: str, *statuses: int, gone: str = "", **options: object
    ) -> httpx.Response:
        response = await owner.client.request(method, path, **options)
        if response.status_code == 404 and gone in owner.deleted:
            return response
        assert response.status_code in statuses, (owner.name, method, path, response.status_code, response.text)
        kind = response.headers.get("content-type", "")
        self.responses.append((owner, set() if kind.startswith("image/") else set(ID.findall(response.text))))
        return response


def about_image(image_id: str) -> list[tuple[str, str, dict[str, object]]]:
    body = {"json": {"image_id": image_id}}
    return [
        ("GET", f"/v1/images/{image_id}", {}),
        ("GET", f"/v1/images/{image_id}/content", {}),
        ("POST", "/segment", body),
        ("POST", "/analyze", body),
        ("POST", "/analyze", {"params": {"image_id": image_id}}),
        ("POST", "/visualize", body),
        ("POST", "/probe", {"json": {"image_id": image_id, "prompt": "metal"}}),
    ]


def about_job(job_id: str) -> list[tuple[str, str]]:
    url = f"/v1/jobs/{job_id}"
    return [("GET", url), ("GET", f"{url}/events"), ("POST", f"{url}/cancel"), ("POST", f"{url}/retry")]


def owner_of(bench: Bench, access_control: AccessControl, name: str) -> Owner:
    _, token = bench.store.keys.create(name)
    app = build_http_app(with_admission(bench, ROOMY), access_control)
    transport = httpx.ASGITransport(app)
    return Owner(
        name, httpx.AsyncClient(transport=transport, base_url="http://t", headers={"Authorization": f"Bearer {token}"})
    )


async def test_two_owners_never_see_data_of_each_other(tmp_path: Path, seed: int, pytestconfig: pytest.Config):
    num_calls = LONG_NUM_CALLS if pytestconfig.getoption("chaos") else NUM_CALLS
    bench = make_bench(tmp_path, ROOMY)
    access_control = AccessControl(bench.store.keys)
    ann, bob = owners = [owner_of(bench, access_control, name) for name in ("ann", "bob")]
    load = LoadGenerator(owners, Random(seed))
    async with working(bench), ann.client, bob.client:
        for owner in owners:
            for image_seed in range(SEEDS):
                generated = await owner.client.post("/generate", json=load.random_request() | {"seed": image_seed})
                owner.images.append(generated.json()["image_id"])

        pending = iter(range(num_calls))

        async def caller() -> None:
            for _ in pending:
                await load.call()

        async with asyncio.TaskGroup() as callers:
            for _ in range(NUM_CALLERS):
                callers.create_task(caller())
        for owner in owners:
            for job_id in owner.jobs:
                assert (await owner.client.get(f"/v1/jobs/{job_id}/events")).status_code == 200
        logged = {owner.name: bench.store.log.read(after=0, limit=10**6, owner=owner.name) for owner in owners}

    assert load.calls.total() == num_calls
    theirs = {
        name: {id_ for record in records for id_ in (record.image_id, record.job_id) if id_}
        for name, records in logged.items()
    }
    assert theirs["ann"].isdisjoint(theirs["bob"])
    for owner, other in ((ann, bob), (bob, ann)):
        assert owner.ids <= theirs[owner.name]
        assert len(owner.images) + len(owner.deleted) > SEEDS
        received = set().union(*(ids for recipient, ids in load.responses if recipient is owner))
        assert received.isdisjoint(theirs[other.name])
        assert received >= set(owner.images)
        events = set(ID.findall(repr(logged[owner.name])))
        assert events.isdisjoint(theirs[other.name])


async def test_a_subscriber_receives_only_events_of_its_owner(bench: Bench):
    access_control = AccessControl(bench.store.keys)
    ann, bob = (owner_of(bench, access_control, name) for name in ("ann", "bob"))
    async with ann.client, bob.client:
        for owner in (ann, bob, ann, bob):
            generated = await owner.client.post("/generate", json={"prompt": "pear", "seed": 1, "steps": 1})
            owner.images.append(generated.json()["image_id"])
        for owner in (ann, bob):
            seen = []
            follower = bench.services.feed.follow(owner.name, after=0)
            async for record in follower:
                seen += [record.image_id] if record.type == "image.created" else []
                assert record.owner == owner.name
                if len(seen) == 2:
                    break
            await follower.aclose()
            assert seen == owner.images


async def test_equal_pixels_are_analyzed_once_per_owner(bench: Bench):
    access_control = AccessControl(bench.store.keys)
    owners = [owner_of(bench, access_control, name) for name in ("ann", "bob")]
    body = {"prompt": "pear", "seed": 1, "steps": 1}
    for round_, owner in enumerate(owners, start=1):
        async with owner.client as client:
            for _ in range(2):
                generated = (await client.post("/generate", json=body)).json()
                seen = (await client.post("/visualize")).json()
                assert seen["image_id"] == generated["image_id"]
        assert {bench.workers.calls[kind] for kind in ("describe", "segment", "describe_regions", "render")} == {round_}

    finished = bench.of(StageFinished)
    owner_names = {
        image.image_id: name for name in ("ann", "bob") for image in bench.store.history(name, PageQuery(limit=9))
    }
    assert Counter(owner_names[event.image_id] for event in finished) == {"ann": 4, "bob": 4}
    digests = {image.digest for name in ("ann", "bob") for image in bench.store.history(name, PageQuery(limit=9))}
    assert len(digests) == 1
    keys = [
        CacheKey(owner=name, digest=digests.copy().pop(), stage="s", model="-", parameters="p")
        for name in owner_names.values()
    ]
    assert {str(key).split("/")[0] for key in keys} == {"ann", "bob"}
