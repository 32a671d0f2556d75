"""The priority lock of an engine: interactive before background calls."""

from __future__ import annotations

import asyncio

import pytest

from deployments.priority_lock import PriorityLock
from testing.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio


async def test_background_work_yields_between_its_steps_and_resumes():
    lock, order = PriorityLock(), []

    async def background() -> None:
        async with lock.acquire(background=True) as yield_to_interactive:
            for step in range(3):
                order.append(f"step {step}")
                if step == 0:
                    interactive_calls.extend(asyncio.create_task(interactive(name)) for name in ("one", "two"))
                await asyncio.sleep(0)  # they enter the queue
                await yield_to_interactive()

    async def interactive(name: str) -> None:
        async with lock.acquire(background=False):
            order.append(name)
            await asyncio.sleep(0)

    interactive_calls: list[asyncio.Task[None]] = []
    await background()
    await asyncio.gather(*interactive_calls)

    assert order == ["step 0", "one", "two", "step 1", "step 2"]


async def test_background_work_waits_for_every_interactive_call():
    lock, order = PriorityLock(), []
    finish = asyncio.Event()

    async def call(name: str, background: bool) -> None:
        async with lock.acquire(background):
            order.append(name)
            await finish.wait()

    calls = [asyncio.create_task(call("first", False))]
    await until(lambda: order)
    calls += [asyncio.create_task(call("background", True)), asyncio.create_task(call("second", False))]
    await asyncio.sleep(0)
    finish.set()
    await asyncio.gather(*calls)

    assert order == ["first", "second", "background"]


async def test_a_cancelled_call_in_the_queue_blocks_no_other():
    lock = PriorityLock()
    async with lock.acquire(background=False):
        waiting = asyncio.create_task(lock.acquire(background=False).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(PATIENCE_S), lock.acquire(background=True) as yield_to_interactive:
        await yield_to_interactive()


async def test_background_work_cancelled_while_yielding_grants_the_lock_once():
    lock, inside = PriorityLock(), []

    async def interactive() -> None:
        async with lock.acquire(background=False):
            inside.append(1)
            assert len(inside) == 1
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            inside.clear()

    async def background() -> None:
        async with lock.acquire(background=True) as yield_to_interactive:
            interactive_calls.extend(asyncio.create_task(interactive()) for _ in range(3))
            await asyncio.sleep(0)
            await yield_to_interactive()

    interactive_calls: list[asyncio.Task[None]] = []
    cancelled = asyncio.create_task(background())
    await until(lambda: inside)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    await asyncio.gather(*interactive_calls)


async def test_a_lock_granted_to_a_cancelled_call_is_passed_on():
    lock = PriorityLock()
    async with lock.acquire(background=False):
        cancelled = asyncio.create_task(lock.acquire(background=False).__aenter__())
        await asyncio.sleep(0)
    cancelled.cancel()  # after the lock was granted, before the call resumed
    await asyncio.gather(cancelled, return_exceptions=True)
    async with asyncio.timeout(PATIENCE_S), lock.acquire(background=True):
        pass


async def test_background_work_is_promoted_after_the_aging_time():
    lock, order = PriorityLock(aging_s=0.0), []
    finish = asyncio.Event()

    async def call(name: str, background: bool) -> None:
        async with lock.acquire(background) as yield_to_interactive:
            order.append(name)
            await finish.wait()
            await yield_to_interactive()
            order.append(f"{name} done")

    calls = [asyncio.create_task(call("first", False))]
    await until(lambda: order)
    calls.append(asyncio.create_task(call("background", True)))
    for _ in range(3):  # it waits until it is promoted
        await asyncio.sleep(0)
    calls.append(asyncio.create_task(call("second", False)))
    await asyncio.sleep(0)
    finish.set()
    await asyncio.gather(*calls)

    assert order == ["first", "first done", "background", "background done", "second", "second done"]
