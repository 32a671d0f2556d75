"""Events of images, jobs and webhooks, as streams and lists have them."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from graphs.http.pagination import PageFields


class Event(BaseModel):
    """An event. Beside these fields it has those of its type, see the catalogue of events."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "image.created",
                    "event_id": "42",
                    "created_at": "2026-11-28T12:00:00Z",
                    "image_id": "0198…",
                    "job_id": "0198…",
                }
            ]
        },
    )

    type: str = Field(description="Type of the event.", examples=["image.created"])
    event_id: str | None = Field(None, description="Position in the log; `generation.stepped` has none.")
    created_at: datetime = Field(description="When it happened.")
    image_id: str | None = Field(None, description="Id of the image it happened to, or that the job has made.")
    job_id: str | None = Field(None, description="Id of the job it happened to, or that made the image.")


class EventList(PageFields):
    """A page of the event log, oldest first."""

    data: list[Event] = Field(description="Events of this page.")
