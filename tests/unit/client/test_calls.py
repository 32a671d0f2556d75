"""What the client decides, over a transport that only tests control: retries, errors and decoding."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from ai_pipeline_client import (
    Client,
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    ImageRefused,
    InvalidRequest,
    LimitReached,
    NotFound,
    Overloaded,
    PipelineError,
    QuotaExceeded,
    RateLimited,
    RequestTooLarge,
    Retries,
    ServiceFailed,
    ServiceUnavailable,
    Timeout,
    Unauthorized,
    UnexpectedAnswer,
    retries,
)
from ai_pipeline_client.blocking import connection
from ai_pipeline_client.decoding import decoded, moment, wire
from ai_pipeline_client.errors import error_of
from ai_pipeline_client.subscription import Subscription
from scripts import write_client

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
IMAGE = {
    "image_id": "i",
    "created_at": "2026-01-02T03:04:05Z",
    "width": 1,
    "height": 1,
    "digest": "",
    "parameters": None,
}
REQUEST = "request"
SERVER = httpx.Request("GET", "http://test/v1/jobs/j")


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries.random, "uniform", lambda least, most: most)


def answer(status: int, body: object = None, **headers: str) -> httpx.Response:
    content = {"text": body} if isinstance(body, str) else {"json": body}
    return httpx.Response(status, headers=headers, request=SERVER, **content)


def sent(
    method: Callable[[Client], Any],
    *outcomes: httpx.Response | Exception,
    policy: Retries = Retries(),  # noqa: B008
) -> tuple[list[str | float], Any]:
    """The requests and pauses of a method whose requests have these outcomes, and what it returns or raises."""
    done: list[str | float] = []
    remaining = iter(outcomes)

    def respond(_: httpx.Request) -> httpx.Response:
        done.append(REQUEST)
        outcome = next(remaining)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with (
        pytest.MonkeyPatch.context() as patch,
        Client("http://test", retries=policy, transport=httpx.MockTransport(respond)) as client,
    ):
        patch.setattr(connection, "pause", done.append)
        try:
            return done, method(client)
        except PipelineError as error:
            return done, error


def get_job(client: Client) -> object:
    return client.jobs.get("j")


def retry_job(client: Client) -> object:
    return client.jobs.retry("j")


def create(client: Client) -> object:
    return client.images.submit("pear")


def upload(client: Client) -> object:
    return client.images.upload(b"")


def test_retry_delays_double_and_attempts_are_limited():
    acts, end = sent(get_job, *[answer(503, "no")] * 5)
    assert acts == [REQUEST, 0.5, REQUEST, 1.0, REQUEST, 2.0, REQUEST, 4.0, REQUEST]
    assert isinstance(end, ServiceUnavailable)


def test_retry_after_sets_the_delay():
    acts, end = sent(get_job, answer(429, {"code": "overloaded"}, **{"Retry-After": "7"}), answer(200, JOB))
    assert acts == [REQUEST, 7.0, REQUEST]
    assert end.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_retry_after_beyond_the_maximum_delay_raises():
    acts, end = sent(get_job, answer(429, {"code": "queue_full"}, **{"Retry-After": "61"}))
    assert len(acts) == 1
    assert (type(end), end.retry_after_s) == (Overloaded, 61)


def test_a_request_in_flight_with_the_same_key_is_retried_without_limit():
    running = answer(409, {"code": "job_running"}, **{"Retry-After": "1"})
    acts, _ = sent(upload, *[running] * 20, answer(201, IMAGE))
    assert acts == [REQUEST, 1.0] * 20 + [REQUEST]


@pytest.mark.parametrize(
    ("method", "outcome", "is_retried"),
    [
        (get_job, httpx.ReadError("x", request=SERVER), True),
        (create, httpx.RemoteProtocolError("x", request=SERVER), True),
        (retry_job, httpx.ReadError("x", request=SERVER), False),
        (retry_job, httpx.ConnectError("x", request=SERVER), True),
        (retry_job, answer(502, "bad gateway"), False),
        (retry_job, answer(429, {"code": "overloaded"}), True),
        (create, answer(500, "Internal Server Error"), True),
        (create, answer(500, {"code": "stage_failed"}), False),
        (create, answer(422, {"code": "invalid_request"}), False),
        (create, answer(409, {"code": "job_ended"}), False),
    ],
)
def test_only_safe_requests_are_retried(method, outcome, is_retried):
    acts, end = (
        sent(method, outcome, policy=Retries(attempts=2))
        if not is_retried
        else sent(method, outcome, outcome, policy=Retries(attempts=2))
    )
    assert acts == ([REQUEST, 0.5, REQUEST] if is_retried else [REQUEST])
    assert isinstance(end, PipelineError)


def test_every_creation_has_its_own_idempotency_key():
    keys = set()

    def respond(request: httpx.Request) -> httpx.Response:
        keys.add(request.headers["Idempotency-Key"])
        return httpx.Response(422)

    with Client("http://test", transport=httpx.MockTransport(respond)) as client:
        for method in (create, create, upload):
            with pytest.raises(InvalidRequest):
                method(client)
    assert len(keys) == 3


def test_a_stream_that_ends_with_a_problem_raises_it():
    stream = b'event: error\ndata: {"status": 409, "code": "job_ended", "title": "Ended", "detail": "No."}\n\n'

    def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=stream)

    with (
        Client("http://test", transport=httpx.MockTransport(respond)) as client,
        pytest.raises(Conflict, match=r"No\."),
    ):
        list(client.jobs.stream("j"))


def test_a_quiet_stream_ends_only_where_that_is_wanted():
    wanted, endless = (Subscription("/v1/events", after=0, quiet_s=quiet_s) for quiet_s in (1.0, None))
    for subscription in (wanted, endless):
        subscription.fail(httpx.ReadTimeout("x"))
    assert (wanted.has_ended, endless.has_ended) == (True, False)


def test_the_blocking_client_is_generated_from_the_other_one():
    modules = write_client.blocking_modules()
    written = {name: (write_client.PACKAGE / name).read_text() for name in modules}
    assert written == modules, "Run `python -m scripts.write_client` and commit what it writes."


@pytest.mark.parametrize(
    ("response", "kind", "title", "detail"),
    [
        (answer(404, {"title": "Not there", "detail": "No.", "code": "job_not_found"}), NotFound, "Not there", "No."),
        (
            answer(400, {"error": {"message": "No.", "type": "t", "code": "bad_mask"}}),
            InvalidRequest,
            "Bad mask",
            "No.",
        ),
        (answer(401, {"detail": "Key!", "code": "unauthorized"}), Unauthorized, "Unauthorized", "Key!"),
        (answer(409, {"detail": "No.", "code": "job_ended"}), Conflict, "Conflict", "No."),
        (answer(429, {"detail": "No.", "code": "rate_limited"}), RateLimited, "Too Many Requests", "No."),
        (answer(429, "slow down"), Overloaded, "Too Many Requests", "slow down"),
        (answer(429, {"detail": "No.", "code": "job_limit_reached"}), QuotaExceeded, "Too Many Requests", "No."),
        (answer(409, {"detail": "No.", "code": "webhook_limit_reached"}), LimitReached, "Conflict", "No."),
        (answer(422, {"detail": "No.", "code": "image_refused"}), ImageRefused, "Unprocessable Entity", "No."),
        (answer(413, {"detail": "No.", "code": "body_too_large"}), RequestTooLarge, "Request Entity Too Large", "No."),
        (answer(504, {"detail": "No.", "code": "deadline_exceeded"}), DeadlineExceeded, "Gateway Timeout", "No."),
        (answer(500, {"detail": "No.", "code": "stage_failed"}), ServiceFailed, "Internal Server Error", "No."),
        (answer(500, "Internal Server Error"), ServiceUnavailable, "Internal Server Error", "Internal Server Error"),
        (answer(502, ""), ServiceUnavailable, "Bad Gateway", "The service answered 502 and no more."),
        (answer(418, [1, 2]), InvalidRequest, "I'm a teapot", "[1,2]"),
    ],
)  # fmt: skip
def test_error_responses_map_to_exceptions(response, kind, title, detail):
    error = error_of(response)
    assert (type(error), error.title, error.detail) == (kind, title, detail)
    assert error.status == response.status_code


def test_an_error_s_text_has_its_code_status_and_request():
    error = error_of(answer(404, {"title": "Not there", "detail": "No.", "code": "job_not_found", "request_id": "r"}))
    assert str(error) == "job_not_found (404): No. [request r]"
    assert repr(error) == "NotFound('job_not_found (404): No. [request r]')"
    assert str(error_of(answer(502, "away"))) == "Bad Gateway (502): away"
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), vars(copied)) == (NotFound, vars(error))


def test_a_timeout_is_caught_as_such_and_as_what_it_was_before():
    error = error_of(answer(504, {"detail": "No.", "code": "deadline_exceeded"}))
    assert isinstance(error, Timeout)
    assert isinstance(error, ServiceUnavailable)
    assert error.is_passing


def test_times_have_any_number_of_decimals():
    assert moment("2026-01-02T03:04:05.1Z") == datetime(2026, 1, 2, 3, 4, 5, 100_000, tzinfo=UTC)
    assert moment("2026-01-02T03:04:05.1234567+00:00") == datetime(2026, 1, 2, 3, 4, 5, 123_456, tzinfo=UTC)
    with pytest.raises(ValueError, match="is no time"):
        moment("2026-01-02")


def test_nothing_that_matches_is_found():
    regions = {"data": [], "next": None}
    _, found = sent(lambda client: client.images.get("i").find("zebra"), answer(200, IMAGE), answer(200, regions))
    assert found is None


def test_retry_after_may_be_a_date_and_invalid_values_are_ignored():
    far = error_of(answer(503, "", **{"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"})).retry_after_s
    assert far is not None
    assert far > 1e9
    assert error_of(answer(503, "", **{"Retry-After": "soon"})).retry_after_s is None


def test_an_undecodable_answer_raises():
    _, end = sent(get_job, answer(200, "<html>"))
    assert isinstance(end, UnexpectedAnswer)
    _, end = sent(get_job, answer(200, {"job_id": 3}))
    assert isinstance(end, UnexpectedAnswer)


def test_a_connection_error_names_the_server():
    _, end = sent(get_job, httpx.ConnectError("x", request=SERVER), policy=Retries(attempts=1))
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


def test_records_are_decoded_and_unknown_fields_ignored():
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
def test_invalid_records_raise(facts):
    with pytest.raises((KeyError, TypeError, ValueError)):
        decoded(Outer, facts)
