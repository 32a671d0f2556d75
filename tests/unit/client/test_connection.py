"""Where a client connects to, and how soon it gives up."""

from __future__ import annotations

import re

import httpx
import pytest

import ai_pipeline_client
from ai_pipeline_client import Client, ConnectionFailed, ResponseTimeout, Retries, Timeout
from ai_pipeline_client.blocking import connection
from ai_pipeline_client.connection import server_url

VARIABLES = ("AI_PIPELINE_URL", "PIPELINE_SERVER", "AI_PIPELINE_API_KEY", "PIPELINE_API_KEY")
NO_JOBS = {"data": [], "next": None}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(connection, "pause", pauses.append)
    return pauses


def sent_by(*args, **options) -> httpx.Request:
    """Return what a client sends."""
    requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json=NO_JOBS)

    with Client(*args, transport=httpx.MockTransport(respond), **options) as client:
        assert list(client.jobs.list()) == []
    return requests[0]


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("localhost", "http://localhost"),
        ("http://gpu.example/", "http://gpu.example"),
        ("https://gpu.example/images/", "https://gpu.example/images"),
        (" http://[::1]:8000 ", "http://[::1]:8000"),
    ],
)
def test_a_server_may_be_given_without_its_scheme(server, url):
    assert server_url(server) == url
    assert str(sent_by(server).url).startswith(f"{url}/v1/jobs?limit=")


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        ("ftp://gpu.example", "it is of ftp"),
        ("http://", "it names no host"),
        ("my server", "no URL of a service"),
        ("http://gpu.example:port", "no URL of a service"),
        ("http://gpu.example:99999", "no URL of a service"),
        ("http://gpu.example?key=1", "a query or a fragment"),
    ],
)
def test_what_is_no_url_is_refused_at_once(server, problem):
    with pytest.raises(ValueError, match=problem) as refused:
        Client(server)
    assert repr(server) in str(refused.value)
    assert "Pass one such as http://127.0.0.1:8000, or set AI_PIPELINE_URL." in str(refused.value)


def test_server_and_key_come_from_the_environment(environment):
    request = sent_by()
    assert (request.url.host, request.url.port, "authorization" in request.headers) == ("127.0.0.1", 8000, False)
    environment.setenv("PIPELINE_SERVER", "http://older:1")
    environment.setenv("PIPELINE_API_KEY", "older")
    request = sent_by()
    assert (request.url.host, request.headers["authorization"]) == ("older", "Bearer older")
    environment.setenv("AI_PIPELINE_URL", "newer:2")
    environment.setenv("AI_PIPELINE_API_KEY", "newer")
    request = sent_by()
    assert (request.url.host, request.headers["authorization"]) == ("newer", "Bearer newer")
    request = sent_by("http://given:3", api_key="given")
    assert (request.url.host, request.headers["authorization"]) == ("given", "Bearer given")


def test_every_request_names_the_client_and_has_the_caller_s_headers():
    request = sent_by(headers={"X-Mine": "1"}, session="ann")
    assert re.fullmatch(
        rf"ai-pipeline-client/{re.escape(ai_pipeline_client.__version__)} python/3\.\d+\.\d+",
        request.headers["user-agent"],
    )
    assert (request.headers["x-mine"], request.headers["x-session-id"]) == ("1", "ann")


def test_a_timeout_is_that_of_every_request():
    assert sent_by(timeout=7).extensions["timeout"]["read"] == 7
    assert sent_by(timeout=httpx.Timeout(3, read=5)).extensions["timeout"] == {
        "connect": 3,
        "read": 5,
        "write": 3,
        "pool": 3,
    }
    assert sent_by().extensions["timeout"]["connect"] == 5


@pytest.mark.parametrize(
    "options",
    [
        {"max_retries": 1, "retries": Retries()},
        {"max_retries": -1},
        {"http_client": httpx.Client(), "transport": httpx.MockTransport(lambda _: httpx.Response(200))},
    ],
)
def test_arguments_that_exclude_each_other_are_refused(options):
    with pytest.raises(ValueError, match="ass"):
        Client("http://test", **options)


def test_a_wrong_port_is_reported_after_one_retry(pauses):
    with pytest.raises(ConnectionFailed) as failed:
        Client("127.0.0.1:9").about()
    assert str(failed.value) == "Nothing answers at http://127.0.0.1:9. Is the service running?"
    assert len(pauses) == 1
    assert pauses[0] < 1


def test_a_service_that_has_answered_is_given_more_time(pauses):
    outcomes = iter([httpx.Response(200, json=NO_JOBS)])

    def respond(_: httpx.Request) -> httpx.Response:
        try:
            return next(outcomes)
        except StopIteration:
            raise httpx.ConnectError("connection refused") from None

    with Client("http://test", transport=httpx.MockTransport(respond), max_retries=3) as client:
        client.jobs.page()
        with pytest.raises(ConnectionFailed):
            client.in_session("ann").jobs.page()
    assert len(pauses) == 3


def test_a_response_that_does_not_come_in_time_is_a_timeout(pauses):
    def respond(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("too late", request=request)

    with (
        Client("http://test", transport=httpx.MockTransport(respond), max_retries=0) as client,
        pytest.raises(Timeout, match=r"http://test gave no answer in time") as failed,
    ):
        client.about()
    assert isinstance(failed.value, ResponseTimeout)
    assert isinstance(failed.value, ConnectionFailed)
    assert pauses == []
