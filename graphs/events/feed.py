"""In-process event feed: delivers logged events to subscribers in commit order, and ephemeral ones between them.

The event log is the source of truth. It is read whenever an append is announced, and polled every few seconds.
Denoising steps are ephemeral: they are not logged, and the event hub carries them between processes. A subscription
whose reader is too slow ends and resumes from the log by its last sequence number; it never slows the others.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from cachetools import LRUCache

from pipeline.event_records import EventRecord
from pipeline.jobs import ENDED
from pipeline.store import EventLog

T = TypeVar("T")

POLL_S = 2.0
PAUSE_S = 1.0  # after the hub gave no answer
PAGE = 500  # events read from the log at a time
MAX_OUTGOING = 100  # events the hub hasn't accepted yet; older ones are dropped
MAX_NEWEST = 100  # jobs
MAX_ENDED = 1000  # jobs whose steps may still be on their way from another process
MAX_WAITING = 1000  # events of one stream; steps pass it by from half of that on

STARTED = "job.started"
AGAIN = frozenset({STARTED, "job.requeued", "job.retried"})  # types of events after which a job has no steps yet
AFTER_STEPS = ENDED | {"image.created"}  # types of events that follow the last step of their job

logger = logging.getLogger("ai_pipeline")


class EventBroker(Protocol):
    """Carries events between processes: `deployments.event_hub.RemoteHub`, or a fake."""

    has_peers: bool  # whether other processes subscribe

    async def publish(self, passing: Sequence[EventRecord]) -> None:
        """Announce to the other processes that the log has grown, and send ephemeral events."""

    async def listen(self) -> Sequence[EventRecord]:
        """Wait until another process announces that the log has grown; return its ephemeral events."""


@dataclass(eq=False, kw_only=True, slots=True)
class Subscription:
    """The events one reader subscribes to."""

    log: EventLog
    owner: str
    types: Collection[str]
    job_id: str | None
    request_id: str | None
    opened_at: int  # the last sequence number delivered before
    waiting: asyncio.Queue[EventRecord | None] = field(default_factory=asyncio.Queue)  # None: too slow

    def wants(self, record: EventRecord) -> bool:
        """Whether the event matches."""
        return (
            record.owner == self.owner
            and (not self.types or record.type in self.types)
            and (self.job_id is None or record.job_id == self.job_id)
            and (self.request_id is None or record.payload.get("request_id") == self.request_id)
        )

    async def records(self, after: int | None = None) -> AsyncGenerator[EventRecord, None]:
        """Yield each logged event once and in order, ephemeral ones between them.

        Ends only when the reader is too slow; a reader that resumes by sequence number misses nothing logged.

        Args:
            after: the last sequence number the reader knows; from the stream's opening on if None.
        """
        known = self.opened_at if after is None else after
        while after is not None and (page := await asyncio.to_thread(self._page, known)):
            for record in page:  # newer ones wait in the queue
                yield record
                known = record.sequence or known
        while (waiting := await self.waiting.get()) is not None:
            if waiting.sequence is None or waiting.sequence > known:
                yield waiting

    def _page(self, after: int) -> Sequence[EventRecord]:
        return self.log.read(
            owner=self.owner,
            after=after,
            limit=PAGE,
            types=self.types,
            job_id=self.job_id,
            request_id=self.request_id,
        )


class EventFeed:
    """Delivers the events of all owners to subscriptions.

    Args:
        log: the event log.
        hub: carries events to and from other processes; None where there are none.
    """

    def __init__(self, log: EventLog, hub: EventBroker | None) -> None:
        self._log = log
        self._hub = hub
        self._at = 0  # sequence number up to which everything was delivered
        self._is_reading = False
        self._grown = asyncio.Event()
        self._ephemeral: list[EventRecord] = []  # to be delivered after what is logged already
        self._outgoing: list[EventRecord] = []
        self._has_outgoing = asyncio.Event()
        self._streams: set[Subscription] = set()
        self._followed: set[Subscription] = set()  # those of them without an end of their own
        self._newest: LRUCache[str, EventRecord] = LRUCache(MAX_NEWEST)  # the last ephemeral one, by job
        self._ended: LRUCache[str, bool] = LRUCache(MAX_ENDED)  # ids of jobs that have made their image or have ended
        self._started: asyncio.Future[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._is_hub_away = False  # logged once for each time
        self.consumers: list[Callable[[EventRecord], None]] = []  # get everything that is logged

    @property
    def num_streams(self) -> int:
        """Subscriptions in this process."""
        return len(self._streams)

    @property
    def has_readers(self) -> bool:
        """Whether ephemeral events may have a subscriber, here or in another process."""
        return bool(self._streams) or (self._hub is not None and self._hub.has_peers)

    def newest_step(self, job_id: str) -> EventRecord | None:
        """Return a job's newest ephemeral event; None before its first, and after its end."""
        return self._newest.get(job_id)

    async def latest_sequence(self) -> int:
        """Return the sequence number up to which everything was delivered."""
        await self.start()
        return self._at

    async def start(self) -> None:
        """Begin to read the log at its end, if that wasn't done yet."""
        if self._started is None:
            loop = asyncio.get_running_loop()
            self._started = loop.create_future()

            def announce() -> None:
                loop.call_soon_threadsafe(self._wake_up)

            self._log.on_append = announce
            coroutines = [self._read_log()] + ([self._publish_loop(), self._receive_loop()] if self._hub else [])
            # In contexts of their own: this one may be a request's, and would be cancelled with it.
            self._tasks = [loop.create_task(each, context=contextvars.Context()) for each in coroutines]
        await asyncio.shield(self._started)

    def stop(self) -> None:
        """Stop, and end every subscription."""
        for stream in self._streams:
            stream.waiting.put_nowait(None)
        self._log.on_append = lambda: None
        for task in self._tasks:
            task.cancel()

    def close_subscriptions(self) -> None:
        """End the subscriptions without an end of their own; their readers resume by sequence number."""
        for stream in self._followed:
            stream.waiting.put_nowait(None)

    def publish(self, record: EventRecord) -> None:
        """Deliver an ephemeral event, after everything that was logged before it."""
        if self._hub is not None:
            self._outgoing = [*self._outgoing[-MAX_OUTGOING:], record]
            self._has_outgoing.set()
        self._deliver_in_order(record)

    @asynccontextmanager
    async def stream(
        self, owner: str, *, types: Collection[str] = (), job_id: str | None = None, request_id: str | None = None
    ) -> AsyncIterator[Subscription]:
        """Subscribe to an owner's events, of these types or all, of this job or request or all."""
        await self.start()
        stream = Subscription(
            log=self._log, owner=owner, types=types, job_id=job_id, request_id=request_id, opened_at=self._at
        )
        newest = self._newest.get(job_id or "")
        if newest is not None and stream.wants(newest):
            stream.waiting.put_nowait(newest)
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)

    async def follow(
        self,
        owner: str,
        *,
        after: int | None = None,
        types: Collection[str] = (),
        job_id: str | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[EventRecord, None]:
        """Yield the events of a subscription, which ends with the iterator; see `Subscription.records`."""
        async with (
            self.stream(owner, types=types, job_id=job_id, request_id=request_id) as stream,
            aclosing(stream.records(after)) as records,
        ):
            self._followed.add(stream)
            try:
                async for record in records:
                    yield record
            finally:
                self._followed.discard(stream)

    async def past(
        self, owner: str, *, after: int, types: Collection[str] = (), request_id: str | None = None
    ) -> AsyncGenerator[EventRecord, None]:
        """Yield what was logged after a sequence number until now, and end."""
        newest = await asyncio.to_thread(self._log.newest)
        while page := await self.page(owner, after=after, limit=PAGE, types=types, request_id=request_id):
            for record in page:
                after = record.sequence or after
                if after > newest:
                    return
                yield record

    async def page(
        self, owner: str, *, after: int, limit: int, types: Collection[str] = (), request_id: str | None = None
    ) -> Sequence[EventRecord]:
        """Return up to `limit` logged events after a sequence number, oldest first."""
        return await asyncio.to_thread(
            self._log.read, owner=owner, after=after, limit=limit, types=types, request_id=request_id
        )

    def _wake_up(self) -> None:
        self._grown.set()
        self._has_outgoing.set()

    def _deliver_in_order(self, ephemeral: EventRecord) -> None:
        if self._grown.is_set() or self._is_reading:
            self._ephemeral.append(ephemeral)
        else:
            self._deliver(ephemeral)

    def _deliver(self, record: EventRecord) -> None:
        if record.sequence is None and record.job_id in self._ended:
            return  # its image arrived first from another process
        if record.sequence is None and record.job_id:
            self._newest[record.job_id] = record
        elif record.type in ENDED or record.type in AGAIN:
            self._newest.pop(str(record.job_id), None)
        for stream in [stream for stream in self._streams if stream.wants(record)]:
            if record.sequence is None and stream.waiting.qsize() >= MAX_WAITING // 2:
                continue
            if stream.waiting.qsize() >= MAX_WAITING:
                self._streams.discard(stream)
                stream.waiting.put_nowait(None)
            else:
                stream.waiting.put_nowait(record)

    async def _read_log(self) -> None:
        self._at = await self._retry_forever(self._log.newest)
        if self._started is not None:
            self._started.set_result(None)
        while True:
            self._is_reading = True
            self._grown.clear()
            due, self._ephemeral = self._ephemeral, []  # this read finds what was logged before them
            page = await self._page()
            while page:
                for record in page:
                    if record.job_id and record.type in AFTER_STEPS:
                        due = self._deliver_steps(record.job_id, due)
                        self._ephemeral = self._deliver_steps(record.job_id, self._ephemeral)
                    self._deliver_logged(record)
                page = await self._page() if len(page) == PAGE else ()
            for record in due:
                self._deliver(record)
            self._is_reading = bool(self._ephemeral)
            if not self._is_reading:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._grown.wait()

    def _deliver_steps(self, job_id: str, ephemeral: Sequence[EventRecord]) -> list[EventRecord]:
        """Deliver the ephemeral events of a job, and return the rest."""
        for record in ephemeral:
            if record.job_id == job_id:
                self._deliver(record)
        return [record for record in ephemeral if record.job_id != job_id]

    def _deliver_logged(self, record: EventRecord) -> None:
        """Deliver a logged event to subscriptions and consumers; a job that starts again has steps again."""
        if record.job_id and record.type in AFTER_STEPS:
            self._ended[record.job_id] = True
        elif record.job_id and record.type == STARTED:
            self._ended.pop(record.job_id, None)
        self._at = record.sequence or self._at
        self._deliver(record)
        for consume in self.consumers:
            consume(record)

    async def _page(self) -> Sequence[EventRecord]:
        return await self._retry_forever(lambda: self._log.read(after=self._at, limit=PAGE))

    async def _retry_forever(self, read: Callable[[], T]) -> T:
        while True:
            try:
                return await asyncio.to_thread(read)
            except Exception:
                logger.exception("The event log could not be read")
                await asyncio.sleep(PAUSE_S)

    async def _publish_loop(self) -> None:
        """Publish to the other processes, everything outgoing at once."""
        while self._hub:
            await self._has_outgoing.wait()
            self._has_outgoing.clear()
            outgoing, self._outgoing = self._outgoing, []
            try:
                await self._hub.publish(outgoing)
            except Exception as error:  # the others poll the log: a hub that is away costs them a few seconds
                self._log_hub_failure(error)

    async def _receive_loop(self) -> None:
        """Receive what the other processes publish."""
        while self._hub:
            try:
                passed = await self._hub.listen()
            except Exception as error:  # meanwhile the log is polled
                self._log_hub_failure(error)
                await asyncio.sleep(PAUSE_S)
                continue
            self._is_hub_away = False
            self._grown.set()
            for record in passed:
                self._deliver_in_order(record)

    def _log_hub_failure(self, error: Exception) -> None:
        if not self._is_hub_away:
            logger.warning("The event hub does not answer; the log is polled: %s: %s", type(error).__name__, error)
        self._is_hub_away = True
