"""The SSRF guard: URLs with private addresses are rejected, also if a host name resolves to one."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address

import httpx
import pytest

from graphs.events import ssrf_guard as public_transport
from graphs.events import webhooks as webhook_dispatcher
from graphs.events.ssrf_guard import PublicAddressTransport, check_url, is_public
from pipeline.errors import AddressRefused
from pipeline.settings import WebhookSettings
from testing.harness import make_bench, working
from testing.waiting import PATIENCE_S
from testing.webhook_receiver import Receiver
from tests.integration.clients import client_of, is_problem

pytestmark = pytest.mark.anyio

PUBLIC, OTHER_PUBLIC = "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"
PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fd00::1",
    "ff02::1",
    "::ffff:10.0.0.1",
    "2002:7f00:1::",
    "64:ff9b::a00:1",
]


class Resolver:
    """A resolver that returns the addresses set by the test."""

    def __init__(self, monkeypatch) -> None:
        self.answers: list[list[str]] = []
        monkeypatch.setattr(public_transport, "getaddrinfo", self.resolve)

    def resolve(self, host: str, port: int, **_: object) -> list[tuple]:
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]


class Sent:
    """Records the requests as sent; one address is unreachable."""

    def __init__(self, unreachable: str = "") -> None:
        self.requests: list[httpx.Request] = []
        self.unreachable = unreachable
        self.client = httpx.AsyncClient(transport=PublicAddressTransport(httpx.MockTransport(self.send)))

    def send(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.url.host == self.unreachable:
            raise httpx.ConnectError("unreachable")
        return httpx.Response(204)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_rejected(address):
    assert not is_public(ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(AddressRefused, match="public address"):
        check_url(f"http://{host}:8000/hook", allow_private=False)
    check_url(f"http://{host}:8000/hook", allow_private=True)


@pytest.mark.parametrize("address", [PUBLIC, OTHER_PUBLIC, "1.1.1.1", "::ffff:1.1.1.1"])
def test_public_addresses_are_accepted(address):
    assert is_public(ip_address(address))


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "a.localhost", "127.1", "2130706433", "0x7f000001"])
def test_other_notations_of_localhost_are_rejected(host):
    with pytest.raises(AddressRefused):
        check_url(f"http://{host}/", allow_private=False)


async def test_the_connection_uses_the_checked_address(monkeypatch):
    Resolver(monkeypatch).answers = [[PUBLIC]]
    sent = Sent()
    async with sent.client as client:
        await client.post("https://receiver.example:8443/hook?x=1", content=b"{}")
    (request,) = sent.requests
    assert str(request.url) == f"https://{PUBLIC}:8443/hook?x=1"
    assert request.headers["host"] == "receiver.example:8443"
    assert request.extensions["sni_hostname"] == "receiver.example"


async def test_a_host_name_is_resolved_and_checked_for_every_request(monkeypatch):
    Resolver(monkeypatch).answers = [[PUBLIC], ["127.0.0.1"]]
    sent = Sent()
    async with sent.client as client:
        await client.post("https://receiver.example/")
        with pytest.raises(AddressRefused):
            await client.post("https://receiver.example/")
    assert [request.url.host for request in sent.requests] == [PUBLIC]


@pytest.mark.parametrize("found", [[PUBLIC, "10.0.0.1"], ["10.0.0.1", PUBLIC], ["::ffff:127.0.0.1"], []])
async def test_one_private_address_rejects_the_host(monkeypatch, found):
    Resolver(monkeypatch).answers = [found]
    sent = Sent()
    async with sent.client as client:
        with pytest.raises(AddressRefused):
            await client.post("https://receiver.example/")
    assert sent.requests == []


async def test_the_next_address_is_tried_if_one_is_unreachable(monkeypatch):
    Resolver(monkeypatch).answers = [[OTHER_PUBLIC, PUBLIC]]
    sent = Sent(unreachable=OTHER_PUBLIC)
    async with sent.client as client:
        assert (await client.post("http://receiver.example/", content=b"whole")).status_code == 204
    assert [request.url.host for request in sent.requests] == [OTHER_PUBLIC, PUBLIC]


async def test_a_webhook_does_not_reach_a_private_address_by_any_host_name(tmp_path, monkeypatch):
    monkeypatch.setattr(webhook_dispatcher, "POLL_S", 0.05)
    receiver = Receiver()
    receiver.up()
    bench = make_bench(tmp_path, webhooks=WebhookSettings(retry_after_s=()))
    async with client_of(bench) as client, working(bench):
        rejected = await client.post("/v1/webhooks", json={"url": receiver.url})
        assert is_problem(rejected, 422, "address_refused")
        assert "--allow-private-webhooks" in rejected.json()["detail"]

        url = receiver.url.replace("127.0.0.1", "receiver.example")
        webhook = (await client.post("/v1/webhooks", json={"url": url})).json()
        Resolver(monkeypatch).answers = [["127.0.0.1"]]
        await client.post(f"/v1/webhooks/{webhook['webhook_id']}/test")
        path = f"/v1/webhooks/{webhook['webhook_id']}/deliveries"
        async with asyncio.timeout(PATIENCE_S):
            while (delivery := (await client.get(path)).json()["deliveries"][0])["state"] == "pending":
                pass
    receiver.down()
    assert (delivery["state"], delivery["last_status"]) == ("failed", None)
    assert "receiver.example is not at a public address" in delivery["last_error"]
    assert receiver.messages == []
