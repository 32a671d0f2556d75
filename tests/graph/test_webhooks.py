"""Webhooks over HTTP, with receivers that listen on real ports."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import httpx
import pytest

from graphs.events import webhooks as webhook_dispatcher
from graphs.events.webhooks import MAX_BODY_BYTES, cloudevent_body
from pipeline import webhooks
from pipeline.errors import StageFailed, to_problem
from pipeline.notices import TYPES, Notice
from pipeline.settings import WebhookSettings
from testing.harness import Bench, make_bench, working
from testing.waiting import PATIENCE_S, until
from testing.webhook_receiver import Message, Receiver
from tests.graph.clients import client_of, is_problem

pytestmark = pytest.mark.anyio

HERE = WebhookSettings(allow_private_addresses=True, retry_after_s=(0.02,) * 1000)
NOWHERE = "0198a3c0-0000-7000-8000-000000000000"
AN_IMAGE = ["job.submitted", "job.started", "image.created", "job.succeeded"]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch) -> None:
    monkeypatch.setattr(webhook_dispatcher, "POLL_S", 0.05)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.up()
    yield receiver
    receiver.down()


@pytest.fixture
async def bench(tmp_path, anyio_backend) -> AsyncIterator[Bench]:
    bench = make_bench(tmp_path, webhooks=HERE)
    async with working(bench):
        yield bench


@pytest.fixture
async def client(bench) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(bench) as client:
        yield client


async def registered(client: httpx.AsyncClient, url: str, **how: object) -> dict:
    made = await client.post("/v1/webhooks", json={"url": url} | how)
    assert made.status_code == 201, made.text
    return made.json()


async def deliveries(client: httpx.AsyncClient, webhook: dict) -> list[dict]:
    return (await client.get(f"/v1/webhooks/{webhook['webhook_id']}/deliveries")).json()["deliveries"]


async def settled(client: httpx.AsyncClient, webhook: dict, number: int = 1) -> list[dict]:
    """The deliveries, oldest first, once there are so many and none is pending."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await deliveries(client, webhook)
            if len(found) == number and all(each["state"] != "pending" for each in found):
                return found[::-1]


