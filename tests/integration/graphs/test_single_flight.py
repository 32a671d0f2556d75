"""Single flight: concurrent callers of one key share a run; callers may join, leave or fail."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from contextvars import ContextVar

import pytest

from graphs.concurrency import SingleFlight
from testing.waiting import until

pytestmark = pytest.mark.anyio

caller_name: ContextVar[str] = ContextVar("caller_name", default="default")


class Work:
    """Counts its runs; each finishes when `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.started = self.stopped = 0

    async def __call__(self) -> str:
        self.started += 1
        number = self.started
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        return f"run {number}"


def join(runs: SingleFlight, key: str, work: Callable) -> asyncio.Task:
    return asyncio.create_task(runs.run(key, work))


async def leave(*callers: asyncio.Task) -> None:
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)


async def test_callers_of_one_key_share_a_run():
    runs, work, other = SingleFlight(), Work(), Work()
    callers = [join(runs, "k", work) for _ in range(5)] + [join(runs, "other", other)]
    await until(lambda: work.started and other.started)
    assert "k" in runs
    assert len(runs) == 2

    work.go.set()
    other.go.set()
    assert await asyncio.gather(*callers) == ["run 1"] * 6
    assert (work.started, other.started) == (1, 1)


async def test_a_run_that_ended_is_forgotten():
    runs, work = SingleFlight(), Work()
    work.go.set()
    assert await runs.run("k", work) == "run 1"
    await until(lambda: "k" not in runs)
    assert await runs.run("k", work) == "run 2"


async def test_every_caller_receives_the_error_and_the_next_one_runs_again():
    runs, attempts = SingleFlight(), 0

    async def failing() -> None:
        nonlocal attempts
        attempts += 1
        raise ValueError("odd")

    results = await asyncio.gather(*(runs.run("k", failing) for _ in range(3)), return_exceptions=True)
    assert [repr(result) for result in results] == ["ValueError('odd')"] * 3
    assert attempts == 1
    with pytest.raises(ValueError, match="odd"):
        await runs.run("k", failing)
    assert attempts == 2


async def test_the_run_continues_when_the_first_caller_leaves():
    runs, work = SingleFlight(), Work()
    first, second = join(runs, "k", work), join(runs, "k", work)
    await until(lambda: work.started)

    await leave(first)
    work.go.set()

    assert await second == "run 1"
    assert work.stopped == 0


async def test_the_run_is_cancelled_when_the_last_caller_leaves():
    runs, work = SingleFlight(), Work()
    callers = [join(runs, "k", work) for _ in range(3)]
    await until(lambda: work.started)

    await leave(*callers)
    await until(lambda: work.stopped)

    assert len(runs) == 0


async def test_a_new_caller_does_not_join_a_cancelled_run():
    runs, fresh, cleaning, cleaned = SingleFlight(), Work(), asyncio.Event(), asyncio.Event()
    cancelled: list[asyncio.Task] = []

    async def slow_to_cancel() -> str:
        cancelled.append(asyncio.current_task())
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await cleaned.wait()
        return "never"

    first = join(runs, "k", slow_to_cancel)
    await until(lambda: cancelled)
    await leave(first)
    await cleaning.wait()

    new_caller = join(runs, "k", fresh)
    await until(lambda: fresh.started)
    cleaned.set()
    await asyncio.wait(cancelled)
    third = join(runs, "k", fresh)
    await asyncio.sleep(0)
    fresh.go.set()

    assert [await new_caller, await third] == ["run 1", "run 1"]


async def test_a_run_is_cancelled_along_with_the_run_it_depends_on():
    runs, below = SingleFlight(), Work()
    caller = join(runs, "above", lambda: runs.run("below", below))
    await until(lambda: below.started)

    await leave(caller)
    await until(lambda: below.stopped)

    assert len(runs) == 0


async def test_a_run_with_another_caller_continues():
    runs, below = SingleFlight(), Work()
    above = join(runs, "above", lambda: runs.run("below", below))
    direct = join(runs, "below", below)
    await until(lambda: below.started)

    await leave(above)
    below.go.set()

    assert await direct == "run 1"


async def test_a_run_does_not_inherit_the_context_of_its_caller():
    async def read_name() -> str:
        return caller_name.get()

    caller_name.set("caller")
    assert await SingleFlight().run("k", read_name) == "default"
    assert caller_name.get() == "caller"


async def test_a_failure_without_a_caller_is_not_reported_as_never_retrieved():
    messages = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: messages.append(context["message"]))
    runs, go, failed = SingleFlight(), asyncio.Event(), asyncio.Event()

    async def failing_on_cancellation() -> None:
        try:
            await go.wait()
        finally:
            failed.set()
            raise ValueError("odd")

    caller = join(runs, "k", failing_on_cancellation)
    await until(lambda: "k" in runs)
    await asyncio.sleep(0)
    await leave(caller)
    await failed.wait()
    await asyncio.sleep(0)
    del caller
    gc.collect()

    assert messages == []
