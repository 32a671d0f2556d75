"""Restarts of a service on one data folder: acknowledged data survives kills of all or some processes, and Ctrl-C.

A start takes half a minute, so all tests share one run:

1. Two sessions make an image, a receiver gets the events of some changes and misses more, and clients make random
   calls until `kill -9` ends every process. `./scripts/test --chaos` does the latter 20 times.
2. All data is compared. The receiver is up again. Jobs are accepted while random processes are killed every few
   seconds, and finally all of them. `--chaos` does it with 200 jobs.
3. The jobs end. Leftovers of interrupted writes are swept, at the start and again while it runs, and so is an expired
   image. Three jobs are in flight when Ctrl-C ends it.

`--chaos-seed` repeats the calls of an earlier run, but not how they interleave, and so not what a kill interrupts.
"""

from __future__ import annotations

import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import psutil
import pytest
from httpx_sse import connect_sse

from pipeline.imaging import codecs as images
from pipeline.jobs import MAX_ATTEMPTS, Job, JobState
from pipeline.store import EventLog, JobStore, PageQuery, open_database
from testing.service_process import GONE_WITHIN_S, SETTLE_WITHIN_S, RunningService, changed_config, serving, wait_until
from tests.chaos.clients import BusyClient, Countdown
from tests.chaos.killer import Killer, made_images, num_unfinished, submit
from tests.chaos.ledger import Image, Session
from tests.chaos.litter import leave_partial_files, litter, make_old
from tests.chaos.receiver import Changes
from tests.chaos.verification import losses, unfinished

BUSY = ("ada", "bob", "cleo", "dan")
MIN_ANSWERS, MAX_ANSWERS = 4, 16  # to /generate before a kill
RETRIES_S = [1.0] * 1000  # between the attempts to reach a receiver
KILL_EVERY_S, LONG_KILL_EVERY_S = 3.0, 5.0
JOBS, LONG_JOBS = 24, 200
LAST_JOBS = 4  # unfinished when everything is killed
STEPS, LONG_STEPS = 100, 15  # the profile's default in the long run, more in the short one
FEWEST_KILLS, KILLS = 2, 4  # in the short run
IN_FLIGHT = 16  # jobs of two ingress replicas, which may all end at once


