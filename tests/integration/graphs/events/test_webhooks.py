"""Webhooks over HTTP, with receivers on real ports."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from graphs.events import webhooks as webhook_dispatcher
from graphs.events.webhooks import MAX_BODY_BYTES, cloudevent_body
from pipeline import webhooks
from pipeline.errors import StageFailed, to_problem
from pipeline.event_records import TYPES, EventRecord
from pipeline.settings import WebhookSettings
from testing.harness import Bench, make_bench, working
from testing.waiting import PATIENCE_S, until
from testing.webhook_receiver import Message, Receiver
from tests.integration.clients import client_of, is_problem

pytestmark = pytest.mark.anyio

LOCAL_WEBHOOKS = WebhookSettings(allow_private_addresses=True, retry_after_s=(0.02,) * 1000)
UNKNOWN_ID = "0198a3c0-0000-7000-8000-000000000000"
AN_IMAGE = ["job.submitted", "job.started", "image.created", "job.succeeded"]


@pytest.fixture(autouse=True)
def short_poll_interval(monkeypatch) -> None:
    monkeypatch.setattr(webhook_dispatcher, "POLL_S", 0.05)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.up()
    yield receiver
    receiver.down()


@pytest.fixture
async def bench(tmp_path, anyio_backend) -> AsyncIterator[Bench]:
    bench = make_bench(tmp_path, webhooks=LOCAL_WEBHOOKS)
    async with working(bench):
        yield bench


@pytest.fixture
async def client(bench) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(bench) as client:
        yield client


async def registered(client: httpx.AsyncClient, url: str, **options: object) -> dict:
    created = await client.post("/v1/webhooks", json={"url": url} | options)
    assert created.status_code == 201, created.text
    return created.json()


async def deliveries(client: httpx.AsyncClient, webhook: dict) -> list[dict]:
    return (await client.get(f"/v1/webhooks/{webhook['webhook_id']}/deliveries", params={"limit": 100})).json()["data"]


async def settled(client: httpx.AsyncClient, webhook: dict, number: int = 1) -> list[dict]:
    """Wait until there are so many deliveries and none is pending; return them, oldest first."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await deliveries(client, webhook)
            if len(found) == number and all(each["state"] != "pending" for each in found):
                return found[::-1]


