"""HTTP to addresses that strangers name: only public ones, whatever a name resolves to and however often it changes.

The host is resolved here, all its addresses are checked, and the connection goes to one that was checked: a name that
is resolved a second time could lead elsewhere by then.
"""

from __future__ import annotations

import asyncio
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from socket import getaddrinfo

import httpx

from pipeline.errors import AddressRefused, InvalidRequest

MAX_URL_CHARS = 2000
MAX_PORT = 65535
HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")  # as names and addresses are sent; others are written in these
UNREADABLE = "url can't be read. Send one such as https://example.com/hook."
LOCAL_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")

RESOLVERS = 8
# Public by their ranges, and yet not: Azure's host, a dummy address (RFC 7600), documentation (RFC 9637).
NOT_PUBLIC = tuple(map(ip_network, ("168.63.129.16/32", "192.0.0.8/32", "3fff::/20")))

Address = IPv4Address | IPv6Address


class PublicAddressTransport(httpx.AsyncBaseTransport):
    """Sends requests to public addresses alone.

    Args:
        inner: sends them. It must keep no connection: one that was made for another host at the same address would be
            used, whose certificate was checked for that host.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        # Threads of its own: a name whose server never answers holds one for ten seconds and more.
        self._resolver = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="resolver")

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, to the first of its host's addresses that can be reached.

        Raises:
            AddressRefused: one of them is not public.
            OSError: the host has none.
        """
        host = request.url.raw_host.decode("ascii")
        addresses = await self._resolve(host, request.url.port or {"http": 80, "https": 443}[request.url.scheme])
        if not addresses or not all(is_public(address) for address in addresses):
            raise AddressRefused(host=host)
        *others, last = addresses
        for address in others:
            try:
                return await self._inner.handle_async_request(_at(request, address, host))
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._inner.handle_async_request(_at(request, last, host))

    async def aclose(self) -> None:
        """Close what is open."""
        self._resolver.shutdown(wait=False, cancel_futures=True)
        await self._inner.aclose()

    async def _resolve(self, host: str, port: int) -> list[Address]:
        resolve = partial(getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._resolver, resolve)
        return list(dict.fromkeys(ip_address(where[0]) for *_, where in found))


def check_url(url: str, *, allow_private: bool) -> None:
    """Check a URL that something is to be sent to, as far as that goes without resolving its host.

    Raises:
        InvalidRequest: it can't be one; says what to send.
        AddressRefused: its host is known not to be public.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):  # the latter of a name that can't be one
        raise InvalidRequest(problem=UNREADABLE) from None
    if len(url) > MAX_URL_CHARS:
        raise InvalidRequest(problem=f"url has {len(url)} characters. Send {MAX_URL_CHARS} at most.")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidRequest(problem="url must begin with https:// or http:// and a host.")
    host = parsed.raw_host.decode("ascii")
    if not HOST.fullmatch(host) or (parsed.port is not None and not 1 <= parsed.port <= MAX_PORT):
        raise InvalidRequest(problem=UNREADABLE)
    if parsed.userinfo:
        raise InvalidRequest(problem="url holds credentials. Send it without: the signature tells who is calling.")
    if not allow_private and not _may_be_public(host):
        raise AddressRefused(host=parsed.host)


def is_public(address: Address) -> bool:
    """Whether an address is one host's on the internet; one that carries an IPv4 address is as public as that."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is not None:
            return is_public(inner)
    if any(address in network for network in NOT_PUBLIC):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _may_be_public(host: str) -> bool:
    name = host.rstrip(".").lower()
    if name in LOCAL_NAMES or name.endswith(".localhost"):
        return False
    try:
        return is_public(ip_address(name))
    except ValueError:
        pass
    try:
        return is_public(IPv4Address(socket.inet_aton(name)))  # the forms resolvers take too: 127.1, 0x7f000001
    except OSError:
        return True  # a name: what it resolves to is checked whenever something is sent


def _at(request: httpx.Request, address: Address, host: str) -> httpx.Request:
    """The same request to an address; its Host header and the name in the receiver's certificate stay the host's."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=str(address)),
        headers=request.headers,
        stream=request.stream,
        extensions=request.extensions | {"sni_hostname": host},
    )