@dataclass
class Lives:
    """Observations of the run."""

    seed: int
    is_long: bool
    twins: list[Session] = field(default_factory=list)  # made the same pixels
    twin_ids: list[str] = field(default_factory=list)  # of those images
    segments: list[Any] = field(default_factory=list)  # of the twins' images, before and after the first restart
    twins_log: list[str] = field(default_factory=list)  # until the end of the first run, and of the comparison
    busy: list[Session] = field(default_factory=lambda: [Session(name) for name in BUSY])
    acknowledged: list[Counter[str]] = field(default_factory=list)  # calls of the busy clients, per run
    changes: Changes = field(init=False)
    lost: dict[str, list[str]] = field(default_factory=dict)  # by time of the check
    killed: Counter[str] = field(default_factory=Counter)
    accepted: dict[int, str] = field(default_factory=dict)  # ids of jobs by their image's seed
    unfinished: int = 0  # number of jobs when everything was killed
    dead: list[str] = field(default_factory=list)  # URLs of jobs that were quarantined and retried
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)  # by id, at the end
    made: list[dict[str, Any]] = field(default_factory=list)  # images of those jobs
    events: list[dict[str, Any]] = field(default_factory=list)  # the whole log
    expired: str = ""  # id of the expired image
    of_expired: list[str] = field(default_factory=list)  # types of its events
    left_over: Sequence[psutil.Process] = ()  # after two Ctrl-C
    given_back: Sequence[Job] = ()

    def __post_init__(self) -> None:
        self.changes = Changes(Random(self.seed))

    def sessions(self) -> list[Session]:
        """Return the sessions of all images that may exist."""
        by_jobs = Session("jobs", images={image["image_id"]: Image(digest=image["digest"]) for image in self.made})
        return [*self.twins, *self.busy, self.changes.session, by_jobs]


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config, seed: int, rounds: int) -> Lives:
    folder = tmp_path_factory.mktemp("lives")
    seen = Lives(seed, bool(pytestconfig.getoption("chaos")))
    with living(folder) as (service, client):
        make_twins(seen, service)
        receive_and_miss(seen, client)
        work_until_killed(seen, service)
    for _ in range(1, rounds):
        leave_partial_files(folder / "data")
        with living(folder) as (service, _client):
            seen.lost[f"before round {len(seen.acknowledged) + 1}"] = losses(service, seen.sessions())
            work_until_killed(seen, service)
    leave_partial_files(folder / "data")

    with living(folder) as (service, client):
        compare_twins(seen, service)
        seen.lost["after kills of everything"] = losses(service, seen.sessions())
        receive_the_rest(seen, client)
        work_under_kills(seen, service)
    make_old(folder / "data")

    with living(folder, sweep_interval_s=1) as (service, client):
        finish_jobs(seen, client)
        wait_until(lambda: not litter(folder / "data", seen.sessions()), problem=lambda: "not swept")
        seen.lost["after kills of parts and the sweep"] = losses(service, seen.sessions())
        expire(seen, service, client)
        seen.lost["after retention and a later sweep"] = losses(service, seen.sessions())
        for _ in range(3):
            body = {"prompt": "pear", "steps": 100, "width": 256, "height": 256}
            client.post("/generate", json=body, headers={"Prefer": "respond-async"}).raise_for_status()
        seen.left_over = interrupt(service)

    log = EventLog(open_database(f"sqlite:///{folder / 'data' / 'truth.sqlite'}"))
    seen.given_back = JobStore(log).list("public", PageQuery(limit=10), states=[JobState.QUEUED, JobState.RUNNING])
    log.engine.dispose()
    return seen


@contextmanager
def living(folder: Path, **retention: float) -> Iterator[tuple[RunningService, httpx.Client]]:
    """Run the service once."""
    settings = {"webhooks": {"retry_after_s": RETRIES_S}, "storage": {"retention": retention}}
    quick = changed_config(folder, lambda application: application["args"].update(settings))
    with (
        serving(folder, "--allow-private-webhooks", "--serve-config", str(quick)) as service,
        service.client() as client,
    ):
        yield service, client


def make_twins(seen: Lives, service: RunningService) -> None:
    """Have two sessions make the same pixels, and wait until prefetching has analyzed them."""
    for name in ("a", "b"):
        session = Session(name)
        with service.client(headers={"X-Session-ID": name}) as client:
            made = client.post("/generate", json={"prompt": "pear", "seed": 3, "steps": 2}).json()
            png = client.get(f"/v1/images/{made['image_id']}/content").content
            session.keep(made["image_id"], Image(digest=images.digest(images.decode_png(png)), png=png))
            seen.segments.append(client.post("/segment").json()["segmented_regions"])
        seen.twins.append(session)
        seen.twin_ids.append(made["image_id"])
    log = service.data_dir / "app.log"
    wait_until(lambda: any(f"Regions rendered of {image_id}" in log.read_text() for image_id in seen.twin_ids))
    seen.twins_log.append(log.read_text())


def compare_twins(seen: Lives, service: RunningService) -> None:
    for session in seen.twins:
        with service.client(headers={"X-Session-ID": session.name}) as client:
            seen.segments.append(client.post("/segment").json()["segmented_regions"])
    seen.twins_log.append((service.data_dir / "app.log").read_text())


def receive_and_miss(seen: Lives, client: httpx.Client) -> None:
    """Have a receiver get the events of some changes, and stop it while others are made."""
    seen.changes.register(client)
    with seen.changes.received():
        for _ in range(5):
            seen.changes.change(client)
        wait_until(lambda: len(seen.changes.receiver.messages) >= 3)
    for _ in range(10):
        seen.changes.change(client)


def receive_the_rest(seen: Lives, client: httpx.Client) -> None:
    for _ in range(5):
        seen.changes.change(client)
    with seen.changes.received():
        wait_until(lambda: not seen.changes.num_missing)


