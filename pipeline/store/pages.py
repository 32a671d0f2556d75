"""Pages of a list: a cursor, an order, and bounds of the time of creation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Select


@dataclass(frozen=True, kw_only=True, slots=True)
class PageQuery:
    """Which items of a list to read. Ids sort by time."""

    limit: int
    after: str | None = None  # the id of the last item of the page before
    is_ascending: bool = False  # oldest first
    created_after: datetime | None = None  # inclusive
    created_before: datetime | None = None  # exclusive

    def apply(self, query: Select[Any], item_id: Column[Any], created_at: Column[Any]) -> Select[Any]:
        """Return the query for this page of its rows."""
        if self.after is not None:
            query = query.where(item_id > self.after if self.is_ascending else item_id < self.after)
        if self.created_after is not None:
            query = query.where(created_at >= self.created_after)
        if self.created_before is not None:
            query = query.where(created_at < self.created_before)
        return query.order_by(item_id.asc() if self.is_ascending else item_id.desc()).limit(self.limit)
