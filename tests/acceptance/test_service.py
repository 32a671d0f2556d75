"""A running service as seen by its clients."""

from __future__ import annotations

import http.client
import os
import random
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path

import httpx
import pytest
from httpx_sse import connect_sse

from pipeline.event_records import STEPPED
from testing.service_process import RunningService, wait_until
from testing.waiting import PATIENCE_S

SMALL = {"width": 128, "height": 128}


def new_image(client: httpx.Client, seed: int, session: str = "test", **parameters) -> str:
    answer = client.post(
        "/generate",
        json={"prompt": f"pear {seed}", "seed": seed, "steps": 2} | SMALL | parameters,
        headers={"X-Session-ID": session},
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["image_id"]


def test_a_client_written_for_the_legacy_api_works_unchanged(service: RunningService):
    client = Path(__file__).with_name("legacy_client.py")

    finished = subprocess.run([sys.executable, str(client), service.url], capture_output=True, text=True, timeout=300)

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "OK" in finished.stdout


def test_twenty_interleaved_sessions_are_isolated(service: RunningService):
    def use(session: int) -> int:
        own, num_checked = None, 0
        chance = random.Random(session)
        headers = {"X-Session-ID": f"user-{session}"}
        with service.client(headers=headers) as client:
            for _ in range(5):
                if own is None or chance.random() < 0.3:
                    made = client.post("/generate", json={"prompt": "pear", "steps": 1, "seed": session} | SMALL)
                    if made.status_code == 429:
                        continue
                    own = made.json()["image_id"]
                else:
                    call = chance.choice(["/analyze", "/segment", "/visualize", "/probe"])
                    seen = client.post(call, json={"prompt": "metal"} if call == "/probe" else None)
                    assert seen.status_code == 429 or seen.json()["image_id"] == own
                    num_checked += seen.status_code == 200
        return num_checked

    with ThreadPoolExecutor(20) as pool:
        checked = list(pool.map(use, range(20)))
    assert sum(map(bool, checked)) >= 5, checked  # the others were overloaded


def test_the_same_seed_makes_the_same_image(service: RunningService):
    def make(seed: int) -> str:
        with service.client() as client:
            made = client.post("/generate", json={"prompt": "pear", "seed": seed, "steps": 3} | SMALL)
            return made.json()["generated_image"]

    first, again, other = make(5), make(5), make(6)
    assert first == again != other


def test_sixteen_concurrent_calls_share_one_segmentation(service: RunningService):
    trace = service.new_trace()
    with service.client() as client, ThreadPoolExecutor(16) as pool:
        image_id = new_image(client, seed=100)

        answers = list(pool.map(lambda _: service.post(f"/segment?image_id={image_id}", trace.headers), range(16)))

    assert {answer.status_code for answer in answers} == {200}
    assert len({str(answer.json()["segmented_regions"]) for answer in answers}) == 1
    assert len(trace.wait_for("POST /segment", 16)) == 16
    assert len(trace.named("call segment")) == 1
    assert len(trace.wait_for("Segmenter.segment")) == 1


def test_if_the_first_client_disconnects_the_others_are_served(service: RunningService):
    trace = service.new_trace()
    log = service.data_dir / "app.log"
    with service.client() as client, ThreadPoolExecutor(8) as pool:
        image_id = new_image(client, seed=110)
        first = http.client.HTTPConnection("127.0.0.1", httpx.URL(service.url).port)
        with service.paused("ray::ServeReplica:pipeline:Segmenter"):
            first.request("POST", f"/segment?image_id={image_id}", headers=trace.headers | {"X-Request-ID": "leaves"})
            answers = pool.map(lambda _: service.post(f"/segment?image_id={image_id}", trace.headers), range(8))
            wait_until(lambda: waiting_for(image_id, log.read_text()) >= 7)  # one began the other replica's run
            first.close()
            wait_until(lambda: re.search(r"Answered POST /segment with 499 .*leaves", log.read_text()) is not None)

        assert {answer.status_code for answer in answers} == {200}
    assert len(trace.wait_for("POST /segment", 9)) == 9
    assert len(trace.wait_for("Segmenter.segment")) == 1


def waiting_for(image_id: str, log: str) -> int:
    """Return the number of requests that joined another request's segmentation of an image."""
    return log.count(f"Reused segment of {image_id} from run")


def test_a_killed_cache_fails_no_request(service: RunningService):
    with service.client() as client, ThreadPoolExecutor(8) as pool:
        image_id = new_image(client, seed=120)
        (cache,) = service.processes("ray::SegmentationCache")
        cache.kill()

        answers = list(pool.map(lambda _: service.post(f"/segment?image_id={image_id}"), range(8)))

        assert {answer.status_code for answer in answers} == {200}
        wait_until(lambda: bool(service.processes("ray::SegmentationCache")))


@pytest.mark.parametrize("title", ["ray::ServeReplica:pipeline:Diffusion", "ray::ServeReplica:pipeline:Segmenter"])
def test_a_killed_model_replica_fails_no_request(service: RunningService, title: str):
    with service.client() as client, ThreadPoolExecutor(1) as pool:
        image_id = new_image(client, seed=130)
        if "Diffusion" in title:
            pending = pool.submit(client.post, "/generate", json={"prompt": "pear", "seed": 131, "steps": 100} | SMALL)
        else:
            pending = pool.submit(client.post, "/segment", params={"image_id": image_id})
        for replica in service.processes(title):
            replica.kill()

        answer = pending.result()

        assert answer.status_code == 200, answer.text
        wait_until(lambda: client.get("/readyz").status_code == 200)


def test_replicas_inherit_the_priority_of_the_launcher(service: RunningService):
    replicas = service.processes("ray::ServeReplica")
    assert {replica.nice() for replica in replicas} == {os.nice(0)}


def test_a_dropped_connection_stops_the_denoising(service: RunningService):
    trace = service.new_trace()
    caller = http.client.HTTPConnection("127.0.0.1", httpx.URL(service.url).port)
    body = '{"prompt": "pear", "steps": 100, "width": 256, "height": 256}'
    with service.client() as client, connect_sse(client, "GET", "/v1/events", params={"type": STEPPED}) as source:
        events = (event for event in source.iter_sse() if event.data)
        caller.request("POST", "/generate", body, {"Content-Type": "application/json", **trace.headers})
        next(events)
        caller.close()

    (denoised,) = trace.wait_for("denoise")
    assert 1 <= len(denoised["events"]) < 100


def test_steps_are_streamed_and_closing_the_stream_stops_the_denoising(service: RunningService):
    trace = service.new_trace()
    body = {"prompt": "pear", "steps": 100, "width": 256, "height": 256}
    with (
        service.client(headers=trace.headers) as client,
        connect_sse(client, "POST", "/generate", json=body) as source,
    ):
        events = (event for event in source.iter_sse() if event.event == STEPPED)
        stepped = list(islice(events, 5))

    assert [event.json()["step"] for event in stepped] == [1, 2, 3, 4, 5]
    assert [event.json()["step"] for event in stepped if event.json()["preview"]] == [2]
    (denoised,) = trace.wait_for("denoise")
    assert 5 <= len(denoised["events"]) < 100


def test_overload_is_refused_immediately_and_loses_no_request(service: RunningService):
    def call(i: int) -> httpx.Response:
        with service.client(headers={"X-Session-ID": f"crowd-{i}"}) as client:
            return client.post("/generate", json={"prompt": "pear", "seed": i, "steps": 5} | SMALL)

    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(call, range(100)))

    accepted = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code in (429, 503)]
    assert len(accepted) + len(refused) == 100
    assert accepted
    assert refused
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert all(answer.json()["code"] == "overloaded" for answer in refused)


