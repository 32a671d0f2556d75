"""API keys in SQL. Methods block: call them from a thread."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, func, insert, select, update

from pipeline.api_keys import ApiKey, check_owner, new_token, token_digest
from pipeline.errors import KeyLimitReached, KeyNotFound, Unauthorized
from pipeline.store.common import new_id
from pipeline.store.log import EventLog, as_utc
from pipeline.store.pages import PageQuery
from pipeline.store.tables import api_keys


class KeyStore:
    """API keys by the digests of their tokens."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def create(
        self, owner: str, name: str = "", max_valid: int | None = None, by: str | None = None
    ) -> tuple[ApiKey, str]:
        """Create a key; return its stored metadata, and its token, which isn't stored.

        Args:
            owner: of the images and jobs that the key gives access to.
            name: a label.
            max_valid: limit of valid keys of this owner.
            by: id of the key that creates it, if any.

        Raises:
            InvalidOwner: the owner's name is invalid.
            Unauthorized: the key that creates it was revoked.
            KeyLimitReached: the owner's limit is reached.
        """
        token = new_token()
        row = {"key_id": new_id(), "owner": check_owner(owner), "name": name, "created_at": datetime.now(UTC)}
        with self._log.writing() as connection:
            if by is not None:
                of_creator = select(api_keys.c.key_id).where(api_keys.c.key_id == by, _VALID)
                if connection.execute(of_creator).first() is None:
                    raise Unauthorized
            valid = select(func.count()).select_from(api_keys).where(api_keys.c.owner == owner, _VALID)
            if max_valid is not None and connection.execute(valid).scalar_one() >= max_valid:
                raise KeyLimitReached(limit=max_valid)
            made = connection.execute(
                insert(api_keys).values(row | {"digest": token_digest(token)}).returning(api_keys)
            )
            return _key(made.one()), token

    def list(self, owner: str | None = None) -> Sequence[ApiKey]:
        """List an owner's keys, oldest first, including revoked ones; of all owners if None."""
        query = select(api_keys).order_by(api_keys.c.key_id)
        if owner is not None:
            query = query.where(api_keys.c.owner == owner)
        with self._log.engine.connect() as connection:
            return [_key(row) for row in connection.execute(query)]

    def page(self, owner: str, page: PageQuery) -> Sequence[ApiKey]:
        """List an owner's valid keys."""
        query = page.apply(select(api_keys).where(api_keys.c.owner == owner, _VALID), *_BY_TIME)
        with self._log.engine.connect() as connection:
            return [_key(row) for row in connection.execute(query)]

    def revoke(self, key_id: str, owner: str | None = None) -> ApiKey:
        """Revoke a key permanently; one that is revoked already is left as it is.

        The service caches valid tokens for 10 s, so the key is accepted for up to 10 s more.

        Args:
            key_id: of the key.
            owner: of the key; any if None.

        Raises:
            KeyNotFound: there is no such key.
        """
        this = api_keys.c.key_id == key_id
        if owner is not None:
            this &= api_keys.c.owner == owner
        now = func.coalesce(api_keys.c.revoked_at, datetime.now(UTC))
        with self._log.writing() as connection:
            ended = update(api_keys).where(this).values(revoked_at=now).returning(api_keys)
            row = connection.execute(ended).one_or_none()
        if row is None:
            raise KeyNotFound(key_id=key_id)
        return _key(row)

    def authenticate(self, token: str) -> ApiKey | None:
        """Return the key of a token; None if the token is unknown, or its key is revoked."""
        # By digest: the timing of its comparison reveals nothing about the token.
        query = select(api_keys).where(api_keys.c.digest == token_digest(token), _VALID)
        with self._log.engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _key(row)


_VALID = api_keys.c.revoked_at.is_(None)
_BY_TIME = (api_keys.c.key_id, api_keys.c.created_at)


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        key_id=row.key_id,
        owner=row.owner,
        name=row.name,
        created_at=as_utc(row.created_at),
        revoked_at=row.revoked_at and as_utc(row.revoked_at),
    )
