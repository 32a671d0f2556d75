"""Whose turn it is at an engine."""

from __future__ import annotations

import asyncio

import pytest

from deployments.priority_lock import PriorityLock
from testing.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio


async def test_background_work_gives_way_between_its_steps_and_goes_on_after():
    lock, order = PriorityLock(), []

    async def background() -> None:
        async with lock.acquire(background=True) as yield_to_interactive:
            for step in range(3):
                order.append(f"step {step}")
                if step == 0:
                    people.extend(asyncio.create_task(person(name)) for name in ("one", "two"))
                await asyncio.sleep(0)  # they queue up
                await yield_to_interactive()

    async def person(name: str) -> None:
        async with lock.acquire(background=False):
            order.append(name)
            await asyncio.sleep(0)

    people: list[asyncio.Task[None]] = []
    await background()
    await asyncio.gather(*people)

    assert order == ["step 0", "one", "two", "step 1", "step 2"]


async def test_background_work_waits_until_nobody_else_does():
    lock, order = PriorityLock(), []
    leave = asyncio.Event()

    async def call(name: str, background: bool) -> None:
        async with lock.acquire(background):
            order.append(name)
            await leave.wait()

    calls = [asyncio.create_task(call("first", False))]
    await until(lambda: order)
    calls += [asyncio.create_task(call("background", True)), asyncio.create_task(call("second", False))]
    await asyncio.sleep(0)
    leave.set()
    await asyncio.gather(*calls)

    assert order == ["first", "second", "background"]


async def test_a_person_who_leaves_the_queue_holds_nobody_up():
    lock = PriorityLock()
    async with lock.acquire(background=False):
        waiting = asyncio.create_task(lock.acquire(background=False).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(PATIENCE_S), lock.acquire(background=True) as yield_to_interactive:
        await yield_to_interactive()


async def test_background_work_that_leaves_while_giving_way_gives_no_second_turn():
    lock, inside = PriorityLock(), []

    async def person() -> None:
        async with lock.acquire(background=False):
            inside.append(1)
            assert len(inside) == 1
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            inside.clear()

    async def background() -> None:
        async with lock.acquire(background=True) as yield_to_interactive:
            people.extend(asyncio.create_task(person()) for _ in range(3))
            await asyncio.sleep(0)
            await yield_to_interactive()

    people: list[asyncio.Task[None]] = []
    leaving = asyncio.create_task(background())
    await until(lambda: inside)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await asyncio.gather(*people)


async def test_a_turn_that_was_given_to_somebody_who_leaves_is_passed_on():
    lock = PriorityLock()
    async with lock.acquire(background=False):
        leaving = asyncio.create_task(lock.acquire(background=False).__aenter__())
        await asyncio.sleep(0)
    leaving.cancel()  # after the turn was given, before it was taken up
    await asyncio.gather(leaving, return_exceptions=True)
    async with asyncio.timeout(PATIENCE_S), lock.acquire(background=True):
        pass


async def test_background_work_that_waited_long_enough_is_as_good_as_anybody():
    lock, order = PriorityLock(aging_s=0.0), []
    leave = asyncio.Event()

    async def call(name: str, background: bool) -> None:
        async with lock.acquire(background) as yield_to_interactive:
            order.append(name)
            await leave.wait()
            await yield_to_interactive()
            order.append(f"{name} done")

    calls = [asyncio.create_task(call("first", False))]
    await until(lambda: order)
    calls.append(asyncio.create_task(call("background", True)))
    for _ in range(3):  # it waits, and its patience ends
        await asyncio.sleep(0)
    calls.append(asyncio.create_task(call("second", False)))
    await asyncio.sleep(0)
    leave.set()
    await asyncio.gather(*calls)

    assert order == ["first", "first done", "background", "background done", "second", "second done"]