def in_order(receiver: Receiver, secret: str) -> dict[str, list[int]]:
    """Return the sequence numbers of the received events by subject, without duplicates."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for id_ in receiver.ids():
        event = next(m for m in receiver.messages if m.id == id_).verified(secret)
        found[event["subject"]].append(int(event["id"]))
    return found


async def test_events_are_delivered_as_signed_cloud_events(client, bench, receiver):
    webhook = await registered(client, receiver.url)
    record = await bench.image()
    await until(lambda: len(receiver.messages) == len(AN_IMAGE))

    events = [each.verified(webhook["secret"]) for each in receiver.messages]
    assert sorted(event["type"] for event in events) == sorted(AN_IMAGE)
    created = next(event for event in events if event["type"] == "image.created")
    assert (created["specversion"], created["subject"]) == ("1.0", record.image_id)
    assert created["source"] == "urn:ai-pipeline"
    assert datetime.fromisoformat(created["time"]).tzinfo is not None
    assert created["data"]["image_url"] == f"/v1/images/{record.image_id}/content"
    assert (await client.get(created["data"]["image_url"])).headers["content-type"] == "image/png"
    assert (await client.get(created["data"]["job_url"])).json()["state"] == "succeeded"
    headers = receiver.messages[0].headers
    assert (headers["content-type"], headers["user-agent"]) == ("application/cloudevents+json", "ai-pipeline")
    assert not any("cookie" in each.headers for each in receiver.messages)

    settled_deliveries = await settled(client, webhook, len(AN_IMAGE))
    assert [each["type"] for each in settled_deliveries] == AN_IMAGE
    assert {each["delivery_id"] for each in settled_deliveries} == set(receiver.ids())
    assert all(
        (each["state"], each["attempts"], each["last_status"]) == ("delivered", 1, 204) for each in settled_deliveries
    )


async def test_only_subscribed_types_are_delivered(client, bench, receiver):
    webhook = await registered(client, receiver.url, types=["image.deleted", "image.created", "image.created"])
    record = await bench.image()
    await client.delete(f"/v1/images/{record.image_id}")
    await until(lambda: len(receiver.messages) == 2)
    assert [each.verified(webhook["secret"])["type"] for each in receiver.messages] == [
        "image.created",
        "image.deleted",
    ]


async def test_a_receiver_that_fails_at_first_receives_all_events_in_order(client, bench, receiver):
    attempts: defaultdict[str, int] = defaultdict(int)

    def answer(message: Message) -> int:
        attempts[message.id] += 1
        return 204 if attempts[message.id] > 2 else 503

    receiver.answer = answer
    webhook = await registered(client, receiver.url)
    for seed in range(3):
        record = await bench.image(seed)
        await client.delete(f"/v1/images/{record.image_id}")
    settled_deliveries = await settled(client, webhook, 3 * (len(AN_IMAGE) + 1))
    assert all((each["state"], each["attempts"]) == ("delivered", 3) for each in settled_deliveries)
    orders = in_order(receiver, webhook["secret"])
    assert len(orders) == 6  # three jobs and three images
    assert all(numbers == sorted(numbers) for numbers in orders.values())


async def test_events_are_delivered_after_an_outage_of_the_receiver_and_of_the_service(tmp_path, receiver, monkeypatch):
    monkeypatch.setattr(webhook_dispatcher, "SETTLE_WITHIN_S", 0.5)  # deliveries in flight at the shutdown are repeated
    quick = LOCAL_WEBHOOKS.model_copy(update={"timeout_s": 1.0})
    receiver.down()
    before = make_bench(tmp_path, webhooks=quick)
    async with client_of(before) as client, working(before):
        webhook = await registered(client, receiver.url)
        record = await before.image(1)
        await client.delete(f"/v1/images/{record.image_id}")
        async with asyncio.timeout(PATIENCE_S):
            while not any(each["attempts"] > 1 for each in await deliveries(client, webhook)):
                pass
    assert receiver.messages == []

    after = make_bench(tmp_path, webhooks=quick)
    async with client_of(after) as client, working(after):
        await after.image(2)
        receiver.up()
        settled_deliveries = await settled(client, webhook, 2 * len(AN_IMAGE) + 1)
        assert [each["type"] for each in settled_deliveries] == [*AN_IMAGE, "image.deleted", *AN_IMAGE]
        assert {each["state"] for each in settled_deliveries} == {"delivered"}
    assert {each["delivery_id"] for each in settled_deliveries} == set(receiver.ids())
    assert all(numbers == sorted(numbers) for numbers in in_order(receiver, webhook["secret"]).values())


async def test_a_receiver_that_hangs_does_not_delay_others(tmp_path, receiver):
    slow, proceed = Receiver(), threading.Event()
    slow.answer = lambda message: 204 if proceed.wait(PATIENCE_S) else 500
    slow.up()
    bench = make_bench(tmp_path, webhooks=LOCAL_WEBHOOKS.model_copy(update={"timeout_s": 2 * PATIENCE_S}))
    async with client_of(bench) as client, working(bench):
        await registered(client, slow.url)
        webhook = await registered(client, receiver.url)
        for seed in range(4):
            await bench.image(seed)
        await until(lambda: len(receiver.messages) == 4 * len(AN_IMAGE))
        await settled(client, webhook, 4 * len(AN_IMAGE))
        assert len(slow.messages) <= webhook_dispatcher.PER_WEBHOOK
        proceed.set()
    slow.down()


async def test_a_timeout_is_a_failed_delivery(tmp_path, receiver):
    proceed = threading.Event()
    receiver.answer = lambda message: 204 if proceed.wait(PATIENCE_S) else 500
    bench = make_bench(tmp_path, webhooks=LOCAL_WEBHOOKS.model_copy(update={"timeout_s": 0.2, "retry_after_s": ()}))
    async with client_of(bench) as client, working(bench):
        webhook = await registered(client, receiver.url)
        await client.post(f"/v1/webhooks/{webhook['webhook_id']}/test")
        (delivery,) = await settled(client, webhook)
        proceed.set()
    assert (delivery["state"], delivery["last_status"]) == ("failed", None)
    assert "within 0.2 s" in delivery["last_error"]


async def test_a_redirect_is_a_failed_delivery_and_not_followed(tmp_path, receiver):
    receiver.answer = lambda message: 307
    bench = make_bench(tmp_path, webhooks=LOCAL_WEBHOOKS.model_copy(update={"retry_after_s": (0.02,)}))
    async with client_of(bench) as client, working(bench):
        webhook = await registered(client, receiver.url)
        await client.post(f"/v1/webhooks/{webhook['webhook_id']}/test")
        (delivery,) = await settled(client, webhook)
    assert (delivery["state"], delivery["attempts"], delivery["last_status"]) == ("failed", 2, 307)
    assert "answered 307" in delivery["last_error"]
    assert {each.path for each in receiver.messages} == {"/hook"}


async def test_a_410_disables_the_webhook_until_it_is_enabled(client, bench, receiver):
    receiver.answer = lambda message: 410
    webhook = await registered(client, receiver.url)
    url = f"/v1/webhooks/{webhook['webhook_id']}"
    await bench.image(1)
    await until(lambda: receiver.messages)
    async with asyncio.timeout(PATIENCE_S):
        while (await client.get(url)).json()["enabled"]:
            pass
    disabled = (await client.get(url)).json()
    assert (disabled["enabled"], "410" in disabled["disabled_reason"]) == (False, True)
    assert {each["state"] for each in await deliveries(client, webhook)} == {"failed"}

    before = {each["delivery_id"] for each in await deliveries(client, webhook)}
    receiver.answer = lambda message: 204
    await bench.image(2)
    assert (await client.post(f"{url}/enable")).json()["enabled"]
    failed = (await deliveries(client, webhook))[-1]
    again = await client.post(f"{url}/deliveries/{failed['delivery_id']}/redeliver")
    assert (again.status_code, again.json()["state"]) == (202, "pending")
    record = await bench.image(3)
    await until(lambda: len(set(receiver.ids()) - before) == len(AN_IMAGE))
    new = [each for each in await deliveries(client, webhook) if each["delivery_id"] not in before]
    assert record.image_id in {each["subject"] for each in new}  # none for the image generated while disabled
    assert len(new) == len(AN_IMAGE)
    await until(lambda: [each.id for each in receiver.messages].count(failed["delivery_id"]) >= 2)


async def test_a_test_event_is_delivered_only_to_its_webhook(client, receiver):
    tested = await registered(client, receiver.url, types=["job.dead"])
    other = await registered(client, receiver.url)
    accepted = await client.post(f"/v1/webhooks/{tested['webhook_id']}/test")
    assert (accepted.status_code, accepted.json()["type"]) == (202, "webhook.tested")
    await settled(client, tested)
    await client.post(f"/v1/webhooks/{other['webhook_id']}/test")
    await settled(client, other)
    assert len(receiver.messages) == 2
    event = receiver.messages[0].verified(tested["secret"])
    assert (event["type"], event["data"]) == ("webhook.tested", {"webhook_id": tested["webhook_id"]})


async def test_registration_is_idempotent_and_shows_the_secret_once(client):
    key, body = {"Idempotency-Key": "hook-1"}, {"url": "https://example.com/hook"}
    created = await client.post("/v1/webhooks", json=body, headers=key)
    assert created.headers["location"] == f"/v1/webhooks/{created.json()['webhook_id']}"
    assert webhooks.is_secret(created.json()["secret"])
    again = await client.post("/v1/webhooks", json=body, headers=key)
    assert (again.status_code, again.json()) == (201, created.json())
    other = await client.post("/v1/webhooks", json={"url": "https://example.com/other"}, headers=key)
    assert is_problem(other, 422, "idempotency_mismatch")

    (listed,) = (await client.get("/v1/webhooks")).json()["webhooks"]
    one = (await client.get(created.headers["location"])).json()
    assert listed == one == {name: value for name, value in created.json().items() if name != "secret"}
    assert (await client.delete(created.headers["location"])).status_code == 204
    assert is_problem(await client.get(created.headers["location"]), 404, "webhook_not_found")


async def test_a_secret_of_the_client_signs(client, receiver):
    secret = webhooks.new_secret()
    webhook = await registered(client, receiver.url, secret=secret)
    await client.post(f"/v1/webhooks/{webhook['webhook_id']}/test")
    await until(lambda: receiver.messages)
    assert receiver.messages[0].verified(secret)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"url": "https://example.com", "types": ["image.made"]}, "image.created, image.updated, image.deleted"),
        ({"url": "https://example.com", "secret": "whsec_c2hvcnQ="}, "24 to 64 bytes"),
        ({"url": "https://example.com", "secret": "geheim"}, "whsec_"),
        ({"url": "ftp://example.com"}, "https://"),
        ({"url": "https://"}, "https://"),
        ({"url": "example.com/hook"}, "https://"),
        ({"url": "https://me:secret@example.com"}, "credentials"),
        ({"url": "https://example.com/" + "x" * 2000}, "2000"),
        ({"url": "https://exa mple.com:99999999"}, "https://example.com/hook"),
        ({"url": 7}, "url"),
        ({"url": "https://example.com", "type": ["image.created"]}, "did you mean types?"),
        ({}, "url"),
    ],
)
async def test_an_invalid_webhook_is_rejected_with_what_to_send(client, body, expected):
    rejected = await client.post("/v1/webhooks", json=body)
    assert is_problem(rejected, 422, "invalid_request")
    assert expected in rejected.json()["detail"]


async def test_the_number_of_webhooks_per_owner_is_limited(tmp_path):
    bench = make_bench(tmp_path, webhooks=WebhookSettings(max_per_owner=1))
    async with client_of(bench) as client:
        await registered(client, "https://example.com")
        rejected = await client.post("/v1/webhooks", json={"url": "https://example.com"})
        assert is_problem(rejected, 409, "webhook_limit_reached")


async def test_webhooks_are_isolated_between_owners(client, bench, receiver):
    other = await bench.services.webhooks.register("other", receiver.url)
    sent = await bench.services.webhooks.test(other.webhook_id, "other")
    await until(lambda: receiver.messages)
    await bench.image()
    url = f"/v1/webhooks/{other.webhook_id}"
    for request in (
        client.get(url),
        client.patch(url, json={"enabled": False}),
        client.post(f"{url}/rotate-secret"),
        client.post(f"{url}/enable"),
        client.post(f"{url}/test"),
        client.get(f"{url}/deliveries"),
        client.get(f"{url}/deliveries/{sent.delivery_id}"),
        client.post(f"{url}/deliveries/{sent.delivery_id}/redeliver"),
        client.post(f"{url}/deliveries/{sent.delivery_id}/retry"),
    ):
        assert is_problem(await request, 404, "webhook_not_found")
    assert (await client.delete(url)).status_code == 204  # as if it had been deleted before
    assert await bench.services.webhooks.get(other.webhook_id, "other") == other
    assert (await client.get("/v1/webhooks")).json()["data"] == []
    own = await registered(client, receiver.url)
    own_deliveries = f"/v1/webhooks/{own['webhook_id']}/deliveries"
    for request in (
        client.get(f"{own_deliveries}/{UNKNOWN_ID}"),
        client.get(f"{own_deliveries}/nonsense"),
        client.get(f"{own_deliveries}/{sent.delivery_id}"),
        client.post(f"{own_deliveries}/{UNKNOWN_ID}/redeliver"),
        client.post(f"{own_deliveries}/{UNKNOWN_ID}/retry"),
    ):
        assert is_problem(await request, 404, "delivery_not_found")
    await client.post(f"/v1/webhooks/{own['webhook_id']}/test")
    await settled(client, own)
    assert len(receiver.messages) == 2  # the image belongs to another owner


async def test_deliveries_are_paginated(client, receiver):
    webhook = await registered(client, receiver.url)
    url = f"/v1/webhooks/{webhook['webhook_id']}"
    sent = [(await client.post(f"{url}/test")).json()["delivery_id"] for _ in range(3)]
    first = (await client.get(f"{url}/deliveries", params={"limit": 2})).json()
    assert first["has_more"]
    assert first["data"] == first["deliveries"]
    for cursor in ("after", "before"):
        rest = (await client.get(f"{url}/deliveries", params={"limit": 2, cursor: first["next"]})).json()
        assert [each["delivery_id"] for each in first["data"] + rest["data"]] == sent[::-1]
        assert (rest["has_more"], rest["next"]) == (False, None)
    oldest = (await client.get(f"{url}/deliveries", params={"limit": 1, "order": "asc"})).json()
    second = (await client.get(f"{url}/deliveries", params={"order": "asc", "after": oldest["next"]})).json()
    assert [each["delivery_id"] for each in oldest["data"] + second["data"]] == sent
    moment = oldest["data"][0]["created_at"]
    for bound, found in (("created_after", sent[::-1]), ("created_before", [])):
        page = (await client.get(f"{url}/deliveries", params={bound: moment})).json()
        assert [each["delivery_id"] for each in page["data"]] == found


async def test_webhooks_are_paginated(client):
    made = [(await registered(client, "https://example.com"))["webhook_id"] for _ in range(3)]
    first = (await client.get("/v1/webhooks", params={"limit": 2})).json()
    rest = (await client.get("/v1/webhooks", params={"limit": 2, "after": first["next"]})).json()
    assert [each["webhook_id"] for each in first["data"] + rest["data"]] == made[::-1]
    assert (first["has_more"], rest["has_more"], rest["next"]) == (True, False, None)
    assert first["data"] == first["webhooks"]


async def test_deliveries_are_filtered(tmp_path, receiver):
    receiver.answer = lambda message: 500 if message.path == "/hook" and b"webhook.tested" in message.body else 204
    bench = make_bench(tmp_path, webhooks=LOCAL_WEBHOOKS.model_copy(update={"retry_after_s": ()}))
    async with client_of(bench) as client, working(bench):
        webhook = await registered(client, receiver.url)
        await bench.image()
        await settled(client, webhook, len(AN_IMAGE))
        await client.post(f"/v1/webhooks/{webhook['webhook_id']}/test")
        await settled(client, webhook, len(AN_IMAGE) + 1)

        async def types(query: str) -> list[str]:
            found = await client.get(f"/v1/webhooks/{webhook['webhook_id']}/deliveries?order=asc&{query}")
            assert found.status_code == 200, found.text
            return [each["type"] for each in found.json()["data"]]

        assert await types("state=failed") == ["webhook.tested"]
        assert await types("state=failed&state=delivered") == [*AN_IMAGE, "webhook.tested"]
        assert await types("state=failed,delivered&type=image.created") == ["image.created"]
        assert await types("type=image.created,job.submitted&type=webhook.tested") == [
            "job.submitted",
            "image.created",
            "webhook.tested",
        ]
        assert await types("state=pending") == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("state=faild", "did you mean failed?"),
        ("state=failed,pendig", "did you mean pending?"),
        ("type=image.create", "did you mean image.created?"),
        ("type=image.created&type=job.fail", "did you mean job.failed?"),
        ("state=made_up", "'pending', 'delivered' or 'failed'"),
        ("sate=failed", "did you mean state?"),
        ("order=up", "'desc' or 'asc'"),
        ("after=nonsense", "after"),
    ],
)
async def test_an_unknown_filter_is_rejected_with_the_nearest(client, query, expected):
    webhook = await registered(client, "https://example.com")
    rejected = await client.get(f"/v1/webhooks/{webhook['webhook_id']}/deliveries?{query}")
    assert is_problem(rejected, 422, "invalid_request")
    assert expected in rejected.json()["detail"]


async def test_a_webhook_is_changed_paused_and_enabled(client, bench, receiver):
    webhook = await registered(client, "https://example.com", types=["job.dead"])
    url = f"/v1/webhooks/{webhook['webhook_id']}"
    shown = {name: value for name, value in webhook.items() if name != "secret"}
    for body in ({}, {"url": None, "types": None, "enabled": None}, {"enabled": True}):
        assert (await client.patch(url, json=body)).json() == shown
    changed = await client.patch(url, json={"url": receiver.url, "types": []})
    assert changed.json() == shown | {"url": receiver.url, "types": []} == (await client.get(url)).json()

    paused = (await client.patch(url, json={"enabled": False})).json()
    assert (paused["enabled"], paused["disabled_reason"]) == (False, "Paused by its owner.")
    assert datetime.fromisoformat(paused["disabled_at"]).tzinfo is not None
    await bench.image(1)
    enabled = (await client.patch(url, json={"enabled": True})).json()
    assert (enabled["enabled"], enabled["disabled_at"], enabled["disabled_reason"]) == (True, None, None)
    await bench.image(2)
    await settled(client, webhook, len(AN_IMAGE))
    assert len(receiver.ids()) == len(AN_IMAGE)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"url": "ftp://example.com"}, "https://"),
        ({"url": "https://example.com", "types": ["image.creatd"]}, "did you mean image.created?"),
        ({"enabled": "no"}, "enabled"),
        ({"secret": "whsec_c2hvcnQ="}, "no such field"),
        ({"enable": True}, "did you mean enabled?"),
        ([], "body"),
    ],
)
async def test_an_invalid_change_is_rejected_and_changes_nothing(client, body, expected):
    webhook = await registered(client, "https://example.com/hook")
    url = f"/v1/webhooks/{webhook['webhook_id']}"
    before = (await client.get(url)).json()
    rejected = await client.patch(url, json=body)
    assert is_problem(rejected, 422, "invalid_request")
    assert expected in rejected.json()["detail"]
    assert (await client.get(url)).json() == before


async def test_a_private_address_can_not_be_patched_in(tmp_path):
    bench = make_bench(tmp_path)
    async with client_of(bench) as client:
        webhook = await registered(client, "https://example.com/hook")
        rejected = await client.patch(f"/v1/webhooks/{webhook['webhook_id']}", json={"url": "http://127.0.0.1/"})
        assert is_problem(rejected, 422, "address_refused")


async def test_a_rotated_secret_signs_beside_the_previous_one(client, receiver):
    webhook = await registered(client, receiver.url)
    url = f"/v1/webhooks/{webhook['webhook_id']}"
    rotated = await client.post(f"{url}/rotate-secret")
    assert (rotated.status_code, rotated.headers["cache-control"]) == (200, "no-store")
    secret = rotated.json()["secret"]
    assert webhooks.is_secret(secret)
    assert secret != webhook["secret"]
    left = datetime.fromisoformat(rotated.json()["previous_secret_expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=23) < left < timedelta(hours=25)
    assert "secret" not in (await client.get(url)).json()

    await client.post(f"{url}/test")
    await until(lambda: receiver.messages)
    message = receiver.messages[0]
    assert message.headers["webhook-signature"].count("v1,") == 2
    assert message.verified(secret) == message.verified(webhook["secret"])


async def test_a_secret_of_the_client_and_a_repeated_rotation(client):
    webhook = await registered(client, "https://example.com")
    url, secret = f"/v1/webhooks/{webhook['webhook_id']}/rotate-secret", webhooks.new_secret()
    own = await client.post(url, json={"secret": secret})
    assert own.json()["secret"] == secret
    first = await client.post(url, headers={"Idempotency-Key": "rotation"})
    again = await client.post(url, headers={"Idempotency-Key": "rotation"})
    assert first.json() == again.json()
    assert first.json()["secret"] != secret
    other = await client.post(url, json={"secret": secret}, headers={"Idempotency-Key": "rotation"})
    assert is_problem(other, 422, "idempotency_mismatch")


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b'{"secret": "geheim"}', "application/json", 422),
        (b'{"secrt": ""}', "application/json", 422),
        (b"{}", "text/plain", 415),
        (b"{}", None, 415),
        (b"{", "application/json", 400),
    ],
)
async def test_an_invalid_rotation_is_rejected(client, content, media_type, status):
    webhook = await registered(client, "https://example.com")
    headers = {} if media_type is None else {"Content-Type": media_type}
    url = f"/v1/webhooks/{webhook['webhook_id']}/rotate-secret"
    assert (await client.post(url, content=content, headers=headers)).status_code == status
    assert (await client.get(url.removesuffix("/rotate-secret"))).json()["previous_secret_expires_at"] is None


async def test_a_delivery_shows_what_was_sent_and_answered(client, receiver):
    receiver.body = b"thanks \xff\0" + b"x" * 10_000
    webhook = await registered(client, receiver.url)
    url = f"/v1/webhooks/{webhook['webhook_id']}"
    sent = (await client.post(f"{url}/test")).json()
    (delivery,) = await settled(client, webhook)
    details = (await client.get(f"{url}/deliveries/{sent['delivery_id']}")).json()
    request, response = details.pop("request"), details.pop("response")
    assert details == delivery
    assert (details["response_status"], details["finished_at"]) == (details["last_status"], details["settled_at"])

    (message,) = receiver.messages
    assert request["url"] == receiver.url
    assert request["body"].encode() == message.body
    assert request["headers"].items() <= message.headers.items()
    assert {"webhook-id", "webhook-timestamp", "webhook-signature"} < request["headers"].keys()
    assert webhook["secret"].removeprefix("whsec_") not in str(details) + str(request)
    assert (response["status"], response["headers"]["location"]) == (204, "/elsewhere")
    assert response["body"] == ""  # a 204 has none

    receiver.answer = lambda message: 200
    await client.post(f"{url}/deliveries/{sent['delivery_id']}/retry")
    await settled(client, webhook)
    response = (await client.get(f"{url}/deliveries/{sent['delivery_id']}")).json()["response"]
    assert (response["status"], len(response["body"])) == (200, 4096)
    assert response["body"].startswith("thanks \ufffd\0xxx")


async def test_the_last_of_several_attempts_is_shown(tmp_path, receiver):
    receiver.answer = lambda message: 500 if len(receiver.messages) == 1 else 503
    bench = make_bench(tmp_path, webhooks=LOCAL_WEBHOOKS.model_copy(update={"retry_after_s": (0.02,)}))
    async with client_of(bench) as client, working(bench):
        webhook = await registered(client, receiver.url)
        url = f"/v1/webhooks/{webhook['webhook_id']}/deliveries"
        await client.post(f"/v1/webhooks/{webhook['webhook_id']}/test")
        (delivery,) = await settled(client, webhook)
        details = (await client.get(f"{url}/{delivery['delivery_id']}")).json()
        assert (details["response"]["status"], details["attempts"]) == (503, 2)
        receiver.down()
        await client.post(f"{url}/{delivery['delivery_id']}/retry")
        (delivery,) = await settled(client, webhook)
        details = (await client.get(f"{url}/{delivery['delivery_id']}")).json()
        assert (details["state"], details["response"], details["response_status"]) == ("failed", None, None)
        assert details["request"]["url"] == receiver.url


async def test_a_response_whose_body_never_ends_is_accepted_and_cut_off(client, receiver, monkeypatch):
    monkeypatch.setattr(webhook_dispatcher, "BODY_WITHIN_S", 0.1)
    receiver.answer, receiver.body, receiver.declared_bytes = lambda message: 200, b"wait", 100
    webhook = await registered(client, receiver.url)
    await client.post(f"/v1/webhooks/{webhook['webhook_id']}/test")
    (delivery,) = await settled(client, webhook)
    assert (delivery["state"], delivery["attempts"], delivery["last_error"]) == ("delivered", 1, None)
    details = await client.get(f"/v1/webhooks/{webhook['webhook_id']}/deliveries/{delivery['delivery_id']}")
    assert details.json()["response"]["body"] == "wait"


@pytest.mark.parametrize("type_", TYPES)
def test_the_body_stays_below_the_limit_for_every_event(type_):
    image = {"request_id": "r" * 128, "image_id": UNKNOWN_ID, "owner": "o" * 128, "digest": "d" * 64, "seconds": 0.1}
    problem = to_problem(StageFailed(stage="generate", reason="\N{SNOWMAN}" * 100_000))
    payload = image | {"kind": "generate", "result": {"image_id": UNKNOWN_ID}, "problem": problem}
    record = EventRecord(
        sequence=2**63 - 1,
        type=type_,
        owner="o" * 128,
        image_id=UNKNOWN_ID,
        job_id=UNKNOWN_ID,
        payload=payload,
        created_at=datetime.now(UTC),
    )
    body = cloudevent_body(record, UNKNOWN_ID, f"https://{'x' * 200}.example/")
    assert len(body) < MAX_BODY_BYTES
    data = json.loads(body)["data"]
    assert data["job_url"] == f"https://{'x' * 200}.example/v1/jobs/{UNKNOWN_ID}"
    assert "//v1/images" not in data["image_url"]
