"""Webhooks on SQLite and PostgreSQL: each event is delivered once per webhook, in order per image."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest

from pipeline.errors import DeliveryNotFound, IdempotencyMismatch, WebhookLimitReached, WebhookNotFound
from pipeline.event_records import TYPES
from pipeline.jobs import IdempotencyKey, JobState
from pipeline.settings import WebhookSettings
from pipeline.store import EventLog, WebhookStore, open_database
from pipeline.store.log import log
from pipeline.store.pages import PageQuery
from pipeline.webhooks import (
    JITTER,
    ROTATION_S,
    Claim,
    DeliveryState,
    Exchange,
    ReceivedResponse,
    SentRequest,
    Webhook,
    backoff_s,
)

LEASE_S = 30.0
SENT = SentRequest(url="https://receiver.example/hook", headers={"webhook-id": "d"}, body="{}")
SECRET = "whsec_c2VjcmV0"


@pytest.fixture
def store(engine, clock) -> WebhookStore:
    return WebhookStore(EventLog(engine), clock)


def register(store: WebhookStore, owner: str = "public", **options) -> Webhook:
    return store.register(owner, "https://receiver.example/hook", **({"secret": SECRET} | options))


def publish(store: WebhookStore, *images: str, type_: str = "image.created", owner: str = "public") -> None:
    with store.log.writing() as connection:
        for image_id in images:
            log(connection, type_, owner, image_id=image_id, payload={"of": image_id})


def expand(store: WebhookStore, limit: int = 100) -> None:
    while store.expand(limit):
        pass


def claim(store: WebhookStore, limit: int = 100, per_webhook: int = 100, **options) -> Sequence[Claim]:
    return store.claim(limit, lease_s=LEASE_S, per_webhook=per_webhook, **options)


def subjects(claims: Sequence[Claim]) -> list[str | None]:
    return [each.delivery.subject for each in claims]


def states(store: WebhookStore, webhook: Webhook) -> list[DeliveryState]:
    return [each.state for each in store.deliveries(webhook.webhook_id, webhook.owner, PageQuery(limit=100))]


def test_events_after_the_registration_are_delivered(store):
    publish(store, "before")
    webhook = register(store)
    publish(store, "a")
    expand(store)

    (claimed,) = claim(store)
    assert (claimed.url, claimed.secrets, claimed.record.payload) == (webhook.url, (SECRET,), {"of": "a"})
    delivery = claimed.delivery
    assert (delivery.type, delivery.subject, delivery.attempts) == ("image.created", "a", 1)
    assert claim(store) == []

    store.delivered(delivery.delivery_id, 204)
    (settled,) = store.deliveries(webhook.webhook_id, "public", PageQuery(limit=10))
    assert (settled.state, settled.last_status, settled.last_error) == (DeliveryState.DELIVERED, 204, None)
    assert settled.settled_at is not None
    assert store.next_due_s() is None


def test_a_webhook_receives_events_of_its_owner_and_types(store):
    everything, created = register(store), register(store, types=["image.created"])
    foreign = register(store, "other")
    publish(store, "a")
    publish(store, "a", type_="image.deleted")
    publish(store, "b", owner="other")
    expand(store)
    delivered = {
        each.webhook_id: [d.type for d in store.deliveries(each.webhook_id, each.owner, PageQuery(limit=9))]
        for each in (everything, created, foreign)
    }
    assert delivered == {
        everything.webhook_id: ["image.deleted", "image.created"],
        created.webhook_id: ["image.created"],
        foreign.webhook_id: ["image.created"],
    }


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_no_event_is_skipped_or_delivered_twice_for_any_batch_size(store, limit):
    webhooks = [register(store), register(store, types=["image.created"])]
    for number in range(5):
        publish(store, f"i{number}")
        publish(store, f"i{number}", owner="other")
        if number % 2:
            expand(store, limit)
    expand(store, limit)
    for webhook in webhooks:
        deliveries = store.deliveries(webhook.webhook_id, "public", PageQuery(limit=100))
        assert sorted(each.subject for each in deliveries) == [f"i{number}" for number in range(5)]


def test_concurrent_dispatchers_create_each_delivery_once(database_url, store):
    webhook = register(store)
    publish(store, *(f"i{number}" for number in range(40)))
    barrier = Barrier(4)

    def work(_: int) -> None:
        engine = open_database(database_url)
        barrier.wait()
        expand(WebhookStore(EventLog(engine)), limit=3)
        engine.dispose()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(states(store, webhook)) == 40


def test_deliveries_are_ordered_per_image_and_images_are_independent(store, clock):
    register(store)
    publish(store, "a", "b")
    publish(store, "a", "b", type_="image.deleted")
    expand(store)

    a, b = claim(store)
    assert subjects([a, b]) == ["a", "b"]
    store.put_off(a.delivery, 60, status=500, error="it is down")
    store.delivered(b.delivery.delivery_id, 200)
    (second_b,) = claim(store)
    assert (second_b.delivery.subject, second_b.delivery.type) == ("b", "image.deleted")
    assert claim(store) == []
    store.delivered(second_b.delivery.delivery_id, 200)

    clock.now += 61
    (a,) = claim(store)
    assert (a.delivery.type, a.delivery.attempts) == ("image.created", 2)
    store.delivered(a.delivery.delivery_id, 200)
    (second_a,) = claim(store)
    assert (second_a.delivery.subject, second_a.delivery.type) == ("a", "image.deleted")


def test_a_failed_delivery_does_not_block_the_next_one(store):
    webhook = register(store)
    publish(store, "a")
    publish(store, "a", type_="image.deleted")
    expand(store)
    (first,) = claim(store)
    store.put_off(first.delivery, None, status=None, error="nobody answers")
    (second,) = claim(store)
    assert second.delivery.type == "image.deleted"
    failed = store.deliveries(webhook.webhook_id, "public", PageQuery(limit=10))[-1]
    assert (failed.state, failed.last_error) == (DeliveryState.FAILED, "nobody answers")


def test_webhooks_share_claims_fairly(store):
    first, second = register(store, types=["image.created"]), register(store, types=["image.deleted"])
    publish(store, "a", "b", "c")
    publish(store, "a", type_="image.deleted")
    expand(store)
    claimed = claim(store, limit=3, per_webhook=2)
    assert [each.delivery.webhook_id for each in claimed].count(first.webhook_id) == 2
    assert [each.delivery.webhook_id for each in claimed].count(second.webhook_id) == 1
    assert store.next_due_s(but=[first.webhook_id]) > 0
    assert store.next_due_s() <= 0
    assert claim(store, per_webhook=2, in_hand={first.webhook_id: 2}) == []
    assert len(claim(store, per_webhook=2, in_hand={first.webhook_id: 1})) == 1


def test_concurrent_dispatchers_claim_disjoint_deliveries(database_url, store):
    webhook = register(store)
    publish(store, *(f"i{number}" for number in range(24)))
    expand(store)
    barrier = Barrier(4)

    def work(_: int) -> list[str]:
        engine = open_database(database_url)
        own = WebhookStore(EventLog(engine), store.clock)
        barrier.wait()
        done = []
        while claimed := claim(own, limit=2):
            for each in claimed:
                own.delivered(each.delivery.delivery_id, 200)
                done.append(each.delivery.delivery_id)
        engine.dispose()
        return done

    with ThreadPoolExecutor(4) as pool:
        done = [each for part in pool.map(work, range(4)) for each in part]
    assert len(done) == len(set(done)) == 24
    assert set(states(store, webhook)) == {DeliveryState.DELIVERED}


def test_claims_of_a_killed_dispatcher_expire(store, clock):
    register(store)
    publish(store, "a")
    expand(store)
    (lost,) = claim(store)
    assert store.next_due_s() == LEASE_S
    clock.now += LEASE_S
    (found,) = claim(store)
    assert (found.delivery.delivery_id, found.delivery.attempts) == (lost.delivery.delivery_id, 2)

    store.put_off(lost.delivery, None, status=None, error="too late")  # by the dispatcher whose claim has expired
    store.delivered(found.delivery.delivery_id, 200)
    store.put_off(found.delivery, 60, status=500, error="too late as well")
    assert store.next_due_s() is None


def test_a_delivery_can_be_retried(store, clock):
    webhook = register(store)
    publish(store, "a", "b")
    expand(store)
    delivered, failed = claim(store)
    store.delivered(delivered.delivery.delivery_id, 200)
    store.put_off(failed.delivery, None, status=503, error="away")
    for each in (delivered, failed):
        again = store.retry(webhook.webhook_id, each.delivery.delivery_id, "public")
        assert (again.state, again.attempts, again.settled_at) == (DeliveryState.PENDING, 0, None)
    assert sorted(subjects(claim(store))) == ["a", "b"]

    clock.now += LEASE_S
    (waiting, _) = claim(store)
    store.put_off(waiting.delivery, 8 * 3600, status=500, error="down")
    store.retry(webhook.webhook_id, waiting.delivery.delivery_id, "public")
    assert subjects(claim(store)) == [waiting.delivery.subject]


def test_a_test_event_goes_to_one_webhook_regardless_of_types(store):
    tested, other = register(store, types=["job.dead"]), register(store)
    delivery = store.test(tested.webhook_id, "public")
    expand(store)
    assert [each.delivery for each in claim(store)] != []
    assert [each.type for each in store.deliveries(tested.webhook_id, "public", PageQuery(limit=9))] == [
        "webhook.tested"
    ]
    assert (delivery.type, delivery.subject) == ("webhook.tested", None)
    assert states(store, other) == []
    store.test(tested.webhook_id, "public")
    assert len(claim(store)) == 1  # test events are not ordered


def test_a_disabled_webhook_receives_nothing_until_enabled(store):
    webhook = register(store)
    publish(store, "a", "b")
    expand(store)
    (first, *_) = claim(store, limit=1)
    store.put_off(first.delivery, None, status=410, error="gone")
    store.disable(webhook.webhook_id, webhook.url, "its receiver is gone")
    publish(store, "c")
    expand(store)
    disabled = store.get(webhook.webhook_id, "public")
    assert disabled.disabled_at is not None
    assert disabled.disabled_reason == "its receiver is gone"
    assert states(store, webhook) == [DeliveryState.FAILED] * 2
    store.retry(webhook.webhook_id, first.delivery.delivery_id, "public")
    assert (claim(store), store.next_due_s()) == ([], None)

    enabled = store.update(webhook.webhook_id, "public", enabled=True)
    assert (enabled.disabled_at, enabled.disabled_reason) == (None, None)
    publish(store, "d")
    expand(store)
    assert sorted(subjects(claim(store))) == ["a", "d"]


def test_a_paused_webhook_receives_nothing_until_enabled(store):
    webhook = register(store)
    publish(store, "a")
    expand(store)
    paused = store.update(webhook.webhook_id, "public", enabled=False)
    assert paused.disabled_at is not None
    assert paused.disabled_reason == "Paused by its owner."
    publish(store, "b")
    expand(store)
    assert states(store, webhook) == [DeliveryState.FAILED]
    assert store.update(webhook.webhook_id, "public", enabled=False) == paused
    store.update(webhook.webhook_id, "public", enabled=True)
    publish(store, "c")
    expand(store)
    assert subjects(claim(store)) == ["c"]


def test_the_receiver_of_an_older_url_disables_nothing(store):
    webhook = register(store)
    store.disable(webhook.webhook_id, "https://example.com/older", "its receiver is gone")
    assert store.get(webhook.webhook_id, webhook.owner).disabled_at is None


def test_pausing_keeps_why_a_webhook_was_disabled_before(store):
    webhook = register(store)
    store.disable(webhook.webhook_id, webhook.url, "its receiver is gone")
    assert store.update(webhook.webhook_id, "public", enabled=False).disabled_reason == "its receiver is gone"


def test_changes_apply_to_events_from_then_on(store):
    webhook = register(store, types=["image.created"])
    publish(store, "a")
    expand(store)
    changed = store.update(webhook.webhook_id, "public", url="https://new.example/", types=["image.deleted"])
    assert (changed.url, changed.types) == ("https://new.example/", ("image.deleted",))
    publish(store, "b")
    publish(store, "c", type_="image.deleted")
    expand(store)
    assert [(each.url, each.delivery.subject) for each in claim(store)] == [
        ("https://new.example/", "a"),
        ("https://new.example/", "c"),
    ]
    assert store.update(webhook.webhook_id, "public") == changed
    assert store.update(webhook.webhook_id, "public", types=[]).types == ()


def test_the_previous_secret_signs_for_a_day(store, clock):
    webhook = register(store)
    rotated = store.rotate_secret(webhook.webhook_id, "public", secret="whsec_new")
    assert rotated.secret == "whsec_new"
    assert rotated.previous_secret_expires_at == datetime.fromtimestamp(clock.now + ROTATION_S, UTC)
    publish(store, "a")
    expand(store)
    clock.now += ROTATION_S - 1
    (within,) = claim(store)
    assert within.secrets == ("whsec_new", SECRET)
    clock.now += LEASE_S
    (after,) = claim(store)
    assert after.secrets == ("whsec_new",)


def test_a_second_rotation_ends_the_oldest_secret(store):
    webhook = register(store)
    for secret in ("whsec_b", "whsec_c", "whsec_c"):
        store.rotate_secret(webhook.webhook_id, "public", secret=secret)
    publish(store, "a")
    expand(store)
    (claimed,) = claim(store)
    assert claimed.secrets == ("whsec_c", "whsec_b")


def test_an_idempotency_key_rotates_once(store):
    webhook, key = register(store), IdempotencyKey(key="k", fingerprint="f")
    made = [store.rotate_secret(webhook.webhook_id, "public", secret=secret, key=key) for secret in ("b", "c")]
    assert [each.secret for each in made] == ["b", "b"]
    with pytest.raises(IdempotencyMismatch):
        store.rotate_secret(webhook.webhook_id, "public", secret="d", key=IdempotencyKey(key="k", fingerprint="other"))


def test_the_last_exchange_of_a_delivery_is_recorded(store, clock):
    webhook = register(store)
    publish(store, "a")
    expand(store)
    (claimed,) = claim(store)
    delivery_id = claimed.delivery.delivery_id
    assert store.delivery(webhook.webhook_id, delivery_id, "public") == (claimed.delivery, None)

    refused = Exchange(request=SENT, response=ReceivedResponse(status=500, headers={"x": "y"}, body="no\0 \ufffd"))
    store.put_off(claimed.delivery, 1, status=500, error="no", exchange=refused)
    assert store.delivery(webhook.webhook_id, delivery_id, "public")[1] == refused
    clock.now += 1
    (again,) = claim(store)
    silent = Exchange(request=SENT, response=None)
    store.put_off(again.delivery, 1, status=None, error="no answer", exchange=silent)
    assert store.delivery(webhook.webhook_id, delivery_id, "public")[1] == silent
    clock.now += 1
    claim(store)
    accepted = Exchange(request=SENT, response=ReceivedResponse(status=204, headers={}, body=""))
    store.delivered(delivery_id, 204, accepted)
    assert store.delivery(webhook.webhook_id, delivery_id, "public")[1] == accepted


def test_an_idempotency_key_registers_one_webhook(store):
    key = IdempotencyKey(key="k", fingerprint="f")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: register(store, secret=f"{SECRET}{i}", key=key), range(16)))
    assert len({(each.webhook_id, each.secret) for each in made}) == 1
    with pytest.raises(IdempotencyMismatch):
        register(store, key=IdempotencyKey(key="k", fingerprint="other"))
    assert register(store, "other", key=key).webhook_id != made[0].webhook_id


def test_webhooks_per_owner_are_limited(store):
    for _ in range(2):
        register(store, max_per_owner=2)
    with pytest.raises(WebhookLimitReached, match="2 webhooks"):
        register(store, max_per_owner=2)
    register(store, "other", max_per_owner=2)


def test_webhooks_of_other_owners_are_not_found(store):
    webhook = register(store, "other")
    delivery = store.test(webhook.webhook_id, "other")
    own = register(store)
    for method in (store.get, store.delete, store.update, store.test):
        with pytest.raises(WebhookNotFound):
            method(webhook.webhook_id, "public")
    with pytest.raises(WebhookNotFound):
        store.deliveries(webhook.webhook_id, "public", PageQuery(limit=10))
    with pytest.raises(WebhookNotFound):
        store.retry(webhook.webhook_id, delivery.delivery_id, "public")
    with pytest.raises(WebhookNotFound):
        store.rotate_secret(webhook.webhook_id, "public", secret=SECRET)
    with pytest.raises(WebhookNotFound):
        store.delivery(webhook.webhook_id, delivery.delivery_id, "public")
    with pytest.raises(DeliveryNotFound):
        store.delivery(own.webhook_id, delivery.delivery_id, "public")
    with pytest.raises(DeliveryNotFound):
        store.retry(own.webhook_id, delivery.delivery_id, "public")
    assert [each.webhook_id for each in store.list("public", PageQuery(limit=10))] == [own.webhook_id]


def test_deleting_a_webhook_deletes_its_deliveries(store):
    webhook = register(store)
    publish(store, "a")
    expand(store)
    store.delete(webhook.webhook_id, "public")
    assert (store.next_due_s(), claim(store), store.list("public", PageQuery(limit=10))) == (None, [], [])


def test_deliveries_are_paginated_newest_first(store):
    webhook = register(store)
    for number in range(5):
        publish(store, f"i{number}")
        expand(store)
    first = store.deliveries(webhook.webhook_id, "public", PageQuery(limit=2))
    rest = store.deliveries(webhook.webhook_id, "public", PageQuery(limit=10, after=first[-1].delivery_id))
    assert [each.subject for each in [*first, *rest]] == ["i4", "i3", "i2", "i1", "i0"]


def test_lists_are_read_in_either_order_and_between_times(store):
    made = [register(store) for _ in range(3)]
    ids = [each.webhook_id for each in made]

    def listed(**page: object) -> list[str]:
        return [each.webhook_id for each in store.list("public", PageQuery(**{"limit": 10} | page))]

    assert listed() == ids[::-1]
    assert listed(is_ascending=True) == ids
    assert listed(is_ascending=True, after=ids[0], limit=1) == ids[1:2]
    assert listed(created_after=made[1].created_at) == ids[:0:-1]
    assert listed(created_before=made[1].created_at) == ids[:1]


def test_deliveries_are_filtered_by_state_and_type(store):
    webhook = register(store)
    publish(store, "a", "b")
    publish(store, "c", type_="image.deleted")
    expand(store)
    first, *_ = claim(store)
    store.delivered(first.delivery.delivery_id, 200)

    def found(**wanted: object) -> list[str | None]:
        page = PageQuery(limit=10, is_ascending=True)
        return [each.subject for each in store.deliveries(webhook.webhook_id, "public", page, **wanted)]

    assert found(states=[DeliveryState.PENDING]) == ["b", "c"]
    assert found(states=[DeliveryState.PENDING, DeliveryState.DELIVERED]) == ["a", "b", "c"]
    assert found(states=[DeliveryState.PENDING], types=["image.created"]) == ["b"]
    assert found(types=["image.deleted", "image.created"]) == ["a", "b", "c"]


def test_deliveries_are_pruned_with_their_events(store):
    webhook = register(store)
    publish(store, "a")
    expand(store)
    store.prune(datetime.now(UTC) - timedelta(seconds=60))
    assert len(states(store, webhook)) == 1
    store.prune(datetime.now(UTC) + timedelta(seconds=60))
    assert states(store, webhook) == []
    assert store.get(webhook.webhook_id, "public") == webhook


def test_retry_delays_follow_the_schedule_with_jitter():
    schedule = WebhookSettings().retry_after_s
    assert [backoff_s(schedule, attempt, 0.5) for attempt in range(1, 8)] == list(schedule)
    assert backoff_s(schedule, 8, 0.5) is None
    for attempt, wait in enumerate(schedule, 1):
        assert backoff_s(schedule, attempt, 0) == pytest.approx(wait * (1 - JITTER))
        assert backoff_s(schedule, attempt, 1) == pytest.approx(wait * (1 + JITTER))
    assert sorted(schedule) == list(schedule)


def test_every_final_job_state_has_an_event_type():
    assert {f"job.{state.value}" for state in JobState if state.is_final} < set(TYPES)


def test_secrets_are_left_out_of_reprs(store):
    webhook = register(store)
    publish(store, "a")
    expand(store)
    assert SECRET not in repr(webhook) + repr(claim(store))
