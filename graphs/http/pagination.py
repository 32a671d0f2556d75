"""Lists: cursor, order, bounds of time, and parameters that hold several values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import Depends, Query
from pydantic import BaseModel, BeforeValidator, Field

from pipeline.errors import InvalidRequest
from pipeline.store.pages import PageQuery

PAGE, MAX_PAGE = 20, 100

T = TypeVar("T")


class Order(StrEnum):
    """Order of a list, by time."""

    DESC = "desc"
    ASC = "asc"


def split_commas(values: Any) -> Any:
    """Split the elements of a list parameter at commas: `type=a,b` is `type=a&type=b`."""
    if not isinstance(values, list):
        return values
    return [part.strip() for value in values for part in str(value).split(",") if part.strip()]


SplitCommas = BeforeValidator(split_commas)

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Number of items on a page.")]
Cursor = Annotated[UUID | None, Query(description="The `next` of the page before.")]


async def get_page(
    limit: Limit = PAGE,
    after: Cursor = None,
    before: Annotated[UUID | None, Query(description="The same as `after`.", deprecated=True)] = None,
    order: Annotated[Order, Query(description="Newest first, or oldest first.")] = Order.DESC,
    created_after: Annotated[datetime | None, Query(description="Created at this time or later.")] = None,
    created_before: Annotated[datetime | None, Query(description="Created before this time.")] = None,
) -> PageQuery:
    """Return which items of a list the caller wants, and one more, which shows whether another page follows.

    Raises:
        InvalidRequest: both cursors are given, or a time can't be represented.
    """
    if after and before:
        raise InvalidRequest(problem="before is the older name of after: send after alone.")
    cursor = after or before
    return PageQuery(
        limit=limit + 1,
        after=str(cursor) if cursor else None,
        is_ascending=order is Order.ASC,
        created_after=in_utc(created_after),
        created_before=in_utc(created_before),
    )


PageDep = Annotated[PageQuery, Depends(get_page)]


class PageFields(BaseModel):
    """What every page of a list has beside its `data`."""

    has_more: bool = Field(description="Whether another page follows.")
    next: str | None = Field(description="Send it as `after` to get the following page; null on the last.")


def split_page(found: Sequence[T], page: PageQuery, id_of: Callable[[T], str]) -> tuple[Sequence[T], dict[str, Any]]:
    """Split what a query found into its page, and the fields of `PageFields`."""
    shown = found[: page.limit - 1]
    has_more = len(found) > len(shown)
    return shown, {"has_more": has_more, "next": id_of(shown[-1]) if has_more else None}


def in_utc(moment: datetime | None) -> datetime | None:
    """Return a time in UTC; one without a zone is in UTC.

    Raises:
        InvalidRequest: it can't be represented in UTC.
    """
    if moment is None:
        return None
    try:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise InvalidRequest(
            problem=f"{moment} is beyond all calendars. Send a time such as 2026-11-26T12:00Z."
        ) from None
