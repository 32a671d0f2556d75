"""Log consumer of events: one line per event, to the console and `app.log`, in the legacy text format or as JSON."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Literal

import orjson

from pipeline.events import (
    CacheBypassed,
    DomainEvent,
    GenerationStarted,
    GenerationStepped,
    ImageCreated,
    ImageDeleted,
    ImageProbed,
    PreviewShown,
    RequestFinished,
    ResultReused,
    StageFinished,
    StageRetried,
)

LOGGER_NAME = "ai_pipeline"
TEXT_FORMAT = "%(asctime)s [%(levelname)s] %(message)s"

logger = logging.getLogger(LOGGER_NAME)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": self.formatTime(record), "level": record.levelname, "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line | getattr(record, "facts", {})).decode()


def configure_logging(data_path: Path, log_format: Literal["text", "json"]) -> None:
    """Send this process's lines to the console and to `app.log` in the data folder.

    Several processes append to the one file: each line is a single write, so lines never mix. A file that is moved
    away, as logrotate does, is opened anew.
    """
    data_path.mkdir(parents=True, exist_ok=True)
    formatter = _JsonFormatter() if log_format == "json" else logging.Formatter(TEXT_FORMAT)
    logger.handlers = [logging.StreamHandler(sys.stdout), WatchedFileHandler(data_path / "app.log")]
    for handler in logger.handlers:
        handler.setFormatter(formatter)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def log_event(event: DomainEvent) -> None:
    """Write an event's line, if it has one: steps and health checks have none."""
    if isinstance(event, GenerationStepped) or (isinstance(event, RequestFinished) and event.is_routine):
        return
    facts = {"event": type(event).__name__, **asdict(event)}
    logger.log(_level(event), "%s", sentence(event), extra={"facts": facts})


def sentence(event: DomainEvent) -> str:
    """Say what happened, in one line that holds the request's id."""
    line = f"{_what(event)} for request {event.request_id}"
    # A path or a value the client sent may hold anything, also what ends a line or drives a terminal.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _level(event: DomainEvent) -> int:
    match event:
        case RequestFinished(status=status) if status >= 500:
            return logging.ERROR
        case RequestFinished(status=status) if status >= 400:
            return logging.WARNING
        case CacheBypassed() | StageRetried():
            return logging.WARNING
        case _:
            return logging.INFO


def _what(event: DomainEvent) -> str:
    match event:
        case GenerationStarted():
            return "Generating image"
        case GenerationStepped():
            return f"Step {event.step} of {event.num_steps}"
        case PreviewShown():
            return f"First preview after {event.seconds:.3f} s"
        case ImageCreated():
            return f"Created image {event.image_id} in {event.seconds:.3f} s"
        case ImageDeleted():
            return f"Deleted image {event.image_id}"
        case StageFinished():
            regions = f", {event.num_regions} regions," if event.num_regions else ""
            return f"{_words(event)} of {event.image_id}{regions} in {event.seconds:.3f} s"
        case ImageProbed():
            return f"Probed image {event.image_id} in {event.seconds:.3f} s"
        case ResultReused():
            return f"Reused {event.stage} of {event.image_id} from {event.source}"
        case CacheBypassed():
            return f"Worked without the cache, which did not answer {event.operation!r},"
        case StageRetried():
            return f"Lost the worker and retried {event.stage}"
        case RequestFinished():
            why = f" ({event.detail})" if event.detail else ""
            return f"Answered {event.method} {event.route} with {event.status} in {event.seconds:.3f} s{why}"


def _words(event: StageFinished) -> str:
    """Split an event's name: `ImageSegmented` is "Image segmented"."""
    name = type(event).__name__
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip().capitalize()
