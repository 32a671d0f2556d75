# Generated from aio/keys.py by scripts/write_client.py: do not edit.
"""`client.keys`: API keys of the caller."""

from __future__ import annotations

from functools import partial
from typing import Optional, Union

from ai_pipeline_client import calls
from ai_pipeline_client.blocking.connection import Connection
from ai_pipeline_client.blocking.io import Items
from ai_pipeline_client.calls import Call, id_of
from ai_pipeline_client.decoding import decoded
from ai_pipeline_client.results import Key

KEYS = "/v1/keys"
FULL_PAGE = 100


class Keys:
    """Your API keys, where the service requires them. Every method raises `PipelineError`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, name: str) -> Key:
        """Create another API key for your own images and jobs.

        Args:
            name: describes the key.

        Returns:
            The key with its token, which isn't shown again.
        """
        call = Call(method="POST", path=KEYS, read=calls.read_as(Key), json={"name": name}, is_repeatable=False)
        return self._connection.send(call)

    def list(self) -> Items[Key]:
        """Iterate over the valid API keys, newest first."""
        after: Optional[str] = None
        while True:
            params = calls.without_none({"limit": FULL_PAGE, "after": after})
            read = calls.read_page(partial(decoded, Key))
            page = self._connection.send(Call(method="GET", path=KEYS, read=read, params=params))
            for key in page:
                yield key
            after = page.next
            if after is None:
                return

    def delete(self, key: Union[Key, str]) -> None:
        """Revoke an API key; nothing happens if it is revoked already.

        Args:
            key: the key, or its id; it may be the one of this client.
        """
        path = f"{KEYS}/{id_of(key, 'key')}"
        self._connection.send(Call(method="DELETE", path=path, read=lambda _: None))
