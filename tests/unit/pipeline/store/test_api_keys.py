"""API keys: shown once, stored as digests, invalid once revoked."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, select

from pipeline.api_keys import TOKEN_PREFIX, check_owner, token_digest
from pipeline.errors import InvalidOwner, KeyLimitReached, KeyNotFound
from pipeline.store import EventLog, KeyStore, new_id, open_database
from pipeline.store.pages import PageQuery
from pipeline.store.tables import api_keys

OpenKeys = Callable[[], KeyStore]


@pytest.fixture
def open_keys(database_url: str) -> Iterator[OpenKeys]:
    """Return a function that opens the same keys, as another process would."""
    engines = []

    def open_() -> KeyStore:
        engines.append(open_database(database_url))
        return KeyStore(EventLog(engines[-1]))

    yield open_
    for engine in engines:
        engine.dispose()


@pytest.fixture
def keys(open_keys: OpenKeys) -> KeyStore:
    return open_keys()


def test_a_token_authenticates_its_owner_in_every_process(keys: KeyStore, open_keys: OpenKeys):
    key, token = keys.create("ann", "laptop")
    assert token.startswith(TOKEN_PREFIX)
    assert (key.owner, key.name, key.revoked_at) == ("ann", "laptop", None)
    assert open_keys().authenticate(token).owner == "ann"
    assert open_keys().list() == [key]


@pytest.mark.parametrize("token", ["", "aip_", "aip_" + "A" * 43, "ann", "%"])
def test_an_unknown_token_has_no_owner(keys: KeyStore, token: str):
    keys.create("ann")
    assert keys.authenticate(token) is None


def test_stored_values_are_not_valid_tokens(keys: KeyStore, engine: Engine):
    _, token = keys.create("ann")
    with engine.connect() as connection:
        row = connection.execute(select(api_keys)).one()
    assert row.digest == token_digest(token)
    assert token not in map(str, row)
    assert all(keys.authenticate(str(value)) is None for value in row)


def test_a_revoked_key_is_invalid_and_the_owner_s_other_keys_stay_valid(keys: KeyStore):
    (first, lost), (kept, good) = keys.create("ann", "lost"), keys.create("ann", "good")
    revoked = keys.revoke(first.key_id)
    assert revoked.revoked_at >= first.created_at
    assert (keys.authenticate(lost), keys.authenticate(good)) == (None, kept)
    assert keys.revoke(first.key_id) == revoked
    with pytest.raises(KeyNotFound):
        keys.revoke(new_id())


def test_keys_are_listed_by_owner_oldest_first(keys: KeyStore):
    made = [keys.create(owner)[0] for owner in ("ann", "bob", "ann")]
    assert keys.list() == made
    assert keys.list("ann") == [made[0], made[2]]
    assert keys.list("nobody") == []


def test_valid_keys_of_an_owner_are_paginated(keys: KeyStore):
    made = [keys.create("ann")[0] for _ in range(4)]
    keys.create("bob")
    keys.revoke(made[1].key_id)
    first = keys.page("ann", PageQuery(limit=2))
    assert first == [made[3], made[2]]
    assert keys.page("ann", PageQuery(limit=2, after=first[-1].key_id)) == [made[0]]
    assert keys.page("ann", PageQuery(limit=9, is_ascending=True)) == [made[0], made[2], made[3]]


def test_valid_keys_of_an_owner_are_limited(keys: KeyStore):
    keys.create("bob")
    key, _ = keys.create("ann", max_valid=1)
    with pytest.raises(KeyLimitReached):
        keys.create("ann", max_valid=1)
    keys.revoke(key.key_id)
    keys.create("ann", max_valid=1)


def test_an_owner_revokes_no_other_s_key(keys: KeyStore):
    key, token = keys.create("ann")
    with pytest.raises(KeyNotFound):
        keys.revoke(key.key_id, "bob")
    assert keys.authenticate(token) == key
    assert keys.revoke(key.key_id, "ann").revoked_at is not None


@pytest.mark.parametrize("owner", ["a", "0", "ann.b_c-D", "x" * 64])
def test_valid_owners_are_accepted(owner: str):
    assert check_owner(owner) == owner


@pytest.mark.parametrize("owner", ["", ".", "..", ".ann", "-ann", "a/b", "a b", "änn", "x" * 65, "ann\n"])
def test_invalid_owners_raise(keys: KeyStore, owner: str):
    with pytest.raises(InvalidOwner):
        keys.create(owner)