def in_order(receiver: Receiver, secret: str) -> dict[str, list[int]]:
    """The numbers of the events that came for each subject, each once."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for id_ in receiver.ids():
        event = next(m for m in receiver.messages if m.id == id_).verified(secret)
        found[event["subject"]].append(int(event["id"]))
    return found


async def test_what_happens_comes_signed_as_cloud_events(client, bench, receiver):
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

    told = await settled(client, webhook, len(AN_IMAGE))
    assert [each["type"] for each in told] == AN_IMAGE
    assert {each["delivery_id"] for each in told} == set(receiver.ids())
    assert all((each["state"], each["attempts"], each["last_status"]) == ("delivered", 1, 204) for each in told)


async def test_only_the_types_one_asked_for_come(client, bench, receiver):
    webhook = await registered(client, receiver.url, types=["image.deleted", "image.created", "image.created"])
    record = await bench.image()
    await client.delete(f"/v1/images/{record.image_id}")
    await until(lambda: len(receiver.messages) == 2)
    assert [each.verified(webhook["secret"])["type"] for each in receiver.messages] == [
        "image.created",
        "image.deleted",
    ]


async def test_a_receiver_that_fails_at_first_is_told_everything_in_order(client, bench, receiver):
    tries: defaultdict[str, int] = defaultdict(int)

    def reluctantly(message: Message) -> int:
        tries[message.id] += 1
        return 204 if tries[message.id] > 2 else 503

    receiver.answer = reluctantly
    webhook = await registered(client, receiver.url)
    for seed in range(3):
        record = await bench.image(seed)
        await client.delete(f"/v1/images/{record.image_id}")
    told = await settled(client, webhook, 3 * (len(AN_IMAGE) + 1))
    assert all((each["state"], each["attempts"]) == ("delivered", 3) for each in told)
    orders = in_order(receiver, webhook["secret"])
    assert len(orders) == 6  # three jobs and three images
    assert all(numbers == sorted(numbers) for numbers in orders.values())


async def test_what_happens_while_the_receiver_and_then_the_service_is_away_comes_afterwards(
    tmp_path, receiver, monkeypatch
):
    monkeypatch.setattr(
        webhook_dispatcher, "SETTLE_WITHIN_S", 0.5
    )  # what was just being claimed at the end comes again
    quick = HERE.model_copy(update={"timeout_s": 1.0})
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
        told = await settled(client, webhook, 2 * len(AN_IMAGE) + 1)
        assert [each["type"] for each in told] == [*AN_IMAGE, "image.deleted", *AN_IMAGE]
        assert {each["state"] for each in told} == {"delivered"}
    assert {each["delivery_id"] for each in told} == set(receiver.ids())
    assert all(numbers == sorted(numbers) for numbers in in_order(receiver, webhook["secret"]).values())


async def test_a_receiver_that_hangs_holds_up_no_other(tmp_path, receiver):
    slow, go_on = Receiver(), threading.Event()
    slow.answer = lambda message: 204 if go_on.wait(PATIENCE_S) else 500
    slow.up()
    bench = make_bench(tmp_path, webhooks=HERE.model_copy(update={"timeout_s": 2 * PATIENCE_S}))
    async with client_of(bench) as client, working(bench):
        await registered(client, slow.url)
        webhook = await registered(client, receiver.url)
        for seed in range(4):
            await bench.image(seed)
        await until(lambda: len(receiver.messages) == 4 * len(AN_IMAGE))
        await settled(client, webhook, 4 * len(AN_IMAGE))
        assert len(slow.messages) <= webhook_dispatcher.PER_WEBHOOK
        go_on.set()
    slow.down()


async def test_a_receiver_that_takes_too_long_has_not_taken_it(tmp_path, receiver):
    go_on = threading.Event()
    receiver.answer = lambda message: 204 if go_on.wait(PATIENCE_S) else 500
    bench = make_bench(tmp_path, webhooks=HERE.model_copy(update={"timeout_s": 0.2, "retry_after_s": ()}))
    async with client_of(bench) as client, working(bench):
        webhook = await registered(client, receiver.url)
        await client.post(f"/v1/webhooks/{webhook['webhook_id']}/test")
        (told,) = await settled(client, webhook)
        go_on.set()
    assert (told["state"], told["last_status"]) == ("failed", None)
    assert "within 0.2 s" in told["last_error"]


async def test_a_redirect_is_a_failure_and_not_followed(tmp_path, receiver):
    receiver.answer = lambda message: 307
    bench = make_bench(tmp_path, webhooks=HERE.model_copy(update={"retry_after_s": (0.02,)}))
    async with client_of(bench) as client, working(bench):
        webhook = await registered(client, receiver.url)
        await client.post(f"/v1/webhooks/{webhook['webhook_id']}/test")
        (told,) = await settled(client, webhook)
    assert (told["state"], told["attempts"], told["last_status"]) == ("failed", 2, 307)
    assert "answered 307" in told["last_error"]
    assert {each.path for each in receiver.messages} == {"/hook"}


async def test_a_receiver_that_is_gone_is_sent_nothing_more_until_it_is_enabled(client, bench, receiver):
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
    assert record.image_id in {each["subject"] for each in new}  # and nothing of the one made meanwhile
    assert len(new) == len(AN_IMAGE)
    await until(lambda: [each.id for each in receiver.messages].count(failed["delivery_id"]) >= 2)


async def test_a_test_comes_to_the_webhook_it_is_of_alone(client, receiver):
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


async def test_a_webhook_is_made_once_for_a_key_and_shows_its_secret_once(client):
    key, body = {"Idempotency-Key": "hook-1"}, {"url": "https://example.com/hook"}
    made = await client.post("/v1/webhooks", json=body, headers=key)
    assert made.headers["location"] == f"/v1/webhooks/{made.json()['webhook_id']}"
    assert webhooks.is_secret(made.json()["secret"])
    again = await client.post("/v1/webhooks", json=body, headers=key)
    assert (again.status_code, again.json()) == (201, made.json())
    other = await client.post("/v1/webhooks", json={"url": "https://example.com/other"}, headers=key)
    assert is_problem(other, 422, "idempotency_mismatch")

    (listed,) = (await client.get("/v1/webhooks")).json()["webhooks"]
    one = (await client.get(made.headers["location"])).json()
    assert listed == one == {name: value for name, value in made.json().items() if name != "secret"}
    assert (await client.delete(made.headers["location"])).status_code == 204
    assert is_problem(await client.get(made.headers["location"]), 404, "webhook_not_found")


async def test_a_secret_of_one_s_own_signs(client, receiver):
    secret = webhooks.new_secret()
    webhook = await registered(client, receiver.url, secret=secret)
    await client.post(f"/v1/webhooks/{webhook['webhook_id']}/test")
    await until(lambda: receiver.messages)
    assert receiver.messages[0].verified(secret)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"url": "https://example.com", "types": ["image.made"]}, "image.created, image.deleted"),
        ({"url": "https://example.com", "secret": "whsec_c2hvcnQ="}, "24 to 64 bytes"),
        ({"url": "https://example.com", "secret": "geheim"}, "whsec_"),
        ({"url": "ftp://example.com"}, "https://"),
        ({"url": "https://"}, "https://"),
        ({"url": "example.com/hook"}, "https://"),
        ({"url": "https://me:secret@example.com"}, "credentials"),
        ({"url": "https://example.com/" + "x" * 2000}, "2000"),
        ({"url": "https://exa mple.com:99999999"}, "https://example.com/hook"),
        ({"url": 7}, "url"),
        ({}, "url"),
    ],
)
async def test_a_webhook_that_can_not_be_is_refused_with_what_to_send(client, body, said):
    refused = await client.post("/v1/webhooks", json=body)
    assert is_problem(refused, 422, "invalid_request")
    assert said in refused.json()["detail"]


async def test_nobody_has_more_than_so_many(tmp_path):
    bench = make_bench(tmp_path, webhooks=WebhookSettings(max_per_owner=1))
    async with client_of(bench) as client:
        await registered(client, "https://example.com")
        refused = await client.post("/v1/webhooks", json={"url": "https://example.com"})
        assert is_problem(refused, 409, "too_many_webhooks")


async def test_owners_see_nothing_of_each_other(client, bench, receiver):
    foreign = await bench.services.webhooks.register("somebody", receiver.url)
    sent = await bench.services.webhooks.test(foreign.webhook_id, "somebody")
    await until(lambda: receiver.messages)
    await bench.image()
    url = f"/v1/webhooks/{foreign.webhook_id}"
    for ask in (
        client.get(url),
        client.delete(url),
        client.post(f"{url}/enable"),
        client.post(f"{url}/test"),
        client.get(f"{url}/deliveries"),
        client.post(f"{url}/deliveries/{sent.delivery_id}/redeliver"),
    ):
        assert is_problem(await ask, 404, "webhook_not_found")
    assert (await client.get("/v1/webhooks")).json() == {"webhooks": []}
    own = await registered(client, receiver.url)
    missing = await client.post(f"/v1/webhooks/{own['webhook_id']}/deliveries/{NOWHERE}/redeliver")
    assert is_problem(missing, 404, "delivery_not_found")
    await client.post(f"/v1/webhooks/{own['webhook_id']}/test")
    await settled(client, own)
    assert len(receiver.messages) == 2  # the image was not theirs


async def test_deliveries_come_in_pages(client, receiver):
    webhook = await registered(client, receiver.url)
    url = f"/v1/webhooks/{webhook['webhook_id']}"
    sent = [(await client.post(f"{url}/test")).json()["delivery_id"] for _ in range(3)]
    first = (await client.get(f"{url}/deliveries", params={"limit": 2})).json()
    rest = (await client.get(f"{url}/deliveries", params={"limit": 2, "before": first["next"]})).json()
    assert [each["delivery_id"] for each in first["deliveries"] + rest["deliveries"]] == sent[::-1]
    assert rest["next"] is None


@pytest.mark.parametrize("type_", TYPES)
def test_what_is_sent_stays_small_whatever_happened(type_):
    image = {"request_id": "r" * 128, "image_id": NOWHERE, "owner": "o" * 128, "digest": "d" * 64, "seconds": 0.1}
    problem = to_problem(StageFailed(stage="generate", reason="\N{SNOWMAN}" * 100_000))
    payload = image | {"kind": "generate", "result": {"image_id": NOWHERE}, "problem": problem}
    notice = Notice(
        sequence=2**63 - 1,
        type=type_,
        owner="o" * 128,
        image_id=NOWHERE,
        job_id=NOWHERE,
        payload=payload,
        created_at=datetime.now(UTC),
    )
    body = cloudevent_body(notice, NOWHERE, f"https://{'x' * 200}.example/")
    assert len(body) < MAX_BODY_BYTES
    data = json.loads(body)["data"]
    assert data["job_url"] == f"https://{'x' * 200}.example/v1/jobs/{NOWHERE}"
    assert "//v1/images" not in data["image_url"]
