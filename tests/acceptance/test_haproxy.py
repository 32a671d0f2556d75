"""HAProxy as the ingress: it behaves as the plain proxy, and two services run side by side."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
import yaml
from httpx_sse import connect_sse
from PIL import Image

from cli.proxies import find_haproxy
from pipeline.settings import ServiceSettings
from pipeline.store import KeyStore, open_store
from testing.debian import ensure
from testing.service_process import ROOT, RunningService, changed_config, quick_scaling, serving, tracing, wait_until
from tests.acceptance.test_service import (
    test_a_client_written_for_the_legacy_api_works_unchanged,
    test_a_dropped_connection_stops_the_denoising,
    test_bad_input_through_the_proxy,
    test_every_answer_and_log_line_carries_its_request_id,
    test_overload_is_refused_immediately_and_loses_no_request,
    test_undecodable_header_bytes_are_answered,
)
from tests.acceptance.test_traces import test_one_trace_from_the_request_to_the_engines_steps

__all__ = [  # run against the service below
    "test_a_client_written_for_the_legacy_api_works_unchanged",
    "test_a_dropped_connection_stops_the_denoising",
    "test_bad_input_through_the_proxy",
    "test_every_answer_and_log_line_carries_its_request_id",
    "test_one_trace_from_the_request_to_the_engines_steps",
    "test_overload_is_refused_immediately_and_loses_no_request",
    "test_undecodable_header_bytes_are_answered",
]

READERS = 6
PLENTY = 1_000_000  # requests per minute
MB = 1 << 20


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningService, RunningService]]:
    """A service, and one on a logical GPU without one of its models, with API keys, that ends streams on reload."""
    ensure("haproxy", find_haproxy)
    profile = yaml.safe_load((ROOT / "configs" / "mini.yaml").read_text())
    profile["clip"]["model"]["source"] = "/nowhere/clip"
    folders = tmp_path_factory.mktemp("service"), tmp_path_factory.mktemp("neighbour")
    broken = folders[1] / "lame.yaml"
    broken.write_text(yaml.safe_dump(profile))
    without_reactions = changed_config(
        folders[0], lambda application: application["args"].update(reactions={"enabled": False})
    )
    haproxy = ("--ingress", "haproxy")
    limits = {"requests_per_minute": PLENTY}
    quick = quick_scaling(folders[1], "Diffusion")
    limited = changed_config(folders[1], lambda application: application["args"].update(limits=limits), quick)
    options = ("--profile", str(broken), "--num-gpus", "1", "--serve-config", str(limited), "--keys")
    with keys_in(folders[1] / "data") as keys:
        _, token = keys.create("ann")
    hard_stop = {"RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "1"}
    with (
        serving(folders[0], *haproxy, "--serve-config", str(without_reactions), *tracing(folders[0])) as first,
        serving(folders[1], *haproxy, *options, environment=hard_stop, api_key=token) as second,
    ):
        yield first, second


@contextmanager
def keys_in(data_dir: Path) -> Iterator[KeyStore]:
    """Open the API keys of a data folder, as the command line does."""
    store = open_store(ServiceSettings(data_dir=data_dir))
    yield store.keys
    store.log.engine.dispose()


@pytest.fixture(scope="module")
def service(copies: tuple[RunningService, RunningService]) -> RunningService:
    return copies[0]


@pytest.fixture(scope="module")
def neighbour(copies: tuple[RunningService, RunningService]) -> RunningService:
    return copies[1]


def noise_png(seed: int, side: int = 64) -> bytes:
    """Return a PNG of noise, which is incompressible: 3 bytes per pixel."""
    pixels = np.random.default_rng(seed).integers(256, size=(side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def upload(service: RunningService, content: bytes) -> str:
    """Upload an image over a new connection, with retries if a replica dies; return its id."""
    answers: list[httpx.Response] = []

    def is_accepted() -> bool:
        with suppress(httpx.TransportError), service.client() as client:
            answers.append(client.post("/v1/images/upload", content=content, headers={"Content-Type": "image/png"}))
        return bool(answers) and answers[-1].is_success

    wait_until(is_accepted)
    return str(answers[-1].json()["image_id"])


def test_a_large_upload_and_a_large_answer_pass(service: RunningService):
    sent = noise_png(seed=1, side=3200)
    with service.client() as client:
        image_id = upload(service, sent)
        answer = client.post("/visualize", params={"image_id": image_id})

    assert len(sent) > 29 * MB
    assert len(answer.content) > 20 * MB
    assert answer.status_code == 200, answer.text
    overlay = Image.open(io.BytesIO(base64.b64decode(answer.json()["master_overlay"])))
    assert overlay.size == (3200, 3200)


def test_each_service_serves_only_its_own_images(service: RunningService, neighbour: RunningService):
    owned = {
        copy.url: {upload(copy, noise_png(seed)) for seed in seeds}
        for copy, seeds in ((service, range(10, 14)), (neighbour, range(20, 24)))
    }

    def answers(call: tuple[RunningService, str]) -> tuple[bool, int]:
        copy, image_id = call
        with copy.client() as client:
            return image_id in owned[copy.url], client.get(f"/v1/images/{image_id}/content").status_code

    everything = [image_id for image_ids in owned.values() for image_id in image_ids]
    with ThreadPoolExecutor(8) as pool:
        seen = list(
            pool.map(answers, [(copy, image_id) for copy in (service, neighbour) for image_id in everything * 4])
        )

    assert {status for own, status in seen if own} == {200}
    assert {status for own, status in seen if not own} == {404}


def test_a_logical_gpu_missing_weights_and_autoscaling(neighbour: RunningService):
    with neighbour.client() as client:
        readiness = client.get("/readyz")
        assert readiness.status_code == 503
        models = readiness.json()["models"]
        assert {name: model["ready"] for name, model in models.items()} == {
            "Diffusion": True,
            "Clip": False,
            "Segmenter": True,
        }
        assert "/nowhere/clip" in models["Clip"]["reason"]

        def replicas() -> int:
            return len(neighbour.processes("ray::ServeReplica:pipeline:Diffusion"))

        with ThreadPoolExecutor(8) as pool:
            for i in range(8):
                body = {"prompt": "pear", "seed": i, "steps": 100, "width": 128, "height": 128}
                pool.submit(client.post, "/generate", json=body)
            wait_until(lambda: replicas() == 2)
        wait_until(lambda: replicas() == 1)


def test_keys_are_required_rate_limited_and_revoked_at_every_replica(neighbour: RunningService):
    with keys_in(neighbour.data_dir) as keys:
        key, token = keys.create("ann", "to be revoked")

    def answers(**headers: str) -> list[httpx.Response]:
        """Send requests over new connections, which either replica may serve."""
        return [httpx.get(f"{neighbour.url}/v1/images", headers=headers, timeout=300) for _ in range(8)]

    anonymous, authenticated = answers(), answers(Authorization=f"Bearer {token}")
    assert {(answer.status_code, answer.json()["code"]) for answer in anonymous} == {(401, "unauthorized")}
    assert httpx.get(f"{neighbour.url}/healthz", timeout=300).status_code == 200
    assert {answer.status_code for answer in authenticated} == {200}
    assert all(f"q={PLENTY};" in answer.headers["RateLimit-Policy"] for answer in authenticated)
    assert all(answer.headers["RateLimit"].startswith('"default";r=') for answer in authenticated)
    with keys_in(neighbour.data_dir) as keys:
        keys.revoke(key.key_id)
    wait_until(lambda: {answer.status_code for answer in answers(Authorization=f"Bearer {token}")} == {401})
    with neighbour.client() as client:
        assert client.get("/v1/images").status_code == 200


def test_the_api_listens_on_loopback_only(service: RunningService):
    def proxies() -> list[Any]:
        return [address for name, address in listening(service) if name == "haproxy"]

    wait_until(lambda: len(proxies()) == 3, problem=proxies)  # API, statistics, metrics; more during a reload
    assert {address.ip for address in proxies()} == {"127.0.0.1"}
    elsewhere = [(name, address) for name, address in listening(service) if address.ip != "127.0.0.1"]
    without_http = 0
    for name, address in elsewhere:  # Ray's own
        try:
            assert "online" not in httpx.get(f"http://127.0.0.1:{address.port}/", timeout=5).text, (name, address)
        except httpx.TransportError:  # not HTTP
            without_http += 1
    assert without_http < len(elsewhere)  # some speak HTTP
    wait_until(lambda: every_replica_refuses(service))  # a starting replica doesn't listen yet


def listening(service: RunningService) -> set[tuple[str, Any]]:
    """Return names of processes and the addresses they listen on."""
    found = set()
    for process in service.process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a short-lived process
            name, connections = process.name(), process.net_connections("tcp")
            found |= {(name, c.laddr) for c in connections if c.status == psutil.CONN_LISTEN}
    return found


def every_replica_refuses(service: RunningService) -> bool:
    ports = [address.port for name, address in listening(service) if name.startswith("ray::ServeRepli")]
    return sum(map(grpc_refuses, ports)) >= len(service.processes("ray::ServeReplica"))


def grpc_refuses(port: int) -> bool:
    """Return whether a call between replicas without Ray's token is refused."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=300)
    return bool(refused.value.code() is grpc.StatusCode.UNAUTHENTICATED)


