"""Writes `docs/events.md`: `python -m docs.write_events`. Its examples come from the application, over fake models."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
from httpx_sse import EventSource

from graphs.http.app import build_http_app
from graphs.http.event_catalogue import OCCASIONS
from graphs.workers.handles import SharedImage
from pipeline.errors import ImageRefused
from pipeline.event_records import STEPPED
from pipeline.records import Computed, GenerationRequest, Pixels, StepProgress
from pipeline.settings import WebhookSettings
from testing.fakes import FakeWorkers
from testing.harness import Bench, make_bench, working
from testing.waiting import until
from testing.webhook_receiver import Receiver

PAGE = Path(__file__).with_name("events.md")
HEAD = """# Events

Written by `python -m docs.write_events`; the examples come from the application itself. Clients must accept types and
fields that they don't know.

Events of the log are numbered in the order of their commits. They are delivered to webhooks, as CloudEvents 1.0, and
to readers of `GET /v1/events` and `GET /v1/jobs/{job_id}/events`. Each event belongs to the owner of its image or job.

## In a stream

A server-sent event has the type as `event` and the number as `id`. Its `data` is that of the CloudEvents below, without
URLs, and with `type`, `event_id` and `created_at`:

```
"""
STREAM = """```

Streams have more events, which are not in the log, without an `id`:

| event | when |
|---|---|
| `generation.stepped` | A denoising step is done; with previews it has one, as a PNG in Base64. |
| `generation.finished` | The last event of a request's or a job's stream: the images, as without a stream. |
| `error` | The last event of a stream that failed: an error, as in docs/errors.md. |
| `stream.finished` | The last event of `GET /v1/events?follow=false`. |

"""
WEBHOOKS = """## To a webhook

A `POST` with a CloudEvent as `application/cloudevents+json`, signed as
[Standard Webhooks](https://www.standardwebhooks.com) specifies. The header `webhook-id` is the id of the **delivery**,
`delivery_id` and not `webhook_id`, the same for each attempt. An event of more than 20 kB has only ids and URLs as
`data`.

"""

REFUSED = 13  # a seed
SMALL = {"prompt": "red apple", "width": 64, "height": 64, "steps": 2, "seed": 7}
ASYNC = {"Prefer": "respond-async"}

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SOME_TIME = "2026-11-28T12:00:00"  # with the zone as it was sent

CloudEvents = dict[str, dict[str, Any]]


class _Workers(FakeWorkers):
    """Refuse one seed, as the safety checker does."""

    async def generate(
        self, request: GenerationRequest, owner: str, source: SharedImage | None = None, previews: bool = False
    ) -> AsyncGenerator[StepProgress | Computed[Pixels], None]:
        if request.seed == REFUSED:
            raise ImageRefused
        async for item in super().generate(request, owner, source, previews):
            yield item


async def examples() -> tuple[CloudEvents, str, str]:
    """Return a delivered CloudEvent of each type, a step of a stream, and an event of the log in a stream."""
    receiver = Receiver()
    receiver.up()
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(Path(folder), workers=_Workers(), webhooks=WebhookSettings(allow_private_addresses=True))
        transport = httpx.ASGITransport(build_http_app(bench.services))
        headers = {"X-Request-ID": "order-7"}
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers) as client,
            working(bench),
        ):
            webhook = (await client.post("/v1/webhooks", json={"url": receiver.url})).json()
            step = await _cause_events(bench, client, webhook["webhook_id"])
            await until(lambda: OCCASIONS.keys() <= _by_type(receiver).keys())
            logged = await client.get("/v1/events", params={"follow": False, "type": "image.created"})
        bench.store.log.engine.dispose()
    receiver.down()
    frame = next(frame for frame in logged.text.split("\n\n") if frame.startswith(("id:", "event:")))
    return _by_type(receiver), step, frame


async def _cause_events(bench: Bench, client: httpx.AsyncClient, webhook_id: str) -> str:
    """Cause an event of each type; return the data of a step."""
    await client.post(f"/v1/webhooks/{webhook_id}/test")
    async with client.stream("POST", "/v1/images", json=SMALL, headers={"Accept": "text/event-stream"}) as response:
        events = [event async for event in EventSource(response).aiter_sse()]
    step = next(event.data for event in events if event.event == STEPPED)
    image_url = "/v1/images/" + json.loads(events[-1].data)["data"][0]["image_id"]
    await client.patch(image_url, json={"metadata": {"order": "7"}, "tags": ["fruit"]})
    await client.delete(image_url)
    await client.post("/v1/images", json=SMALL | {"seed": REFUSED})

    bench.workers.gate.clear()
    running = await _submit(client)
    await until(lambda: bench.workers.calls["generate"] > 1)
    await client.post(f"{running}/cancel")
    bench.workers.gate.set()
    await _ended(client, running)
    await client.post(f"{running}/retry")
    await _ended(client, running)

    bench.workers.deaths["generate"] = 3
    await _ended(client, await _submit(client))
    return step


async def _submit(client: httpx.AsyncClient) -> str:
    accepted = await client.post("/v1/images", json=SMALL, headers=ASYNC)
    return f"/v1/jobs/{accepted.json()['data'][0]['job_id']}"


async def _ended(client: httpx.AsyncClient, url: str) -> None:
    await client.get(f"{url}/events")  # a stream that ends with the job


def _by_type(receiver: Receiver) -> CloudEvents:
    """Return the first received event of each type."""
    events: CloudEvents = {}
    for message in list(receiver.messages):
        event = json.loads(message.body)
        events.setdefault(event["type"], event)
    return events


def page(events: CloudEvents, step: str, frame: str) -> str:
    """Return the page with these examples."""
    sections = [
        f"### `{type_}`\n\n{occasion}\n\n```json\n{_stable(json.dumps(events[type_], indent=2))}\n```\n"
        for type_, occasion in OCCASIONS.items()
    ]
    preview = f"A step:\n\n```json\n{_stable(json.dumps(json.loads(step), indent=2))}\n```\n\n"
    return HEAD + _stable(frame) + "\n" + STREAM + preview + WEBHOOKS + "\n".join(sections)


def _stable(text: str) -> str:
    """Replace what differs from run to run: ids, numbers of events, times and durations; shorten previews."""
    names: dict[str, str] = {}
    text = _UUID.sub(lambda found: names.setdefault(found[0], f"0198a3c0-0000-7000-8000-{len(names) + 1:012}"), text)
    text = _TIME.sub(rf"{_SOME_TIME}\2", text)
    text = _DIGEST.sub("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", text)
    text = re.sub(r'("seconds": ?)[\d.e-]+', r"\g<1>1.25", text)
    text = re.sub(r'("id": ?"|"event_id": ?"|"sequence": ?|^id: )\d+', r"\g<1>1042", text, flags=re.MULTILINE)
    return re.sub(r'("preview": ?"[^"]{16})[^"]*', r"\1…", text)


async def write() -> None:
    """Write the page."""
    PAGE.write_text(page(*await examples()))


if __name__ == "__main__":
    asyncio.run(write())
