"""The log in its text and JSON formats."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from graphs.http.app import build_http_app
from graphs.observability.logs import configure_logging, log_event, logger, sentence
from pipeline.errors import ModelNotReady, Overloaded, RouteNotFound, StageFailed
from pipeline.events import (
    CacheBypassed,
    GenerationStarted,
    GenerationStepped,
    ImageCreated,
    ImageSegmented,
    RegionsDescribed,
    RequestFinished,
    ResultReused,
    StageRetried,
)
from testing.harness import Bench
from tests.integration.graphs.observability.every_event import EVENTS, KINDS, example

LOGGED = [event for event in EVENTS if not isinstance(event, GenerationStepped)]

Lines = Callable[[], list[str]]


@pytest.fixture
def log_lines(tmp_path: Path) -> Iterator[Callable[[str], Lines]]:
    """Return a function that configures a log format and returns a reader of the lines of `app.log`."""
    before = logger.handlers, logger.level, logger.propagate

    def configured(log_format: str) -> Lines:
        configure_logging(tmp_path / "data", log_format)
        return lambda: (tmp_path / "data" / "app.log").read_text().split("\n")[:-1]

    yield configured
    for handler in logger.handlers:
        handler.close()
    logger.handlers, logger.level, logger.propagate = before


def finished(status: int, detail: str = "", route: str = "/generate") -> RequestFinished:
    return example(RequestFinished, route=route, method="POST", status=status, detail=detail, code=detail and "code")


def test_a_text_line_has_the_legacy_format(log_lines):
    lines = log_lines("text")
    log_event(example(GenerationStarted, request_id="5ff0a2f4"))
    (line,) = lines()
    form = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \[INFO\] Generating image for request 5ff0a2f4"
    assert re.fullmatch(form, line)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (example(ImageCreated, seconds=1.25), "Created image the-image_id in 1.250 s for request the-request_id"),
        (
            example(ImageSegmented, seconds=0.5),
            "Image segmented of the-image_id, 3 regions, in 0.500 s for request the-request_id",
        ),
        (
            example(RegionsDescribed, num_regions=0, seconds=0.5),
            "Regions described of the-image_id in 0.500 s for request the-request_id",
        ),
        (
            example(ResultReused, source="run"),
            "Reused the-stage of the-image_id from run for request the-request_id",
        ),
        (example(StageRetried), "Lost the worker and retried the-stage for request the-request_id"),
        (finished(200), "Answered POST /generate with 200 in 3.000 s for request the-request_id"),
        (finished(400, "No."), "Answered POST /generate with 400 in 3.000 s (No.) for request the-request_id"),
    ],
)
def test_an_event_is_formatted_as_a_sentence(event, words):
    assert sentence(event) == words


def test_every_event_but_a_step_has_one_line_with_its_request_id(log_lines):
    lines = log_lines("text")
    for event in EVENTS:
        log_event(event)
    assert len(lines()) == len(LOGGED) == len(KINDS) - 1
    assert all("request the-request_id" in line for line in lines())


def test_a_json_line_has_the_sentence_and_every_field(log_lines):
    lines = log_lines("json")
    for event in LOGGED:
        log_event(event)
    for event, line in zip(LOGGED, map(json.loads, lines()), strict=True):
        assert line["event"] == type(event).__name__
        assert line["message"] == sentence(event)
        assert line["request_id"] == "the-request_id"
        assert line["level"] in ("INFO", "WARNING", "ERROR")
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line["time"])
        assert line.keys() > set(event.__dataclass_fields__)


def test_a_json_line_has_the_exception(log_lines):
    lines = log_lines("json")
    try:
        raise ValueError("odd")
    except ValueError:
        logger.exception("Request %s failed unexpectedly", "r")
    (line,) = map(json.loads, lines())
    assert (line["level"], line["message"]) == ("ERROR", "Request r failed unexpectedly")
    assert "ValueError: odd" in line["exception"]


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (example(GenerationStarted), "INFO"),
        (finished(200), "INFO"),
        (finished(499), "WARNING"),
        (finished(400, "No."), "WARNING"),
        (finished(503, "Later."), "ERROR"),
        (example(CacheBypassed), "WARNING"),
        (example(StageRetried), "WARNING"),
    ],
)
def test_the_level_depends_on_the_event(log_lines, event, level):
    lines = log_lines("text")
    log_event(event)
    assert f" [{level}] " in lines()[0]


def test_health_checks_are_not_logged(log_lines):
    lines = log_lines("text")
    for routine in (finished(200, route="/healthz"), finished(503, "Not ready.", route="/readyz")):
        log_event(replace(routine, is_routine=True))
    assert lines() == []


@pytest.mark.parametrize(
    "error",
    [
        Overloaded(waiting=8, what="images", retry_after_s=3),
        StageFailed(stage="segment", reason="CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA\r\n"),
        ModelNotReady(model="Clip", reason="two\u2028lines"),
        RouteNotFound(what="GET /\x1b[2J\x1b[31m"),
    ],
    ids=lambda error: error.code,
)
def test_a_text_line_is_printable_whatever_the_detail(log_lines, error):
    lines = log_lines("text")
    log_event(finished(error.status, str(error)))
    (line,) = lines()
    assert line.isprintable()


def test_a_json_line_has_the_unchanged_detail(log_lines):
    lines = log_lines("json")
    log_event(finished(500, "two\r\nlines\x1b[31m"))
    (line,) = map(json.loads, lines())
    assert line["detail"] == "two\r\nlines\x1b[31m"


@pytest.mark.anyio
@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_prompts_are_never_logged(log_lines, log_format, bench: Bench):
    lines = log_lines(log_format)
    app = build_http_app(bench.services)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        secret = {"prompt": "a secret apple", "negative_prompt": "a secret pear"}
        statuses = [
            (await client.post(path, **sent)).status_code
            for path, sent in [
                ("/generate", {"json": secret}),
                ("/probe", {"json": secret}),
                ("/generate", {"json": secret | {"width": 65}}),
                ("/generate", {"json": {"prompt": "secret\x00"}}),
                ("/probe", {"json": {"prompt": "secret " * 1000}}),
                ("/generate", {"json": {"prompt": ["secret"]}}),
                ("/generate", {"content": b'{"prompt": "secret', "headers": {"content-type": "application/json"}}),
            ]
        ]
    for event in bench.events:
        log_event(event)

    assert statuses == [200, 200, 422, 422, 422, 422, 400]
    assert sum(" /generate with " in line for line in lines()) == 5
    assert not [line for line in lines() if "secret" in line]


def test_lines_are_also_written_to_the_console_and_nowhere_else(tmp_path, log_lines, capsys, caplog):
    lines = log_lines("text")
    with caplog.at_level(logging.INFO):
        log_event(example(GenerationStarted))
    assert capsys.readouterr().out.splitlines() == lines()
    assert not caplog.records


def test_a_new_process_appends_to_the_log(log_lines):
    for _ in range(2):
        lines = log_lines("text")
        log_event(example(GenerationStarted))
        for handler in logger.handlers:
            handler.close()
    assert len(lines()) == 2
