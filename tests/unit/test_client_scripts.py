"""What the client decides, without a network: acts in, acts out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import httpx
import pytest

from ai_pipeline_client import (
    Conflict,
    ConnectionFailed,
    InvalidRequest,
    NotFound,
    Overloaded,
    PipelineError,
    RateLimited,
    Retries,
    ServiceFailed,
    ServiceUnavailable,
    Unauthorized,
    UnexpectedAnswer,
    calls,
    retries,
)
from ai_pipeline_client.acts import Act, Call, Pause, Play, Request
from ai_pipeline_client.decoding import decoded, wire
from ai_pipeline_client.errors import error_of

JOB = {
    "job_id": "j",
    "kind": "generate",
    "state": "queued",
    "attempts": 0,
    "cancel_requested": False,
    "request": {},
    "result": None,
    "problem": None,
    "created_at": "2026-01-02T03:04:05Z",
    "finished_at": None,
    "something": "newer",
}
SERVER = httpx.Request("GET", "http://test/v1/jobs/j")


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries.random, "uniform", lambda least, most: most)


def said(status: int, body: object = None, **headers: str) -> httpx.Response:
    content = {"text": body} if isinstance(body, str) else {"json": body}
    return httpx.Response(status, headers=headers, request=SERVER, **content)


def sent(call: Call, *outcomes: httpx.Response | Exception, patience: Retries = Retries()) -> tuple[list[Act], object]:  # noqa: B008
    """All acts of sending a call whose requests have these outcomes, and how it ends."""
    acts: list[Act] = []
    remaining = iter(outcomes)
    play = Play(retries.sending(call, patience))
    try:
        while play.act is not None:
            acts.append(play.act)
            if isinstance(play.act, Pause):
                play.go_on(None)
                continue
            outcome = next(remaining)
            play.fail(outcome) if isinstance(outcome, Exception) else play.go_on(outcome)
    except PipelineError as error:
        return acts, error
    return acts, play.result


def test_pauses_double_and_end():
    call = calls.job("j")
    request = Request(call=call)
    acts, end = sent(call, *[said(503, "no")] * 5)
    pauses = [Pause(seconds=seconds) for seconds in (0.5, 1.0, 2.0, 4.0)]
    assert acts == [request, pauses[0], request, pauses[1], request, pauses[2], request, pauses[3], request]
    assert isinstance(end, ServiceUnavailable)


def test_the_service_says_when_to_come_back():
    call = calls.job("j")
    acts, end = sent(call, said(429, {"code": "overloaded"}, **{"Retry-After": "7"}), said(200, JOB))
    assert acts == [Request(call=call), Pause(seconds=7.0), Request(call=call)]
    assert end.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_nobody_waits_longer_than_patience_says():
    acts, end = sent(calls.job("j"), said(429, {"code": "too_many_jobs"}, **{"Retry-After": "61"}))
    assert len(acts) == 1
    assert (type(end), end.retry_after_s) == (Overloaded, 61)


def test_a_key_s_first_request_is_waited_for_as_long_as_it_takes():
    call = calls.upload(b"")
    running = said(409, {"code": "job_running"}, **{"Retry-After": "1"})
    acts, _ = sent(call, *[running] * 20, said(201, {"image_id": "i", "width": 1, "height": 1}))
    assert acts == [Request(call=call), Pause(seconds=1.0)] * 20 + [Request(call=call)]


@pytest.mark.parametrize(
    ("call", "outcome", "is_repeated"),
    [
        (calls.job("j"), httpx.ReadError("x", request=SERVER), True),
        (calls.create("pear"), httpx.RemoteProtocolError("x", request=SERVER), True),
        (calls.retry("j"), httpx.ReadError("x", request=SERVER), False),
        (calls.retry("j"), httpx.ConnectError("x", request=SERVER), True),
        (calls.retry("j"), said(502, "bad gateway"), False),
        (calls.retry("j"), said(429, {"code": "overloaded"}), True),
        (calls.create("pear"), said(500, "Internal Server Error"), True),
        (calls.create("pear"), said(500, {"code": "stage_failed"}), False),
        (calls.create("pear"), said(422, {"code": "invalid_request"}), False),
        (calls.create("pear"), said(409, {"code": "job_ended"}), False),
    ],
)
def test_only_what_does_no_harm_is_repeated(call, outcome, is_repeated):
    acts, end = (
        sent(call, outcome, patience=Retries(attempts=2))
        if not is_repeated
        else sent(call, outcome, outcome, patience=Retries(attempts=2))
    )
    assert [type(act) for act in acts] == ([Request, Pause, Request] if is_repeated else [Request])
    assert isinstance(end, PipelineError)


def test_every_creation_has_a_key_of_its_own():
    keys = {call.headers["Idempotency-Key"] for call in (calls.create("a"), calls.create("a"), calls.upload(b""))}
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("response", "kind", "title", "detail"),
    [
        (said(404, {"title": "Not there", "detail": "No.", "code": "job_not_found"}), NotFound, "Not there", "No."),
        (said(400, {"error": {"message": "No.", "type": "t", "code": "bad_mask"}}), InvalidRequest, "Bad mask", "No."),
        (said(401, {"detail": "Key!", "code": "unauthorized"}), Unauthorized, "Unauthorized", "Key!"),
        (said(409, {"detail": "No.", "code": "job_ended"}), Conflict, "Conflict", "No."),
        (said(429, {"detail": "No.", "code": "too_many_requests"}), RateLimited, "Too Many Requests", "No."),
        (said(429, "slow down"), Overloaded, "Too Many Requests", "slow down"),
        (said(500, {"detail": "No.", "code": "stage_failed"}), ServiceFailed, "Internal Server Error", "No."),
        (said(500, "Internal Server Error"), ServiceUnavailable, "Internal Server Error", "Internal Server Error"),
        (said(502, ""), ServiceUnavailable, "Bad Gateway", "The service answered 502 and no more."),
        (said(418, [1, 2]), InvalidRequest, "I'm a teapot", "[1,2]"),
    ],
)  # fmt: skip
def test_every_kind_of_error_is_understood(response, kind, title, detail):
    error = error_of(response)
    assert (type(error), error.title, str(error)) == (kind, title, detail)
    assert error.status == response.status_code


def test_a_moment_to_come_back_is_understood():
    far = error_of(said(503, "", **{"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"})).retry_after_s
    assert far is not None
    assert far > 1e9
    assert error_of(said(503, "", **{"Retry-After": "soon"})).retry_after_s is None


def test_what_is_no_answer_of_the_service_is_said():
    _, end = sent(calls.job("j"), said(200, "<html>"))
    assert isinstance(end, UnexpectedAnswer)
    _, end = sent(calls.job("j"), said(200, {"job_id": 3}))
    assert isinstance(end, UnexpectedAnswer)


def test_a_connection_that_fails_names_the_server():
    _, end = sent(calls.job("j"), httpx.ConnectError("x", request=SERVER), patience=Retries(attempts=1))
    assert isinstance(end, ConnectionFailed)
    assert str(end) == "Nothing answers at http://test. Is the service running?"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    png: bytes = wire("picture")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    number: float
    pair: tuple[int, str]
    inner: tuple[Inner, ...]
    maybe: Inner | None = None


def test_records_are_read_and_what_they_do_not_know_is_left_out():
    outer = decoded(Outer, {"number": 1, "pair": [2, "x"], "inner": [{"picture": "aGk=", "new": 1}], "newer": {}})
    assert asdict(outer) == {"number": 1.0, "pair": (2, "x"), "inner": ({"png": b"hi"},), "maybe": None}


@pytest.mark.parametrize(
    "facts",
    [
        {"pair": [2, "x"], "inner": []},
        {"number": "1", "pair": [2, "x"], "inner": []},
        {"number": 1, "pair": [2], "inner": []},
        {"number": 1, "pair": [2, "x"], "inner": {}},
        {"number": 1, "pair": [2, "x"], "inner": [3]},
        [],
    ],
)
def test_what_is_no_such_record_is_refused(facts):
    with pytest.raises((KeyError, TypeError, ValueError)):
        decoded(Outer, facts)