def work_until_killed(seen: Lives, service: RunningService) -> None:
    """Keep the service busy until it is killed at a random answer."""
    random = Random(f"{seen.seed} {len(seen.acknowledged)}")
    countdown = Countdown(service, random.randint(MIN_ANSWERS, MAX_ANSWERS))
    clients = [BusyClient(service, session, countdown, Random(random.random())) for session in seen.busy]
    with ThreadPoolExecutor(len(clients)) as pool:
        for working in [pool.submit(client.work) for client in clients]:
            working.result()
    seen.acknowledged.append(sum((client.acknowledged for client in clients), Counter()))


def work_under_kills(seen: Lives, service: RunningService) -> None:
    """Submit jobs while random processes are killed; kill all of them while some jobs are unfinished."""
    number, steps = (LONG_JOBS, LONG_STEPS) if seen.is_long else (JOBS, STEPS)
    killer = Killer(service, Random(seen.seed), LONG_KILL_EVERY_S if seen.is_long else KILL_EVERY_S)
    killer.start()
    for image_seed in range(number):
        seen.accepted[image_seed] = submit(service, image_seed, steps)

    def is_over() -> bool:
        killed = killer.killed.total()
        enough = number if seen.is_long else KILLS
        return killed >= enough or (killed >= FEWEST_KILLS and num_unfinished(service) <= IN_FLIGHT)

    wait_until(is_over, within_s=1200)
    killer.over.set()
    killer.join()
    seen.killed = killer.killed
    with service.client() as client:
        wait_until(lambda: client.get("/readyz").status_code == httpx.codes.OK)
    with service.paused("ray::ServeReplica:pipeline:Diffusion"):
        for image_seed in range(number, number + LAST_JOBS):
            seen.accepted[image_seed] = submit(service, image_seed, steps)
        seen.unfinished = num_unfinished(service)
        service.kill_everything()


def finish_jobs(seen: Lives, client: httpx.Client) -> None:
    """Wait for all jobs, and retry those that lost a worker three times."""
    wait_until(lambda: not unfinished(client), within_s=1200)
    states = {job_id: client.get(f"/v1/jobs/{job_id}").json() for job_id in seen.accepted.values()}
    seen.dead = [job["url"] for job in states.values() if job["state"] == "dead"]
    for url in seen.dead:
        client.post(f"{url}/retry").raise_for_status()
    wait_until(lambda: not unfinished(client), within_s=1200)
    seen.jobs = {job_id: client.get(f"/v1/jobs/{job_id}").json() for job_id in seen.accepted.values()}
    seen.made = made_images(client)
    seen.events = all_events(client)


def all_events(client: httpx.Client) -> list[dict[str, Any]]:
    with connect_sse(client, "GET", "/v1/events", params={"after": 0, "follow": False}) as source:
        return [event.json() | {"type": event.event} for event in source.iter_sse() if event.data]


def expire(seen: Lives, service: RunningService, client: httpx.Client) -> None:
    """Make one of the twins' images and leftovers of interrupted writes expire while the service runs."""
    seen.expired = seen.twin_ids[0]
    seen.twins[0].drop(seen.expired)  # its results still belong to the other twin's image
    leave_partial_files(service.data_dir)
    make_old(service.data_dir)
    with sqlite3.connect(service.data_dir / "truth.sqlite", timeout=SETTLE_WITHIN_S) as database:
        long_ago = "2020-01-01 00:00:00.000000"
        database.execute("UPDATE images SET created_at = ? WHERE image_id = ?", (long_ago, seen.expired))
    database.close()
    wait_until(lambda: client.get(f"/v1/images/{seen.expired}").status_code == httpx.codes.NOT_FOUND)
    wait_until(lambda: not litter(service.data_dir, seen.sessions()), problem=lambda: "not swept")
    seen.of_expired = [event["type"] for event in all_events(client) if event.get("image_id") == seen.expired]


