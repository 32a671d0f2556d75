"""Jobs and events of a real service with two ingress replicas."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from httpx_sse import ServerSentEvent, connect_sse

from testing.service_process import ROOT, RunningService, wait_until

ASYNC = {"Prefer": "respond-async"}
SEED = 100_100  # of an image that no other test makes
SMALL = {"prompt": "red apple", "width": 64, "height": 64}


def submit(service: RunningService, **body: object) -> str:
    with service.client() as client:
        accepted = client.post("/generate", json=SMALL | body, headers=ASYNC)
    assert accepted.status_code == 202, accepted.text
    return accepted.headers["Location"]


def follow(service: RunningService, url: str, after: str = "0") -> list[ServerSentEvent]:
    """Subscribe to a job over a new connection, which any replica may serve; return its events."""
    headers = {"Last-Event-ID": after}
    with service.client() as client, connect_sse(client, "GET", f"{url}/events", headers=headers) as source:
        return [event for event in source.iter_sse() if event.data]


def cli(*arguments: str) -> str:
    command = [sys.executable, "-m", "cli.main", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout


def test_a_job_s_events_reach_readers_at_every_replica(service: RunningService):
    url = submit(service, steps=50, seed=1)
    with ThreadPoolExecutor(8) as pool:
        followed = list(pool.map(lambda _: follow(service, url), range(8)))
    for events in followed:
        types = [event.event for event in events]
        facts = [event.json()["sequence"] for event in events[:-1] if "sequence" in event.json()]
        assert types[:2] == ["job.submitted", "job.started"]
        assert "generation.stepped" in types  # through the hub if another replica runs the job
        assert types[-3:] == ["image.created", "job.succeeded", "generation.finished"]
        assert facts == sorted(set(facts))


def test_events_survive_the_hub_and_an_ingress_replica(service: RunningService):
    for title in ("ray::EventHub", "ray::ServeReplica:pipeline:Ingress"):
        url = submit(service, steps=20, seed=2)
        service.processes(title)[0].kill()
        after: list[str] = ["0"]
        types: list[str] = []

        def is_finished(url: str = url, after: list[str] = after, types: list[str] = types) -> bool:
            try:
                for event in follow(service, url, after[0]):
                    after[0] = event.id or after[0]
                    types.append(event.event)
            except httpx.HTTPError:
                return False
            return "generation.finished" in types

        wait_until(is_finished)
        assert types.count("job.succeeded") == types.count("image.created") == 1


def test_many_posts_with_one_idempotency_key_make_one_image(service: RunningService):
    headers = {"Idempotency-Key": "one-of-100"}

    def post(_: int) -> httpx.Response:
        with service.client() as client:
            found: list[httpx.Response] = []

            def is_answered() -> bool:
                found.append(client.post("/generate", json=SMALL | {"steps": 3, "seed": SEED}, headers=headers))
                return found[-1].status_code not in (409, 429)

            wait_until(is_answered)
            return found[-1]

    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(post, range(100)))
    assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
    assert len({answer.content for answer in answers}) == 1
    with service.client() as client:
        images = client.get("/v1/images", params={"limit": 100}).json()["images"]
    made = [image["image_id"] for image in images if image["request"] and image["request"]["seed"] == SEED]
    assert made == [answers[0].json()["image_id"]]


def test_the_command_line_generates_on_a_running_service(service: RunningService, tmp_path: Path):
    size = ("--width", "64", "--height", "64", "--steps", "20", "--preview", str(tmp_path / "preview.png"))
    output = cli("generate", "red apple", "--n", "2", *size, "--server", service.url, "--out", str(tmp_path))
    assert "Seed " in output
    assert len(list(tmp_path.glob("*/image.png"))) == len(list(tmp_path.glob("*/result.json"))) == 2
    assert (tmp_path / "preview.png").exists()  # of either image: step events may be missed