class Reader(threading.Thread):
    """Subscribes to `/v1/events`, and resumes after the last event it saw when disconnected."""

    def __init__(self, service: RunningService) -> None:
        super().__init__(daemon=True)
        self.service = service
        self.last = ""
        self.sequences: list[int] = []
        self.images: list[str] = []
        self.streams = 0

    def run(self) -> None:
        while self.last not in self.images:
            with suppress(httpx.TransportError), self.service.client() as client:
                self.follow(client)

    def follow(self, client: httpx.Client) -> None:
        known = {"Last-Event-ID": str(self.sequences[-1] if self.sequences else 0)}
        with connect_sse(client, "GET", "/v1/events", headers=known) as source:
            self.streams += source.response.is_success
            for event in source.iter_sse():
                if event.event == "image.created":
                    self.sequences.append(int(event.id))
                    self.images.append(event.json()["image_id"])
                if self.last in self.images:
                    return


def test_streams_that_a_reload_ends_resume_without_losing_an_event(neighbour: RunningService):
    readers = [Reader(neighbour) for _ in range(READERS)]
    made = [upload(neighbour, noise_png(seed)) for seed in range(100, 103)]
    for reader in readers:
        reader.start()
    wait_until(lambda: all(set(made) <= set(reader.images) for reader in readers))
    before = [reader.streams for reader in readers]

    neighbour.processes("ray::ServeReplica:pipeline:Ingress")[0].kill()
    seeds = iter(range(200, 10_000))

    def are_reconnected() -> bool:
        made.append(upload(neighbour, noise_png(next(seeds))))
        return all(reader.streams > streams for reader, streams in zip(readers, before, strict=True))

    wait_until(are_reconnected)
    made.append(upload(neighbour, noise_png(10_000)))
    for reader in readers:
        reader.last = made[-1]
    for reader in readers:
        reader.join(300)

    for reader in readers:
        assert reader.sequences == sorted(set(reader.sequences))
        assert [image_id for image_id in reader.images if image_id in made] == made