def test_equal_pixels_are_segmented_once_over_restarts(lives: Lives):
    first, then = (
        [log.count(f"Image segmented of {image_id}") for image_id in lives.twin_ids] for log in lives.twins_log
    )
    assert sum(first) == 1
    assert then == first
    assert all(segments == lives.segments[0] for segments in lives.segments)
    assert len(lives.segments) == 4
    assert any(f"Reused segment of {image_id} from store" in lives.twins_log[1] for image_id in lives.twin_ids)


def test_exactly_what_was_acknowledged_survives_kills_of_everything(lives: Lives, capsys: pytest.CaptureFixture[str]):
    with capsys.disabled():
        for number, acknowledged in enumerate(lives.acknowledged, 1):
            print(f"\nseed {lives.seed}, kill {number}: {dict(acknowledged)} acknowledged", end="")
    assert all(acknowledged.total() >= MIN_ANSWERS for acknowledged in lives.acknowledged)
    assert {when: lost for when, lost in lives.lost.items() if lost} == {}, f"seed {lives.seed}"


def test_a_receiver_that_was_down_gets_all_events_in_order(lives: Lives, capsys: pytest.CaptureFixture[str]):
    number = sum(map(len, lives.changes.expected.values()))
    with capsys.disabled():
        print(
            f"\nseed {lives.seed}: {number} events for a receiver, {len(lives.changes.receiver.messages)} sent", end=""
        )
    assert lives.changes.in_order() == lives.changes.expected, f"seed {lives.seed}"


def test_accepted_jobs_survive_kills(lives: Lives, capsys: pytest.CaptureFixture[str]):
    attempts = Counter(job["attempts"] for job in lives.jobs.values())
    about = (
        f"seed {lives.seed}: {len(lives.accepted)} jobs accepted, killed {dict(lives.killed)}, {lives.unfinished} left"
        f" when everything was killed; jobs by attempts {dict(sorted(attempts.items()))}, {len(lives.dead)} quarantined"
    )
    with capsys.disabled():
        print(f"\n{about}", end="")
    assert lives.killed.total() >= FEWEST_KILLS, about
    assert lives.unfinished >= LAST_JOBS, about
    # A job dies after three kills: the last of all processes, and two before, which may affect the same jobs.
    met = lives.killed["ingress replica"] + lives.killed["model replica"]
    few = max(3, len(lives.accepted) // 8)
    assert len(lives.dead) <= few or (not lives.is_long and met >= MAX_ATTEMPTS - 1), about
    assert {job["state"] for job in lives.jobs.values()} == {"succeeded"}, about
    assert Counter(image["request"]["seed"] for image in lives.made) == Counter(list(lives.accepted)), about
    accepted = set(lives.accepted.values())
    events = [event for event in lives.events if event.get("job_id") in accepted]
    succeeded = Counter(event["job_id"] for event in events if event["type"] == "job.succeeded")
    assert succeeded == Counter(accepted), about
    created = {event["job_id"]: event["image_id"] for event in events if event["type"] == "image.created"}
    assert created == {job_id: job["result"]["image_id"] for job_id, job in lives.jobs.items()}, about


def test_an_expired_image_is_deleted_while_the_service_runs(lives: Lives):
    assert lives.of_expired[0] == "image.created"
    assert lives.of_expired[-1] == "image.deleted"
    assert lives.of_expired.count("image.deleted") == 1  # although two ingress replicas sweep


def interrupt(service: RunningService) -> Sequence[psutil.Process]:
    """Send Ctrl-C twice, and return the processes that don't end."""
    family = [service.process, *service.process.children(recursive=True)]
    service.process.send_signal(signal.SIGINT)
    service.process.send_signal(signal.SIGINT)
    left: Sequence[psutil.Process] = psutil.wait_procs(family, timeout=GONE_WITHIN_S)[1]
    return left


def test_ctrl_c_twice_leaves_no_process_and_returns_jobs_to_the_queue(lives: Lives):
    assert lives.left_over == []
    assert [(job.state, job.attempts) for job in lives.given_back] == [(JobState.QUEUED, 0)] * 3
