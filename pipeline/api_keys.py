"""API keys: authenticate a request as its owner. A key is shown once; only its digest is stored."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime

from pipeline.errors import InvalidOwner

TOKEN_PREFIX = "aip_"  # recognised by readers and by scanners for leaked secrets
TOKEN_BYTES = 32
MAX_VALID_KEYS = 100  # of one owner, of those created over HTTP
MAX_NAME_CHARS = 100

# Part of the names of stored results: no slash, and no leading dot.
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """The metadata of a key."""

    key_id: str  # sorts by time
    owner: str  # whose images and jobs it gives access to; several keys may have one owner
    name: str  # a label for its owner
    created_at: datetime
    revoked_at: datetime | None  # None while it is valid


def check_owner(owner: str) -> str:
    """Return an owner's name if it is valid.

    Raises:
        InvalidOwner: it isn't.
    """
    if not _OWNER.fullmatch(owner):
        raise InvalidOwner(owner=owner)
    return owner


def new_token() -> str:
    """Make a token, with which a client authenticates."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def token_digest(token: str) -> str:
    """Return the SHA-256 of a token, in hex. A token has 256 random bits, so it needs no salt and no stretching."""
    return hashlib.sha256(token.encode()).hexdigest()
