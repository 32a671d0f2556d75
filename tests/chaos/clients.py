"""Clients that load a service with random work until it is killed, and record what it acknowledged."""

from __future__ import annotations

import threading
from base64 import b64decode
from collections import Counter
from random import Random
from typing import Any

import httpx
import numpy as np

from pipeline.imaging import codecs as images
from testing.service_process import RunningService
from tests.chaos.ledger import Image, Listed, Session

PROMPTS = ("red apple in white plate", "a lighthouse at night", "two pears", "snow on a roof")
RECENT = 3  # images whose results may still be being written


class Countdown:
    """Kills the service as soon as it has answered this number of calls of `/generate`."""

    def __init__(self, service: RunningService, answers: int) -> None:
        self.over = threading.Event()
        self._service = service
        self._left = answers
        self._lock = threading.Lock()

    def answered(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left != 0:
                return
            self.over.set()
        self._service.kill_everything()


class BusyClient:
    """Makes random calls, one at a time, in its own session.

    Attributes:
        acknowledged: how many calls of each kind were answered.
    """

    def __init__(self, service: RunningService, session: Session, countdown: Countdown, random: Random) -> None:
        self.acknowledged: Counter[str] = Counter()
        self._service = service
        self._session = session
        self._countdown = countdown
        self._random = random

    def work(self) -> None:
        """Make calls until the service is killed; an error before that is raised."""
        with self._service.client(headers={"X-Session-ID": self._session.name}) as client:
            try:
                while not self._countdown.over.is_set():
                    self._call_randomly(client)
            except httpx.HTTPError:
                if not self._countdown.over.is_set():
                    raise

    def _call_randomly(self, client: httpx.Client) -> None:
        calls = [self._generate] * 8 + [self._upload] * 3
        if self._session.images:
            calls += [self._segment] * 5 + [self._visualize] * 2 + [self._delete] * 2
        call = self._random.choice(calls)
        call(client)
        self.acknowledged[call.__name__.removeprefix("_")] += 1

    def _generate(self, client: httpx.Client) -> None:
        seed, steps = self._random.getrandbits(32), self._random.randint(1, 3)
        body = {"prompt": self._random.choice(PROMPTS), "seed": seed, "steps": steps, "width": 64, "height": 64}

        def is_match(listed: Listed) -> bool:
            return listed["request"] is not None and body.items() <= listed["request"].items()

        self._session.making = is_match
        made = _send(client, "POST", "/generate", json=body).json()
        self._countdown.answered()
        png = b64decode(made["generated_image"])
        self._session.keep(made["image_id"], Image(digest=images.digest(images.decode_png(png)), png=png))

    def _upload(self, client: httpx.Client) -> None:
        width, height = self._random.randint(64, 512), self._random.randint(64, 512)
        noise = np.frombuffer(self._random.randbytes(height * width * 3), np.uint8).reshape(height, width, 3)
        digest = images.digest(noise)
        self._session.making = lambda listed: bool(listed["request"] is None and listed["digest"] == digest)
        kind = {"Content-Type": "image/png"}
        uploaded = _send(client, "POST", "/v1/images/upload", content=images.encode_png(noise), headers=kind).json()
        kept = Image(digest=digest)
        self._session.keep(uploaded["image_id"], kept)
        kept.png = _send(client, "GET", f"/v1/images/{uploaded['image_id']}/content").content

    def _segment(self, client: httpx.Client) -> None:
        self._analyze(client, "/segment")

    def _visualize(self, client: httpx.Client) -> None:
        self._analyze(client, "/visualize")

    def _analyze(self, client: httpx.Client, path: str) -> None:
        image_id = self._random.choice([*self._session.images][-RECENT:])
        answer = _send(client, "POST", path, json={"image_id": image_id})
        self._session.images[image_id].answers[path] = substance(answer)

    def _delete(self, client: httpx.Client) -> None:
        image_id = self._random.choice([*self._session.images])
        self._session.deleting = image_id
        _send(client, "DELETE", f"/v1/images/{image_id}")
        self._session.drop(image_id)


def substance(answer: httpx.Response) -> dict[str, Any]:
    """Return an answer's body without the fields that differ each time."""
    return {name: value for name, value in answer.json().items() if name != "request_id"}


def _send(client: httpx.Client, method: str, path: str, **request: Any) -> httpx.Response:
    try:
        return client.request(method, path, **request).raise_for_status()
    except httpx.HTTPStatusError as error:
        error.add_note(f"session {client.headers['X-Session-ID']}: {error.response.text}")
        raise
