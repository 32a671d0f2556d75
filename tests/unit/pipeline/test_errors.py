from __future__ import annotations

import copy
import json
import pickle
import re

import pytest

from pipeline import errors
from pipeline.errors import (
    InternalError,
    ModelNotReady,
    Overloaded,
    PipelineError,
    StageFailed,
    from_problem,
    to_problem,
)
from pipeline.settings import PROJECT_ROOT

ERRORS_PAGE = PROJECT_ROOT / "docs" / "errors.md"

FACTS = {
    "problem": "steps is 0: send 1 to 100.",
    "image_id": "0198",
    "job_id": "0199",
    "state": "running",
    "webhook_id": "0200",
    "delivery_id": "0201",
    "registered": 20,
    "host": "10.0.0.1",
    "key": "k1",
    "what": "GET /{nowhere}",
    "allowed": "POST",
    "limit_bytes": 1000,
    "waiting": 8,
    "retry_after_s": 3,
    "model": "Clip",
    "region_id": 7,
    "given": "text/plain",
    "accepted": "application/json",
    "reason": "no weights in {folder}",
    "stage": "segment",
    "deadline_s": 2.5,
    "limit": 9,
    "key_id": "0200",
    "owner": "a/b",
    "concept": "castle",
    "known": "mini",
}

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PipelineError)]

every_error = pytest.mark.parametrize("kind", CLASSES)


def made(kind: type[PipelineError]) -> PipelineError:
    return kind(**{name: FACTS[name] for name in re.findall(r"{(\w+)", kind.__doc__)})


@every_error
@pytest.mark.parametrize("copied", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
def test_errors_can_be_pickled(kind, copied):
    error = made(kind)
    arrived = copied(error)
    assert type(arrived) is kind
    for name in ("status", "retry_after_s", "code", "title", "facts"):
        assert getattr(arrived, name) == getattr(error, name)
    assert str(arrived) == str(error)


@every_error
def test_the_message_is_one_line_with_the_facts(kind):
    error = made(kind)
    assert str(error)
    assert "\n" not in str(error)
    assert all(str(fact) in str(error) for fact in error.facts.values())


@every_error
def test_the_tree_at_the_top_of_the_module_names_every_error_with_its_status(kind):
    line = next(line for line in errors.__doc__.splitlines() if re.search(rf"\b{kind.__name__}\b", line))
    assert kind is PipelineError or str(kind.status) in line.split()


def test_codes_and_titles_are_unique():
    assert (ModelNotReady(model="m", reason="r").code, made(ModelNotReady).title) == (
        "model_not_ready",
        "Model not ready",
    )
    assert len({made(kind).code for kind in CLASSES}) == len(CLASSES)


def test_retriable_errors_have_a_retry_after():
    waits = {kind.__name__: wait for kind in CLASSES if (wait := made(kind).retry_after_s) is not None}
    assert waits == {
        "JobRunning": 1,
        "TooManyRequests": 5,
        "Unavailable": 5,
        "Overloaded": 3,
        "QueueFull": 60,
        "RateLimited": 3,
        "ConcurrencyLimited": 1,
        "StorageUnavailable": 5,
        "JobLimitReached": 5,
        "ModelNotReady": 10,
        "WorkerLost": 5,
    }
    assert waits.keys() >= {kind.__name__ for kind in CLASSES if kind.status in (429, 503)}


def test_a_retry_after_is_set_per_error():
    short, long = (Overloaded(waiting=1, what="images", retry_after_s=s) for s in (1, 60))
    assert (short.retry_after_s, long.retry_after_s, Overloaded.retry_after_s) == (1, 60, 5)


def test_braces_in_facts_are_not_formatted():
    assert "no weights in {folder}" in str(made(ModelNotReady))


@pytest.mark.parametrize(
    "error",
    [
        StageFailed(stage="generate", reason="{braces} and\nlines"),
        Overloaded(waiting=3, what="images", retry_after_s=7),
        PipelineError(),
    ],
    ids=lambda error: error.code,
)
def test_errors_are_restored_from_their_record(error):
    again = from_problem(json.loads(json.dumps(to_problem(error))))
    assert (type(again), str(again), again.retry_after_s) == (type(error), str(error), error.retry_after_s)


def test_an_error_of_an_unknown_class_is_restored_as_an_internal_error():
    assert type(from_problem({"code": "of_another_version", "facts": {"why": 1}})) is InternalError


NEVER_ANSWERED = {
    "pipeline_error",  # kinds of errors: only more specific ones are raised
    "not_found",
    "conflict",
    "too_many_requests",
    "unavailable",
    "lease_lost",  # between workers
    "invalid_owner",  # of the command line
}


def documented() -> dict[str, tuple[int, str]]:
    """Return status and retry by the codes of docs/errors.md."""
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\w+) \| [^|]+ \| [^|]+ \|$", ERRORS_PAGE.read_text(), re.MULTILINE)
    assert len({code for code, *_ in rows}) == len(rows)
    return {code: (int(status), retry) for code, status, retry in rows}


def test_the_page_of_errors_has_every_code_with_its_status():
    known = {made(kind).code: kind.status for kind in CLASSES}
    assert known.keys() > NEVER_ANSWERED
    assert {code: status for code, (status, _) in documented().items()} == {
        code: status for code, status in known.items() if code not in NEVER_ANSWERED
    }


def test_the_page_of_errors_says_where_a_retry_helps():
    for kind in CLASSES:
        code = made(kind).code
        if code not in NEVER_ANSWERED:
            _, retry = documented()[code]
            assert (retry == "yes") == (kind.retry_after_s is not None), code
            assert retry in ("yes", "perhaps", "no"), code
            assert (retry == "no") <= (kind.status < 500), code


def test_the_service_raises_no_error_without_an_entry():
    sources = [path for folder in ("graphs", "deployments") for path in (PROJECT_ROOT / folder).rglob("*.py")]
    raised = {name for path in sources for name in re.findall(r"\braise (\w+)", path.read_text())}
    codes = {made(kind).code for kind in CLASSES if kind.__name__ in raised}
    assert len(codes) > 10
    assert codes <= documented().keys()