def test_every_answer_and_log_line_carries_its_request_id(service: RunningService):
    with service.client() as client:
        answer = client.post(
            "/generate", json={"prompt": "secret words", "steps": 1}, headers={"X-Request-ID": "id-42"}
        )

    assert answer.headers.get_list("x-request-id") == ["id-42"]
    log = (service.data_dir / "app.log").read_text()
    assert "[INFO] Generating image for request id-42\n" in log
    assert "secret words" not in log


def test_the_metrics_have_stages_but_no_prompts_or_ids(service: RunningService):
    with service.client() as client:
        image_id = new_image(client, seed=150, prompt="unmistakable")
        client.post("/visualize", params={"image_id": image_id})
        client.post("/visualize", params={"image_id": image_id})
        client.post("/probe", json={"prompt": "unmistakable", "image_id": image_id})
        client.get("/nowhere")
    wait_until(lambda: service.metric("ray_pipeline_requests_total", route="unmatched", status="404") >= 1)

    expected = {
        "ray_pipeline_requests_total",
        "ray_pipeline_errors_total",
        "ray_pipeline_request_seconds_bucket",
        "ray_pipeline_stage_seconds_bucket",
        "ray_pipeline_regions_bucket",
        "ray_pipeline_results_reused_total",
        "ray_pipeline_in_hand",
        "ray_pipeline_engine_calls_total",
        "ray_pipeline_engine_steps_total",
        "ray_pipeline_cache_hits_total",
        "ray_pipeline_cache_misses_total",
        "ray_pipeline_cache_bytes",
        "ray_pipeline_cache_entries",
    }

    seen: set[str] = set()  # over several scrapes: gauges are set less often than exported

    def missing() -> set[str]:
        seen.update(line.split("{")[0] for line in httpx.get(service.metrics_url, timeout=PATIENCE_S).text.splitlines())
        return expected - seen

    wait_until(lambda: not missing(), problem=missing)
    text = httpx.get(service.metrics_url, timeout=PATIENCE_S).text
    assert "unmistakable" not in text
    assert image_id not in text


def raw_answer(service: RunningService, head: bytes, body: bytes = b"") -> tuple[int, bytes]:
    """Send raw bytes; return the answer's status and body."""
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port), timeout=300) as connection:
        connection.sendall(head)
        with suppress(ConnectionError):  # refused before the whole body was sent
            connection.sendall(body)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.read()


@pytest.mark.parametrize(
    ("head", "body", "expected"),
    [
        pytest.param(b"POST /generate", b" " * (50 << 20), 413, id="50 MB"),
        pytest.param(b"POST /segment?image_id=%00", b"", 422, id="malformed id"),
    ],
)
def test_bad_input_through_the_proxy(service: RunningService, head: bytes, body: bytes, expected: int):
    lines = [head + b" HTTP/1.1", b"Host: test", b"Content-Type: application/json", b"Connection: close"]
    status, answer = raw_answer(service, b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", b""]), body)

    assert status == expected
    assert b'"detail"' in answer


def test_undecodable_header_bytes_are_answered(service: RunningService):
    """Serve's proxy answers these itself, see docs/deployment.md; the service must stay up."""
    status, _ = raw_answer(
        service, b"POST /segment HTTP/1.1\r\nHost: test\r\nX-Session-ID: \xff\xfe\r\nContent-Length: 0\r\n\r\n"
    )

    assert status in (400, 422, 500)
    with service.client() as client:
        assert client.get("/healthz").status_code == 200
