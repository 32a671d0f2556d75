"""The reported status of models whose replicas are busy, starting, gone or replaced."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace

import pytest

from graphs.workers.handles import ModelName, WorkerDied
from graphs.workers.model_status import REFRESH_S, REPLICAS_S, ModelStatusTracker
from pipeline.errors import ModelNotReady
from pipeline.records import ModelStatus
from testing.fakes import FakeWorkers
from testing.waiting import PATIENCE_S, pass_time, until

pytestmark = pytest.mark.anyio

NAMES = ("Diffusion", "Clip", "Segmenter")


class Replicas(FakeWorkers):
    """Counts the status calls; may be too busy to respond, or die of them."""

    def __init__(self) -> None:
        super().__init__()
        self.status_calls: Counter[str] = Counter()
        self.counted = 0
        self.busy: set[str] = set()
        self.dying: set[str] = set()
        self.running = dict.fromkeys(NAMES, 1)

    async def status(self, model: ModelName) -> ModelStatus:
        self.status_calls[model] += 1
        if model in self.dying:
            raise WorkerDied("status")
        if model in self.busy:
            await asyncio.Event().wait()
        return await super().status(model)

    def count(self) -> dict[str, int]:
        self.counted += 1
        return self.running


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    clock = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr("graphs.workers.model_status.time", SimpleNamespace(monotonic=lambda: clock.now_s))
    set_timeouts(monkeypatch, PATIENCE_S)
    return clock


def set_timeouts(monkeypatch: pytest.MonkeyPatch, timeout_s: float) -> None:
    """Set how long a response is waited for: briefly in a test without one."""
    for timeout in ("ANSWER_S", "FIRST_ANSWER_S"):
        monkeypatch.setattr(f"graphs.workers.model_status.{timeout}", timeout_s)


@pytest.fixture
async def replicas(anyio_backend: str) -> Replicas:
    return Replicas()


@pytest.fixture
def models(replicas: Replicas, clock: SimpleNamespace) -> ModelStatusTracker:
    return ModelStatusTracker(replicas, replicas.count)


async def test_every_model_is_reported_in_the_order_of_the_graph(models):
    statuses = await models.statuses()
    assert tuple(statuses) == NAMES
    assert all(status.ready and status.fingerprint == "weights-1" for status in statuses.values())


async def test_a_fingerprint_is_requested_once(models, replicas, clock):
    for _ in range(3):
        assert await models.fingerprint("Clip") == "weights-1"
        clock.now_s += 2 * REFRESH_S
    assert replicas.status_calls == {"Clip": 1}


async def test_a_model_that_is_not_ready_reports_why_until_it_is(models, replicas):
    replicas.reason = "there are no weights"
    with pytest.raises(ModelNotReady, match="Clip model is not ready: there are no weights"):
        await models.fingerprint("Clip")
    assert (await models.statuses())["Clip"].reason == "there are no weights"

    replicas.reason = ""
    assert await models.fingerprint("Clip") == "weights-1"
    assert (await models.statuses())["Clip"].ready


@pytest.mark.parametrize("failure", ["busy", "dying"])
async def test_a_replica_that_does_not_respond_keeps_its_last_status(models, replicas, clock, failure):
    before = await models.statuses()
    getattr(replicas, failure).update(NAMES)
    clock.now_s += REFRESH_S + 1

    assert await models.statuses() == before
    await until(lambda: replicas.status_calls["Clip"] == 2)
    assert await models.statuses() == before
    assert await models.fingerprint("Clip") == "weights-1"


async def test_a_deployment_in_progress_makes_no_model_unready(models, replicas, clock):
    replicas.running = {}  # as Serve reports it meanwhile
    assert all(status.ready for status in (await models.statuses()).values())
    replicas.dying.update(NAMES)
    clock.now_s += REFRESH_S + 1
    assert all(status.ready for status in (await models.statuses()).values())


@pytest.mark.parametrize("failure", ["busy", "dying"])
async def test_a_replica_that_never_responded_is_still_starting(models, replicas, failure, monkeypatch):
    getattr(replicas, failure).add("Clip")

    pending = asyncio.create_task(models.statuses())
    await until(lambda: models.knows("Diffusion") and models.knows("Segmenter"))
    pass_time(monkeypatch, PATIENCE_S + 1)
    statuses = await pending

    assert (statuses["Clip"].ready, statuses["Clip"].reason) == (False, "its replica is still starting, or busy")
    assert statuses["Segmenter"].ready
    set_timeouts(monkeypatch, 0)
    with pytest.raises(ModelNotReady, match="still starting"):
        await models.fingerprint("Clip")


@pytest.mark.parametrize("gone", [{"Clip": 0}, {}])
async def test_a_model_without_a_running_replica_is_not_ready(models, replicas, clock, gone):
    await models.statuses()
    replicas.running = {"Diffusion": 1, "Segmenter": 2, **gone}
    clock.now_s += REPLICAS_S + 0.1

    statuses = await models.statuses()

    assert (statuses["Clip"].ready, statuses["Clip"].reason) == (False, "no replica of it is running yet")
    assert statuses["Diffusion"].ready
    assert statuses["Segmenter"].ready
    assert replicas.status_calls["Clip"] == 1


async def test_old_statuses_are_refreshed(models, replicas, clock):
    await models.statuses()
    clock.now_s += REFRESH_S - 0.1
    await models.statuses()
    assert replicas.status_calls["Clip"] == 1

    replicas.model = "weights-2"
    clock.now_s += 0.2
    assert (await models.statuses())["Clip"].fingerprint == "weights-1"  # at once; the status call is in flight
    await until(lambda: replicas.status_calls["Clip"] == 2)
    assert (await models.statuses())["Clip"].fingerprint == "weights-2"
    assert await models.fingerprint("Clip") == "weights-2"
    assert replicas.status_calls["Clip"] == 2


async def test_a_status_call_in_flight_is_not_repeated(models, replicas, clock, monkeypatch):
    set_timeouts(monkeypatch, 0)
    replicas.busy.add("Clip")
    for _ in range(3):
        with pytest.raises(ModelNotReady):
            await models.fingerprint("Clip")
        clock.now_s += REFRESH_S + 1
    assert replicas.status_calls == {"Clip": 1}


async def test_replicas_are_counted_at_most_once_a_second(models, replicas, clock):
    for _ in range(5):
        await models.statuses()
    assert replicas.counted == 1
    clock.now_s += REPLICAS_S + 0.1
    await models.statuses()
    assert replicas.counted == 2


async def test_new_weights_are_noted_only_for_their_model(models):
    await models.statuses()
    models.note("Clip", "weights-2")
    assert [await models.fingerprint(name) for name in NAMES] == ["weights-1", "weights-2", "weights-1"]
    assert (await models.statuses())["Clip"].ready
