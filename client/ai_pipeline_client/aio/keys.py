"""`client.keys`: API keys of the caller."""

from __future__ import annotations

from functools import partial
from typing import Optional, Union

from ai_pipeline_client import calls
from ai_pipeline_client.aio.connection import AsyncConnection
from ai_pipeline_client.aio.io import Items
from ai_pipeline_client.calls import Call, id_of
from ai_pipeline_client.decoding import decoded
from ai_pipeline_client.results import Key

KEYS = "/v1/keys"
FULL_PAGE = 100


class AsyncKeys:
    """Your API keys, where the service requires them. Every method raises `PipelineError`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def create(self, name: str) -> Key:
        """Create another API key for your own images and jobs.

        Args:
            name: describes the key.

        Returns:
            The key with its token, which isn't shown again.
        """
        call = Call(method="POST", path=KEYS, read=calls.read_as(Key), json={"name": name}, is_repeatable=False)
        return await self._connection.send(call)

    async def list(self) -> Items[Key]:
        """Iterate over the valid API keys, newest first."""
        after: Optional[str] = None
        while True:
            params = calls.without_none({"limit": FULL_PAGE, "after": after})
            read = calls.read_page(partial(decoded, Key))
            page = await self._connection.send(Call(method="GET", path=KEYS, read=read, params=params))
            for key in page:
                yield key
            after = page.next
            if after is None:
                return

    async def delete(self, key: Union[Key, str]) -> None:
        """Revoke an API key; nothing happens if it is revoked already.

        Args:
            key: the key, or its id; it may be the one of this client.
        """
        path = f"{KEYS}/{id_of(key, 'key')}"
        await self._connection.send(Call(method="DELETE", path=path, read=lambda _: None))
