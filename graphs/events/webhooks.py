"""Webhook dispatcher: expands events into deliveries, claims those that are due, sends them, and records the outcome.

Every ingress replica runs one, and takes over what another leaves undone. A receiver that is slow or away delays only
its own deliveries.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from random import Random
from typing import Any, NamedTuple

import httpx
import orjson
from standardwebhooks.webhooks import Webhook as Signer

from graphs.events.ssrf_guard import PublicAddressTransport, check_url
from pipeline.errors import AddressRefused
from pipeline.event_records import EventRecord
from pipeline.jobs import IdempotencyKey
from pipeline.settings import WebhookSettings
from pipeline.store import WebhookStore
from pipeline.store.pages import PageQuery
from pipeline.webhooks import (
    Claim,
    Delivery,
    DeliveryState,
    Exchange,
    ReceivedResponse,
    SentRequest,
    Webhook,
    backoff_s,
    new_secret,
)

POLL_S = 2.0  # for what other replicas have stored or left undone
STOP_WITHIN_S = 2.0
CONNECT_WITHIN_S = 5.0
SETTLE_WITHIN_S = 15.0  # a delivery is claimed for the request's time and this
EVENTS = 500  # turned into deliveries at a time
CAPACITY = 16  # requests at a time
PER_WEBHOOK = 4  # of them to one receiver
MAX_ERROR_CHARS = 500
MAX_RECORDED_BYTES = 4096  # of a response's body, and of its headers
BODY_WITHIN_S = 2.0  # after the headers of a response, for as much of its body as is recorded

logger = logging.getLogger("ai_pipeline")


class WebhookDispatcher:
    """The webhooks of all owners, and the deliveries in flight of one process.

    Args:
        store: where webhooks and deliveries are.
        settings: bounds, and which addresses may be sent to.
        public_url: where clients reach the service, for URLs in deliveries.
        random: source of the jitter of retries.
    """

    def __init__(
        self,
        store: WebhookStore,
        settings: WebhookSettings,
        *,
        public_url: str | None = None,
        random: Random | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._public_url = public_url
        self._random = random or Random()
        self._in_flight: dict[asyncio.Task[None], str] = {}  # to the webhook's id
        self._wake_up = asyncio.Event()  # there may be a due delivery, and a free slot
        self._is_needed = True  # a webhook is enabled, as far as this process knows

    async def register(
        self,
        owner: str,
        url: str,
        *,
        types: Sequence[str] = (),
        secret: str | None = None,
        key: IdempotencyKey | None = None,
    ) -> Webhook:
        """Subscribe a URL to an owner's events from now on.

        Args:
            owner: of the events.
            url: of the receiver.
            types: of events; all if empty.
            secret: signs deliveries; a new one if None.
            key: the client's name for the request.

        Raises:
            InvalidRequest: nothing can be sent to that URL; says what to send instead.
            IdempotencyMismatch: the key was used for another request.
            WebhookLimitReached: the owner has as many as one may have.
        """
        check_url(url, allow_private=self._settings.allow_private_addresses)
        registered = await asyncio.to_thread(
            self._store.register,
            owner,
            url,
            types=types,
            secret=secret or new_secret(),
            max_per_owner=self._settings.max_per_owner,
            key=key,
        )
        self._look()
        return registered

    async def list(self, owner: str, page: PageQuery) -> Sequence[Webhook]:
        """List an owner's webhooks."""
        return await asyncio.to_thread(self._store.list, owner, page)

    async def get(self, webhook_id: str, owner: str) -> Webhook:
        """Read a webhook.

        Raises:
            WebhookNotFound: the owner has no such webhook.
        """
        return await asyncio.to_thread(self._store.get, webhook_id, owner)

    async def delete(self, webhook_id: str, owner: str) -> None:
        """Remove a webhook and its deliveries.

        Raises:
            WebhookNotFound: the owner has no such webhook.
        """
        await asyncio.to_thread(self._store.delete, webhook_id, owner)

    async def update(
        self,
        webhook_id: str,
        owner: str,
        *,
        url: str | None = None,
        types: Sequence[str] | None = None,
        enabled: bool | None = None,
    ) -> Webhook:
        """Change a webhook; what is None stays as it is.

        Args:
            webhook_id: of the webhook.
            owner: of the webhook.
            url: of the receiver, for all that is sent from now on.
            types: of events; all if empty.
            enabled: True enables a disabled webhook for events from now on; False disables an enabled one, and its
                pending deliveries fail.

        Raises:
            InvalidRequest: nothing can be sent to that URL; says what to send instead.
            WebhookNotFound: the owner has no such webhook.
        """
        if url is not None:
            check_url(url, allow_private=self._settings.allow_private_addresses)
        updated = await asyncio.to_thread(self._store.update, webhook_id, owner, url=url, types=types, enabled=enabled)
        self._look()
        return updated

    async def rotate_secret(
        self, webhook_id: str, owner: str, *, secret: str | None = None, key: IdempotencyKey | None = None
    ) -> Webhook:
        """Replace a webhook's secret; for 24 h deliveries are signed with the previous one as well.

        Args:
            webhook_id: of the webhook.
            owner: of the webhook.
            secret: signs deliveries; a new one if None.
            key: the client's name for the request.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            WebhookNotFound: the owner has no such webhook.
        """
        return await asyncio.to_thread(
            self._store.rotate_secret, webhook_id, owner, secret=secret or new_secret(), key=key
        )

    async def deliveries(
        self,
        webhook_id: str,
        owner: str,
        page: PageQuery,
        *,
        states: Sequence[DeliveryState] = (),
        types: Sequence[str] = (),
    ) -> Sequence[Delivery]:
        """List a webhook's deliveries: those in one of these states and of these event types, if any are given.

        Raises:
            WebhookNotFound: the owner has no such webhook.
        """
        return await asyncio.to_thread(self._store.deliveries, webhook_id, owner, page, states=states, types=types)

    async def delivery(self, webhook_id: str, delivery_id: str, owner: str) -> tuple[Delivery, Exchange | None]:
        """Read a delivery, and its last attempt that has ended, if there is one.

        Raises:
            WebhookNotFound: the owner has no such webhook.
            DeliveryNotFound: the webhook has no such delivery.
        """
        return await asyncio.to_thread(self._store.delivery, webhook_id, delivery_id, owner)

    async def retry(self, webhook_id: str, delivery_id: str, owner: str) -> Delivery:
        """Send a delivery again now, whatever its state.

        Raises:
            WebhookNotFound: the owner has no such webhook.
            DeliveryNotFound: the webhook has no such delivery.
        """
        delivery = await asyncio.to_thread(self._store.retry, webhook_id, delivery_id, owner)
        self._wake_up.set()
        return delivery

    async def test(self, webhook_id: str, owner: str) -> Delivery:
        """Send `webhook.tested` to a webhook.

        Raises:
            WebhookNotFound: the owner has no such webhook.
        """
        delivery = await asyncio.to_thread(self._store.test, webhook_id, owner)
        self._wake_up.set()
        return delivery

    def on_event(self, _: EventRecord) -> None:
        """Look for due deliveries after an event, of this process or another."""
        if self._is_needed:  # else another process, which enabled one, serves it until this one polls
            self._wake_up.set()

    async def run(self) -> None:
        """Send due deliveries until cancelled; those without an outcome by then become due again."""
        async with _client(self._settings) as client:
            try:
                while True:
                    self._wake_up.clear()
                    try:
                        wait_s = await self._start_due(client)
                    except Exception:
                        logger.exception("No deliveries could be taken")
                        wait_s = POLL_S
                    with suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):  # `wait_for` loses a cancellation that comes with the event
                            await self._wake_up.wait()
            finally:
                await self._end()

    async def _start_due(self, client: httpx.AsyncClient) -> float:
        """Start due deliveries, as far as there are free slots; return when to poll again, in seconds."""
        self._is_needed = await asyncio.to_thread(self._store.has_enabled)
        if not self._is_needed:
            return POLL_S
        while await asyncio.to_thread(self._store.expand, EVENTS):
            pass
        while (free := CAPACITY - len(self._in_flight)) > 0:
            in_flight = Counter(self._in_flight.values())
            busy = [webhook_id for webhook_id, num in in_flight.items() if num >= PER_WEBHOOK]
            due_s = await asyncio.to_thread(self._store.next_due_s, busy)
            if due_s is None or due_s > 0:
                return POLL_S if due_s is None else min(due_s, POLL_S)
            lease_s = self._settings.timeout_s + SETTLE_WITHIN_S
            claims = await asyncio.to_thread(
                self._store.claim, free, lease_s=lease_s, per_webhook=PER_WEBHOOK, in_hand=in_flight
            )
            for claim in claims:
                task = asyncio.create_task(self._deliver(client, claim))
                self._in_flight[task] = claim.delivery.webhook_id
                task.add_done_callback(self._done)
        return POLL_S

    def _look(self) -> None:
        self._is_needed = True
        self._wake_up.set()

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._in_flight[task]
        self._wake_up.set()

    async def _end(self) -> None:
        """Let deliveries in flight finish, within `STOP_WITHIN_S`."""
        if self._in_flight:
            _, late = await asyncio.wait(list(self._in_flight), timeout=STOP_WITHIN_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _deliver(self, client: httpx.AsyncClient, claim: Claim) -> None:
        try:
            outcome = await self._send(client, claim)
            await asyncio.to_thread(self._settle, claim.delivery, outcome)
        except Exception:  # the database's: the delivery becomes due again when its lease expires
            logger.exception("The outcome of delivery %s could not be stored", claim.delivery.delivery_id)

    async def _send(self, client: httpx.AsyncClient, claim: Claim) -> _Outcome:
        """Send a delivery; return what was sent and answered, and the error if it was not accepted."""
        body = cloudevent_body(claim.record, claim.delivery.subject, self._public_url)
        headers = signature_headers(claim, body, datetime.now(UTC))
        error = ""
        response: httpx.Response | None = None
        answer = bytearray()
        try:
            async with (
                asyncio.timeout(self._settings.timeout_s) as limit,
                client.stream("POST", claim.url, content=body, headers=headers) as response,
            ):
                limit.reschedule(asyncio.get_running_loop().time() + BODY_WITHIN_S)
                await _read_into(answer, response)
        except AddressRefused as refused:
            error = str(refused)
        except TimeoutError:
            error = f"The receiver didn't answer within {self._settings.timeout_s:g} s."
        except Exception as failure:  # of the network, of TLS, of the receiver's HTTP
            error = f"{type(failure).__name__}: {failure}"[:MAX_ERROR_CHARS]
        received = None
        if response is not None:  # whatever happened to its body
            error = f"The receiver answered {response.status_code}."
            received = ReceivedResponse(
                status=response.status_code,
                headers=_recorded_headers(response.headers),
                body=answer.decode(errors="replace"),
            )
        sent = SentRequest(url=claim.url, headers=headers, body=body.decode())
        return _Outcome(Exchange(request=sent, response=received), error)

    def _settle(self, delivery: Delivery, outcome: _Outcome) -> None:
        exchange, error = outcome
        status = None if exchange.response is None else exchange.response.status
        if status is not None and HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            self._store.delivered(delivery.delivery_id, status, exchange)
        elif status == HTTPStatus.GONE:
            self._store.put_off(delivery, None, status=status, error=error, exchange=exchange)
            self._store.disable(
                delivery.webhook_id, exchange.request.url, "The receiver answered 410: it wants no more."
            )
        else:
            after_s = backoff_s(self._settings.retry_after_s, delivery.attempts, self._random.random())
            self._store.put_off(delivery, after_s, status=status, error=error, exchange=exchange)


class _Outcome(NamedTuple):
    exchange: Exchange
    error: str  # if the receiver didn't accept it


async def _read_into(answer: bytearray, response: httpx.Response) -> None:
    """Append the first `MAX_RECORDED_BYTES` of a response's body, as they come."""
    async for chunk in response.aiter_raw():  # as it was sent: what is compressed may be endless
        answer += chunk[: MAX_RECORDED_BYTES - len(answer)]
        if len(answer) == MAX_RECORDED_BYTES:
            break


def _recorded_headers(headers: httpx.Headers) -> dict[str, str]:
    """Return the first headers, at most `MAX_RECORDED_BYTES` of them."""
    recorded: dict[str, str] = {}
    left = MAX_RECORDED_BYTES
    for name, value in headers.items():
        left -= len(name) + len(value)
        if left < 0:
            break
        recorded[name] = value
    return recorded


def _client(settings: WebhookSettings) -> httpx.AsyncClient:
    """An HTTP client without proxy, kept connections or cookies that one receiver could leave for another."""
    limits = httpx.Limits(max_connections=CAPACITY, max_keepalive_connections=0)
    direct = httpx.AsyncHTTPTransport(limits=limits, trust_env=False)
    return httpx.AsyncClient(
        transport=direct if settings.allow_private_addresses else PublicAddressTransport(direct),
        timeout=httpx.Timeout(settings.timeout_s, connect=min(CONNECT_WITHIN_S, settings.timeout_s)),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        trust_env=False,
    )


MAX_BODY_BYTES = 20_000  # Standard Webhooks: many receivers refuse larger ones
CONTENT_TYPE = "application/cloudevents+json"
USER_AGENT = "ai-pipeline"
NAMELESS = "urn:ai-pipeline"  # the source where the service doesn't know its own URL


def cloudevent_body(record: EventRecord, subject: str | None, public_url: str | None) -> bytes:
    """Encode an event as a CloudEvent 1.0 in structured JSON, without pixels but with their URLs.

    Args:
        record: of the event log.
        subject: its image or job.
        public_url: where clients reach the service; URLs are relative if None.
    """
    base = (public_url or "").rstrip("/")
    image_id = record.image_id or _made(record)
    about = {"job_id": record.job_id, "image_id": image_id}
    if record.job_id:
        about["job_url"] = f"{base}/v1/jobs/{record.job_id}"
    if image_id:
        about["image_url"] = f"{base}/v1/images/{image_id}/content"
    references = {name: value for name, value in about.items() if value is not None}
    event = {
        "specversion": "1.0",
        "id": str(record.sequence),
        "source": base or NAMELESS,
        "type": record.type,
        "time": record.created_at.isoformat(),
        "datacontenttype": "application/json",
        "data": dict(record.payload) | references,
    }
    if subject is not None:
        event["subject"] = subject
    body = orjson.dumps(event)
    if len(body) < MAX_BODY_BYTES:
        return body
    return orjson.dumps(event | {"data": references})  # the receiver can read the rest at its URLs


def signature_headers(claim: Claim, body: bytes, now: datetime) -> dict[str, str]:
    """Make the headers of a delivery.

    Args:
        claim: the delivery; its id stays the same for every attempt, so that receivers can deduplicate.
        body: of the request.
        now: the time, with its zone.
    """
    moment, delivery_id = now.astimezone(UTC), claim.delivery.delivery_id
    return {
        "content-type": CONTENT_TYPE,
        "user-agent": USER_AGENT,
        "accept-encoding": "identity",
        "webhook-id": delivery_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(
            Signer(secret).sign(delivery_id, moment, body.decode()) for secret in claim.secrets
        ),
    }


def _made(record: EventRecord) -> Any:
    """The image a job made."""
    return (record.payload.get("result") or {}).get("image_id")
