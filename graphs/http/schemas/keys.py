"""What HTTP clients send and get of API keys, and of themselves."""

from __future__ import annotations

import math
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from graphs.http.pagination import PageFields
from graphs.http.schemas.generation import PlainText, RequestBody
from pipeline import api_keys
from pipeline.settings import ServiceSettings
from pipeline.store import OwnerUsage


def _not_empty(name: str) -> str:
    if not name:
        raise ValueError("is empty; send a name such as laptop")
    return name


class KeyBody(RequestBody):
    """An API key to create."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "laptop"}]})

    name: Annotated[PlainText, AfterValidator(_not_empty)] = Field(
        max_length=api_keys.MAX_NAME_CHARS, description="Describes the key."
    )


class Key(BaseModel):
    """An API key, without its token."""

    key_id: str = Field(description="Id of the key.")
    name: str = Field(description="Describes the key.")
    created_at: datetime = Field(description="When it was created.")

    @classmethod
    def of(cls, key: api_keys.ApiKey) -> Self:
        return cls(key_id=key.key_id, name=key.name, created_at=key.created_at)


class KeyWithToken(Key):
    """A new API key. Its token is shown only here, and isn't stored."""

    token: str = Field(examples=["aip_…"], description="Authenticates requests, as `Authorization: Bearer aip_…`.")


class KeyList(PageFields):
    """A page of API keys."""

    data: list[Key] = Field(description="Keys of this page.")


class Limits(BaseModel):
    """Limits of one owner; null is no limit."""

    requests_per_minute: int | None = Field(
        description="Requests within a minute, to each replica of the HTTP service."
    )
    concurrent_requests: int | None = Field(
        description="Requests in flight, event streams included, to each replica of the HTTP service."
    )
    unfinished_jobs: int | None = Field(description="Jobs that are queued or running.")
    webhooks: int | None = Field(description="Webhooks.")
    bytes: int | None = Field(description="Bytes of stored images; beyond it the oldest are deleted.")
    retention_s: float | None = Field(description="Seconds after which images and their events are deleted.")

    @classmethod
    def of(cls, settings: ServiceSettings) -> Self:
        retention = settings.storage.retention
        retention_s = retention.max_age_s
        return cls(
            requests_per_minute=settings.limits.requests_per_minute,
            concurrent_requests=settings.limits.concurrent_requests,
            unfinished_jobs=settings.limits.unfinished_jobs,
            webhooks=settings.webhooks.max_per_owner,
            bytes=retention.max_bytes_per_owner,
            retention_s=retention_s if math.isfinite(retention_s) else None,
        )


class OwnUsage(BaseModel):
    """What an owner has."""

    images: int = Field(description="Stored images.")
    bytes: int = Field(description="Bytes of the stored images, as PNG.")
    unfinished_jobs: int = Field(description="Jobs that are queued or running.")
    webhooks: int = Field(description="Webhooks.")


class Me(BaseModel):
    """The caller: the owner of everything that its requests create."""

    owner: str = Field(examples=["public"], description="Owner; `public` where the service runs without keys.")
    key: Key | None = Field(description="API key of this request; null where the service runs without keys.")
    limits: Limits = Field(description="Limits of the owner.")
    usage: OwnUsage = Field(description="What the owner has.")

    @classmethod
    def of(cls, owner: str, key: api_keys.ApiKey | None, settings: ServiceSettings, usage: OwnerUsage) -> Self:
        return cls(
            owner=owner,
            key=None if key is None else Key.of(key),
            limits=Limits.of(settings),
            usage=OwnUsage(**asdict(usage)),
        )
