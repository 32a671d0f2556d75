"""`client.events`: what happens to your images and jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional, Union

from ai_pipeline_client import calls
from ai_pipeline_client.aio.connection import AsyncConnection
from ai_pipeline_client.aio.io import Items, closing
from ai_pipeline_client.aio.legacy import AsyncCallableEvents
from ai_pipeline_client.calls import Call
from ai_pipeline_client.results import Event, EventType, Page
from ai_pipeline_client.subscription import Subscription

PAGE = 20


class AsyncEvents(AsyncCallableEvents):
    """The events of your images and jobs. Every method raises `PipelineError`."""

    def __init__(self, connection: AsyncConnection) -> None:
        super().__init__(connection)
        self._connection = connection

    async def stream(
        self,
        *,
        after: Union[int, str, None] = None,
        types: Sequence[EventType] = (),
        request_id: Optional[str] = None,
        quiet_s: Optional[float] = None,
    ) -> Items[Event]:
        """Iterate over events, without end; a stream that breaks off is resumed.

        Args:
            after: the last event received, 0 for the beginning; from now on if None.
            types: only these, such as "image.created"; all if left out.
            request_id: only those of this request.
            quiet_s: end after so many seconds without an event or heartbeat. The service sends one every 10 s at
                least.
        """
        wanted = Subscription("/v1/events", after=after, types=types, request_id=request_id, quiet_s=quiet_s)
        async with closing(self._connection.subscribe(wanted)) as events:
            async for event in events:
                yield event

    async def list(
        self,
        *,
        after: Union[int, str] = 0,
        types: Sequence[EventType] = (),
        request_id: Optional[str] = None,
    ) -> Items[Event]:
        """Iterate over the stored events so far, oldest first.

        Args:
            after: the last event received; from the beginning if left out.
            types: only these, such as "image.created"; all if left out.
            request_id: only those of this request.
        """
        wanted = Subscription("/v1/events", after=after, types=types, request_id=request_id, follow=False)
        async with closing(self._connection.subscribe(wanted)) as events:
            async for event in events:
                yield event

    async def page(
        self,
        *,
        limit: int = PAGE,
        after: Union[int, str] = 0,
        types: Sequence[EventType] = (),
        request_id: Optional[str] = None,
    ) -> Page[Event]:
        """Get one page of the stored events; the further arguments are those of `list`.

        Args:
            limit: maximum number, 1 to 100.
            after: the last event received, or the `next` of the page before.
        """
        params = {"limit": limit, "after": after, "type": list(types), "request_id": request_id}
        call = Call(
            method="GET",
            path="/v1/events",
            read=calls.read_page(_event),
            params=calls.query_parameters(params),
            headers={"Accept": "application/json"},
        )
        return await self._connection.send(call)


def _event(facts: Mapping[str, Any]) -> Event:
    return Event.of(facts["type"], facts)
