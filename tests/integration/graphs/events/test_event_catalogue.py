"""docs/events.md and the `webhooks` of the OpenAPI document describe every event that the application delivers."""

from __future__ import annotations

import pytest

from docs.openapi import document
from docs.write_events import PAGE, examples, page
from graphs.http.event_catalogue import OCCASIONS
from graphs.http.schemas.webhooks import CloudEvent
from pipeline.event_records import TYPES

pytestmark = pytest.mark.anyio


async def test_the_page_is_what_the_application_delivers():
    events, step, frame = await examples()
    assert events.keys() == set(TYPES)
    for event in events.values():
        CloudEvent.model_validate(event, extra="forbid")
    assert PAGE.read_text() == page(events, step, frame), "Run `python -m docs.write_events` and commit docs/events.md."


def test_every_type_of_the_log_is_described():
    assert list(OCCASIONS) == list(TYPES)


def test_the_document_describes_what_a_receiver_gets():
    openapi = document()
    assert openapi["openapi"].startswith("3.1")
    assert list(openapi["webhooks"]) == list(TYPES)
    ids = [operation["post"]["operationId"] for operation in openapi["webhooks"].values()]
    assert len(set(ids)) == len(ids)
    assert "onJobCancelRequested" in ids
    for operation in openapi["webhooks"].values():
        (schema,) = operation["post"]["requestBody"]["content"].values()
        assert schema["schema"]["$ref"] == "#/components/schemas/CloudEvent"
        assert {each["name"] for each in operation["post"]["parameters"]} == {
            "webhook-id",
            "webhook-timestamp",
            "webhook-signature",
        }
    assert set(openapi["components"]["schemas"]["CloudEvent"]["properties"]) == set(CloudEvent.model_fields)
