"""HAProxy in front: what clients see of it is what they see of the plain proxy, and several copies get along."""

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
    test_header_bytes_that_are_not_text_break_nothing,
    test_overload_refuses_at_once_and_loses_nothing,
)
from tests.acceptance.test_traces import test_one_trace_from_the_request_to_the_engines_steps

__all__ = [  # asked of the service below
    "test_a_client_written_for_the_legacy_api_works_unchanged",
    "test_a_dropped_connection_stops_the_denoising",
    "test_bad_input_through_the_proxy",
    "test_every_answer_and_log_line_carries_its_request_id",
    "test_header_bytes_that_are_not_text_break_nothing",
    "test_one_trace_from_the_request_to_the_engines_steps",
    "test_overload_refuses_at_once_and_loses_nothing",
]

READERS = 6
PLENTY = 1_000_000  # requests a minute
MB = 1 << 20


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningService, RunningService]]:
    """A service, and one on a logical GPU that lacks a model, wants a key, and lets go of streams after a reload."""
    ensure("haproxy", find_haproxy)
    profile = yaml.safe_load((ROOT / "configs" / "mini.yaml").read_text())
    profile["clip"]["model"]["source"] = "/nowhere/clip"
    folders = tmp_path_factory.mktemp("service"), tmp_path_factory.mktemp("neighbour")
    lame = folders[1] / "lame.yaml"
    lame.write_text(yaml.safe_dump(profile))
    quiet = changed_config(folders[0], lambda application: application["args"].update(reactions={"enabled": False}))
    haproxy = ("--ingress", "haproxy")
    limits = {"requests_per_minute": PLENTY}
    quick = quick_scaling(folders[1], "Diffusion")
    limited = changed_config(folders[1], lambda application: application["args"].update(limits=limits), quick)
    lacking = ("--profile", str(lame), "--num-gpus", "1", "--serve-config", str(limited), "--keys")
    with keys_in(folders[1] / "data") as keys:
        _, token = keys.create("ann")
    impatient = {"RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "1"}
    with (
        serving(folders[0], *haproxy, "--serve-config", str(quiet), *tracing(folders[0])) as first,
        serving(folders[1], *haproxy, *lacking, environment=impatient, api_key=token) as second,
    ):
        yield first, second


@contextmanager
def keys_in(data_dir: Path) -> Iterator[KeyStore]:
    """The API keys of a data folder, as the command line opens them."""
    store = open_store(ServiceSettings(data_dir=data_dir))
    yield store.keys
    store.log.engine.dispose()


@pytest.fixture(scope="module")
def service(copies: tuple[RunningService, RunningService]) -> RunningService:
    return copies[0]


@pytest.fixture(scope="module")
def neighbour(copies: tuple[RunningService, RunningService]) -> RunningService:
    return copies[1]


def picture(seed: int, side: int = 64) -> bytes:
    """A PNG of noise, which no compression makes smaller: 3 bytes a pixel."""
    pixels = np.random.default_rng(seed).integers(256, size=(side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def upload(service: RunningService, content: bytes) -> str:
    """Upload a picture over a connection of its own, again if a replica dies meanwhile."""
    answers: list[httpx.Response] = []

    def is_taken() -> bool:
        with suppress(httpx.TransportError), service.client() as client:
            answers.append(client.post("/v1/images/upload", content=content, headers={"Content-Type": "image/png"}))
        return bool(answers) and answers[-1].is_success

    wait_until(is_taken)
    return str(answers[-1].json()["image_id"])


def test_a_large_upload_and_a_larger_answer_go_through(service: RunningService):
    sent = picture(seed=1, side=3200)
    with service.client() as client:
        image_id = upload(service, sent)
        answer = client.post("/visualize", params={"image_id": image_id})

    assert len(sent) > 29 * MB
    assert len(answer.content) > 20 * MB
    assert answer.status_code == 200, answer.text
    overlay = Image.open(io.BytesIO(base64.b64decode(answer.json()["master_overlay"])))
    assert overlay.size == (3200, 3200)


def test_each_copy_answers_its_own_images(service: RunningService, neighbour: RunningService):
    owned = {
        copy.url: {upload(copy, picture(seed)) for seed in seeds}
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


def test_a_key_is_wanted_counted_and_revoked_at_every_replica(neighbour: RunningService):
    with keys_in(neighbour.data_dir) as keys:
        key, token = keys.create("ann", "to be revoked")

    def answers(**headers: str) -> list[httpx.Response]:
        """From connections of their own, which either replica may serve."""
        return [httpx.get(f"{neighbour.url}/v1/images", headers=headers, timeout=300) for _ in range(8)]

    strangers, guests = answers(), answers(Authorization=f"Bearer {token}")
    assert {(answer.status_code, answer.json()["code"]) for answer in strangers} == {(401, "unauthorized")}
    assert httpx.get(f"{neighbour.url}/healthz", timeout=300).status_code == 200
    assert {answer.status_code for answer in guests} == {200}
    assert all(f"q={PLENTY};" in answer.headers["RateLimit-Policy"] for answer in guests)
    assert all(answer.headers["RateLimit"].startswith('"default";r=') for answer in guests)
    with keys_in(neighbour.data_dir) as keys:
        keys.revoke(key.key_id)
    wait_until(lambda: {answer.status_code for answer in answers(Authorization=f"Bearer {token}")} == {401})
    with neighbour.client() as client:
        assert client.get("/v1/images").status_code == 200


def test_the_api_can_be_reached_through_the_loopback_address_alone(service: RunningService):
    def proxies() -> list[Any]:
        return [address for name, address in listening(service) if name == "haproxy"]

    wait_until(lambda: len(proxies()) == 3, problem=proxies)  # the API, statistics and metrics, but for a reload
    assert {address.ip for address in proxies()} == {"127.0.0.1"}
    elsewhere = [(name, address) for name, address in listening(service) if address.ip != "127.0.0.1"]
    silent = 0
    for name, address in elsewhere:  # Ray's own
        try:
            assert "online" not in httpx.get(f"http://127.0.0.1:{address.port}/", timeout=5).text, (name, address)
        except httpx.TransportError:  # no HTTP at all
            silent += 1
    assert silent < len(elsewhere)  # some were asked
    wait_until(lambda: every_replica_refuses(service))  # one that is just starting listens soon


def listening(service: RunningService) -> set[tuple[str, Any]]:
    """Names and addresses; an older HAProxy that still ends its requests listens where the newer one does."""
    found = set()
    for process in service.process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a short-lived one
            name, connections = process.name(), process.net_connections("tcp")
            found |= {(name, c.laddr) for c in connections if c.status == psutil.CONN_LISTEN}
    return found


def every_replica_refuses(service: RunningService) -> bool:
    ports = [address.port for name, address in listening(service) if name.startswith("ray::ServeRepli")]
    return sum(map(grpc_refuses, ports)) >= len(service.processes("ray::ServeReplica"))


def grpc_refuses(port: int) -> bool:
    """Whether a call between replicas, made without Ray's token, is turned away."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=300)
    return bool(refused.value.code() is grpc.StatusCode.UNAUTHENTICATED)


class Reader(threading.Thread):
    """Follows `/v1/events`, and goes on after the last one it saw when it is cut off."""

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


def test_streams_that_a_reload_cuts_go_on_without_losing_a_fact(neighbour: RunningService):
    readers = [Reader(neighbour) for _ in range(READERS)]
    made = [upload(neighbour, picture(seed)) for seed in range(100, 103)]
    for reader in readers:
        reader.start()
    wait_until(lambda: all(set(made) <= set(reader.images) for reader in readers))
    before = [reader.streams for reader in readers]

    neighbour.processes("ray::ServeReplica:pipeline:Ingress")[0].kill()
    seeds = iter(range(200, 10_000))

    def are_cut() -> bool:
        made.append(upload(neighbour, picture(next(seeds))))
        return all(reader.streams > streams for reader, streams in zip(readers, before, strict=True))

    wait_until(are_cut)
    made.append(upload(neighbour, picture(10_000)))
    for reader in readers:
        reader.last = made[-1]
    for reader in readers:
        reader.join(300)

    for reader in readers:
        assert reader.sequences == sorted(set(reader.sequences))
        assert [image_id for image_id in reader.images if image_id in made] == made
