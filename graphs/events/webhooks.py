"""Tells webhooks what happens: every ingress replica takes part, and what one leaves undone another one does.

What is to be sent stands in the store; this turns events into deliveries, claims those that are due, and writes down
what became of each. A receiver that is slow or away holds up nobody else's.
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
from typing import Any

import httpx
import orjson
from standardwebhooks.webhooks import Webhook as Signer

from graphs.events.ssrf_guard import PublicAddressTransport, check_url
from pipeline.errors import AddressRefused
from pipeline.jobs import IdempotencyKey
from pipeline.notices import Notice
from pipeline.settings import WebhookSettings
from pipeline.store import WebhookStore
from pipeline.webhooks import Claim, Delivery, Webhook, backoff_s, new_secret

POLL_S = 2.0  # for what other replicas know of, or have left behind
STOP_WITHIN_S = 2.0
CONNECT_WITHIN_S = 5.0
SETTLE_WITHIN_S = 15.0  # a delivery is claimed for the request's time and this
EVENTS = 500  # turned into deliveries at a time
CAPACITY = 16  # requests at a time
PER_WEBHOOK = 4  # of them to one receiver
MAX_ERROR_CHARS = 500

logger = logging.getLogger("ai_pipeline")


class WebhookDispatcher:
    """The webhooks of all owners, and the deliveries in hand of one process.

    Args:
        store: where webhooks and deliveries are.
        settings: bounds, and which addresses may be sent to.
        public_url: where clients reach the service, for the URLs in what is sent.
        random: where the jitter of retries comes from.
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
        self._wake_up = asyncio.Event()  # there may be something to send, and there is room
        self._is_needed = True  # some webhook was enabled when one last looked, or has been here since

    async def register(
        self,
        owner: str,
        url: str,
        *,
        types: Sequence[str] = (),
        secret: str | None = None,
        key: IdempotencyKey | None = None,
    ) -> Webhook:
        """Tell a URL what happens to an owner's things from now on.

        Args:
            owner: whose things.
            url: where to.
            types: of events; all if empty.
            secret: signs what is sent; a new one if None.
            key: the client's name for the request.

        Raises:
            InvalidRequest: nothing can be sent to that URL; says what to send instead.
            IdempotencyMismatch: the key was used for another request.
            TooManyWebhooks: the owner has as many as one may have.
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

    async def list(self, owner: str) -> Sequence[Webhook]:
        """List an owner's webhooks, newest first."""
        return await asyncio.to_thread(self._store.list, owner)

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

    async def enable(self, webhook_id: str, owner: str) -> Webhook:
        """Send to a disabled webhook again, what happens from now on.

        Raises:
            WebhookNotFound: the owner has no such webhook.
        """
        enabled = await asyncio.to_thread(self._store.enable, webhook_id, owner)
        self._look()
        return enabled

    async def deliveries(self, webhook_id: str, owner: str, *, limit: int, before: str | None) -> Sequence[Delivery]:
        """List a webhook's deliveries, newest first.

        Raises:
            WebhookNotFound: the owner has no such webhook.
        """
        return await asyncio.to_thread(self._store.deliveries, webhook_id, owner, limit=limit, before=before)

    async def redeliver(self, webhook_id: str, delivery_id: str, owner: str) -> Delivery:
        """Send a delivery again now, whatever became of it.

        Raises:
            WebhookNotFound: the owner has no such webhook.
            DeliveryNotFound: the webhook has no such delivery.
        """
        delivery = await asyncio.to_thread(self._store.redeliver, webhook_id, delivery_id, owner)
        self._wake_up.set()
        return delivery

    async def test(self, webhook_id: str, owner: str) -> Delivery:
        """Send a webhook an event of its own.

        Raises:
            WebhookNotFound: the owner has no such webhook.
        """
        delivery = await asyncio.to_thread(self._store.test, webhook_id, owner)
        self._wake_up.set()
        return delivery

    def on_event(self, _: Notice) -> None:
        """Take note that something happened, here or elsewhere."""
        if self._is_needed:  # one that was enabled elsewhere is served there until this looks again
            self._wake_up.set()

    async def run(self) -> None:
        """Send what is due until cancelled; what is not settled by then comes due again."""
        async with _client(self._settings) as client:
            try:
                while True:
                    self._wake_up.clear()
                    try:
                        wait_s = await self._begin_due(client)
                    except Exception:
                        logger.exception("No deliveries could be taken")
                        wait_s = POLL_S
                    with suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):  # `wait_for` loses a cancellation that comes with the event
                            await self._wake_up.wait()
            finally:
                await self._end()

    async def _begin_due(self, client: httpx.AsyncClient) -> float:
        """Begin what is due, as far as there is room; returns when to look again, in seconds."""
        self._is_needed = await asyncio.to_thread(self._store.has_enabled)
        if not self._is_needed:
            return POLL_S
        while await asyncio.to_thread(self._store.expand, EVENTS):
            pass
        while (room := CAPACITY - len(self._in_flight)) > 0:
            in_hand = Counter(self._in_flight.values())
            busy = [webhook_id for webhook_id, num in in_hand.items() if num >= PER_WEBHOOK]
            due_s = await asyncio.to_thread(self._store.next_due_s, busy)
            if due_s is None or due_s > 0:
                return POLL_S if due_s is None else min(due_s, POLL_S)
            lease_s = self._settings.timeout_s + SETTLE_WITHIN_S
            claims = await asyncio.to_thread(
                self._store.claim, room, lease_s=lease_s, per_webhook=PER_WEBHOOK, in_hand=in_hand
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
        """Let what is under way come to its end, but not for long."""
        if self._in_flight:
            _, late = await asyncio.wait(list(self._in_flight), timeout=STOP_WITHIN_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _deliver(self, client: httpx.AsyncClient, claim: Claim) -> None:
        try:
            status, error = await self._send(client, claim)
            await asyncio.to_thread(self._settle, claim.delivery, status, error)
        except Exception:  # the database's: the delivery comes due again when its time has run out
            logger.exception("What became of the delivery %s could not be written down", claim.delivery.delivery_id)

    async def _send(self, client: httpx.AsyncClient, claim: Claim) -> tuple[int | None, str]:
        """Send a delivery; returns the status of the answer, if there was one, and what went wrong."""
        body = message(claim.notice, claim.delivery.subject, self._public_url)
        headers = signed(claim, body, datetime.now(UTC))
        try:
            async with (
                asyncio.timeout(self._settings.timeout_s),
                client.stream("POST", claim.url, content=body, headers=headers) as response,
            ):  # what the answer says beyond its status is not read
                return response.status_code, f"The receiver answered {response.status_code}."
        except AddressRefused as refused:
            return None, str(refused)
        except TimeoutError:
            return None, f"The receiver didn't answer within {self._settings.timeout_s:g} s."
        except Exception as error:  # of the network, of TLS, of the receiver's HTTP
            return None, f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS]

    def _settle(self, delivery: Delivery, status: int | None, error: str) -> None:
        if status is not None and HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            self._store.delivered(delivery.delivery_id, status)
        elif status == HTTPStatus.GONE:
            self._store.put_off(delivery, None, status=status, error=error)
            self._store.disable(delivery.webhook_id, "The receiver answered 410: it wants no more.")
        else:
            after_s = backoff_s(self._settings.retry_after_s, delivery.attempts, self._random.random())
            self._store.put_off(delivery, after_s, status=status, error=error)


def _client(settings: WebhookSettings) -> httpx.AsyncClient:
    """What sends: directly, without a memory of connections or cookies that one receiver could leave for another."""
    limits = httpx.Limits(max_connections=CAPACITY, max_keepalive_connections=0)
    direct = httpx.AsyncHTTPTransport(limits=limits, trust_env=False)
    return httpx.AsyncClient(
        transport=direct if settings.allow_private_addresses else PublicAddressTransport(direct),
        timeout=httpx.Timeout(settings.timeout_s, connect=min(CONNECT_WITHIN_S, settings.timeout_s)),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        trust_env=False,
    )


MAX_BODY_BYTES = 20_000  # Standard Webhooks: large ones are refused by too many receivers
CONTENT_TYPE = "application/cloudevents+json"
USER_AGENT = "ai-pipeline"
NAMELESS = "urn:ai-pipeline"  # the source where the service doesn't know its own URL


def message(notice: Notice, subject: str | None, public_url: str | None) -> bytes:
    """Write down what happened as a CloudEvent 1.0 in structured JSON, without pixels but with the URLs of them.

    Args:
        notice: what happened.
        subject: the image or job it happened to.
        public_url: where clients reach the service; URLs are relative if None.
    """
    base = (public_url or "").rstrip("/")
    about = {"job_id": notice.job_id, "image_id": notice.image_id}
    if notice.job_id:
        about["job_url"] = f"{base}/v1/jobs/{notice.job_id}"
    if image_id := notice.image_id or _made(notice):
        about["image_url"] = f"{base}/v1/images/{image_id}/content"
    references = {name: value for name, value in about.items() if value is not None}
    event = {
        "specversion": "1.0",
        "id": str(notice.sequence),
        "source": base or NAMELESS,
        "type": notice.type,
        "time": notice.created_at.isoformat(),
        "datacontenttype": "application/json",
        "data": dict(notice.payload) | references,
    }
    if subject is not None:
        event["subject"] = subject
    body = orjson.dumps(event)
    if len(body) < MAX_BODY_BYTES:
        return body
    return orjson.dumps(event | {"data": references})  # the rest can be read there


def signed(claim: Claim, body: bytes, now: datetime) -> dict[str, str]:
    """Make the headers of a delivery.

    Args:
        claim: what is delivered; its id stays the same however often it is sent, so that receivers know it again.
        body: what is sent.
        now: when, with its zone.
    """
    moment, delivery_id = now.astimezone(UTC), claim.delivery.delivery_id
    return {
        "content-type": CONTENT_TYPE,
        "user-agent": USER_AGENT,
        "webhook-id": delivery_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Signer(claim.secret).sign(delivery_id, moment, body.decode()),
    }


def _made(notice: Notice) -> Any:
    """The image a job made."""
    return (notice.payload.get("result") or {}).get("image_id")
