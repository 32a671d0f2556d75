"""The smoke test of the image, run inside a container by `scripts/container`.

The service runs with minimal privileges and with either proxy. Only the standard library is used.

    python smoke.py HEALTH_CHECK COMMAND…     both as the image declares them
"""

from __future__ import annotations

import base64
import errno
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

UP_WITHIN_S, END_WITHIN_S, ANSWER_WITHIN_S = 300, 60, 120
WRITABLE = ("/data", "/cache", "/tmp")
URL = f"http://127.0.0.1:{os.environ['PIPELINE_PORT']}"
DASHBOARD = f"http://127.0.0.1:{os.environ['PIPELINE_UI_PORT']}"
RAYS_METRICS = f"http://127.0.0.1:{os.environ['PIPELINE_METRICS_PORT']}/metrics"
NODE = (
    "ulimit -n 65536; ray start --head --block --num-cpus=0 --object-store-memory=100000000 --node-ip-address=127.0.0.1"
    " --port={gcs} --dashboard-host=127.0.0.1 --dashboard-port={dashboard} --dashboard-agent-listen-port={agent}"
    " --metrics-export-port={metrics}"
)


def main() -> None:
    """Run all checks; the first failing assertion ends it."""
    health_check, command = sys.argv[1], sys.argv[2:]
    check_rights()
    for proxy in ("plain", "haproxy"):
        service = Service(command, health_check, proxy)
        try:
            service.wait_until_healthy()
            work()
            if proxy == "plain":  # the dashboard is a client and does not depend on the proxy
                page = first_answer(DASHBOARD, service.process)
                print(f"dashboard: {len(page)} bytes of HTML")
        finally:
            service.end()
    try_node()


def check_rights() -> None:
    """Assert that there is no root user, no capability, and no writable folder except the declared ones."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert os.getuid() != 0, "runs as root"
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0, "has capabilities"
    assert status["NoNewPrivs"] == "1", "could get rights back"
    for folder in ("/", "/app", "/app/.venv", "/etc", "/usr", "/var/tmp"):
        assert why_unwritable(folder) == errno.EROFS, folder
    for folder in WRITABLE:
        assert why_unwritable(folder) is None, folder
    print(f"user {os.getuid()}, no capabilities, the root is read-only; writes to {', '.join(WRITABLE)} alone")


def why_unwritable(folder: str) -> int | None:
    """Return the errno of creating a file in a folder; None if it is possible."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return error.errno
    return None


class Service:
    """The service as a process.

    Args:
        command: what the image runs.
        health_check: Python that fails while the service isn't healthy.
        proxy: the ingress.
    """

    def __init__(self, command: list[str], health_check: str, proxy: str) -> None:
        self._health_check = health_check
        self._proxy = proxy
        self._started = time.monotonic()
        self.process = subprocess.Popen(command, env=os.environ | {"PIPELINE_INGRESS": proxy})

    def wait_until_healthy(self) -> None:
        """Run the health check as Docker does, until it passes."""
        while subprocess.run([sys.executable, "-c", self._health_check], stderr=subprocess.DEVNULL).returncode:
            assert self.process.poll() is None, "the service ended"
            assert time.monotonic() - self._started < UP_WITHIN_S, "the health check fails for too long"
            time.sleep(1)
        print(f"{self._proxy}: ready after {time.monotonic() - self._started:.0f} s")

    def end(self) -> None:
        """Send SIGTERM as Docker does; assert that the service and all of its processes exit."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(END_WITHIN_S)
        assert self.process.returncode == 0, f"ended with {self.process.returncode}"
        while left := [*Path("/tmp").glob("aip-*"), *own_processes()]:
            assert time.monotonic() - began < END_WITHIN_S, f"left {left} behind"
            time.sleep(0.2)
        print(f"{self._proxy}: ended by SIGTERM within {time.monotonic() - began:.0f} s, no process and no file left")


def try_node() -> None:
    """Start a node of a Ray cluster as KubeRay does, and probe its health as Kubernetes does."""
    with ExitStack() as stack:
        bound = {name: stack.enter_context(socket.socket()) for name in ("gcs", "dashboard", "agent", "metrics")}
        for one in bound.values():
            one.bind(("127.0.0.1", 0))
        ports = {name: one.getsockname()[1] for name, one in bound.items()}
    started = time.monotonic()
    node = subprocess.Popen(
        ["/bin/bash", "-c", "--", NODE.format(**ports)],
        env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)},
        stdout=subprocess.DEVNULL,
    )
    try:
        answers = first_answer(f"http://127.0.0.1:{ports['agent']}/api/healthz", node).decode().split("\n")
        print(f"ray start: {', '.join(answers)} after {time.monotonic() - started:.0f} s")
    finally:
        for path in own_processes():
            with suppress(ProcessLookupError):
                os.kill(int(path.name), signal.SIGKILL)


def own_processes() -> list[Path]:
    """Return this user's other processes as folders of /proc, without zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
            if path.stat().st_uid == os.getuid() and path.name != str(os.getpid()) and state != "Z":
                found.append(path)
    return found


def work() -> None:
    """Generate an image, analyze it, generate another by the OpenAI API, and read the metrics."""
    made = post("/generate", {"prompt": "red apple in white plate", "seed": 7})
    print(f"/generate: {made['width']} x {made['height']}, {num_bytes(made['generated_image'])}")
    image = {"image_id": made["image_id"]}
    best, *_ = post("/analyze", image)["clip_scores"]
    print(f"/analyze: {best['class']}")
    print(f"/segment: {len(post('/segment', image)['segmented_regions'])} regions")
    view = post("/visualize", image)
    print(f"/visualize: {view['status']}, {view['total_regions']} regions")
    (picture,) = post("/v1/images/generations", {"prompt": "a green pear", "response_format": "b64_json"})["data"]
    print(f"/v1/images/generations: {num_bytes(picture['b64_json'])}")
    facts = [line for line in get(f"{URL}/metrics").decode().splitlines() if line.startswith("pipeline_store_images ")]
    assert float(facts[0].split()[1]) >= 2, facts
    print(f"/metrics: {facts[0]}")
    exported = get(RAYS_METRICS).count(b"\nray_")
    assert exported, "Ray exports nothing"
    print(f"Ray's metrics: {exported} lines")


def first_answer(url: str, process: subprocess.Popen[bytes]) -> bytes:
    """Get a page, with retries while its process starts."""
    began = time.monotonic()
    while True:
        try:
            return get(url)
        except OSError:
            assert process.poll() is None, "the process ended"
            assert time.monotonic() - began < UP_WITHIN_S, f"{url} does not answer"
            time.sleep(1)


def num_bytes(png: str) -> str:
    """Return the size of a PNG in base64, formatted."""
    decoded = base64.b64decode(png)
    assert decoded.startswith(b"\x89PNG"), "no PNG"
    return f"{len(decoded)} bytes"


def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Post JSON and return the JSON answer; raise unless it succeeded."""
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=ANSWER_WITHIN_S) as answer:
        decoded: dict[str, Any] = json.load(answer)
        return decoded


def get(url: str) -> bytes:
    """Get a page."""
    with urllib.request.urlopen(url, timeout=ANSWER_WITHIN_S) as answer:
        content: bytes = answer.read()
        return content


if __name__ == "__main__":
    main()
