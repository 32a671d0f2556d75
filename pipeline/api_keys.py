"""API keys: whose requests are whose. A key is shown once; only its digest is kept."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime

from pipeline.errors import InvalidOwner

TOKEN_PREFIX = "aip_"  # tells people, and scanners for leaked secrets, what it is
TOKEN_BYTES = 32

# Part of the names of stored results: no slash, and no dot in front.
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """What is known of a key."""

    key_id: str  # sorts by time
    owner: str  # whose images and jobs it reaches; several keys may have one owner
    name: str  # for people
    created_at: datetime
    revoked_at: datetime | None  # None while it is good


def check_owner(owner: str) -> str:
    """Return an owner's name if it can be one.

    Raises:
        InvalidOwner: it can't.
    """
    if not _OWNER.fullmatch(owner):
        raise InvalidOwner(owner=owner)
    return owner


def new_token() -> str:
    """Make what a client sends to prove that it has a key."""
    return TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def token_digest(token: str) -> str:
    """SHA-256 of a token, in hex. No salt and no stretching: a token has 256 random bits, which nobody guesses."""
    return hashlib.sha256(token.encode()).hexdigest()
