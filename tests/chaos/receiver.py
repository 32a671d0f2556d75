"""A webhook's receiver that is there only now and then, and checks every signature."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

import httpx
import numpy as np
from standardwebhooks.webhooks import Webhook

from pipeline import images
from tests.chaos.ledger import Image, Session
from tests.ports import quiet_port

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
BLACK = np.zeros((64, 64, 3), np.uint8)
PNG = images.encode_png(BLACK)
LOOK_EVERY_S = 0.02  # whether to stop


class Receiver:
    """Expects a delivery for each change that is made through it.

    Attributes:
        session: the images that are changed.
        expected: by image, the types of events in their order.
        received: deliveries with their image and type, as they came.
    """

    def __init__(self, random: Random) -> None:
        self.session = Session("changes")
        self.expected: dict[str, list[str]] = {}
        self.received: list[tuple[str, str, str]] = []
        self._random = random
        self._port = quiet_port()

    def register(self, client: httpx.Client) -> None:
        body = {"url": f"http://127.0.0.1:{self._port}/", "types": ["image.created", "image.deleted"], "secret": SECRET}
        client.post("/v1/webhooks", json=body).raise_for_status()

    def change(self, client: httpx.Client) -> None:
        """Upload an image, and mostly delete it again."""
        headers = {"Content-Type": "image/png", "X-Session-ID": self.session.name}
        answer = client.post("/v1/images/upload", content=PNG, headers=headers).raise_for_status()
        image_id = str(answer.json()["image_id"])
        self.session.keep(image_id, Image(digest=images.digest(BLACK)))
        self.expected[image_id] = ["image.created"]
        if self._random.random() < 0.7:
            client.delete(f"/v1/images/{image_id}").raise_for_status()
            self.session.drop(image_id)
            self.expected[image_id].append("image.deleted")

    @property
    def has_everything(self) -> bool:
        own = {delivery for delivery, image_id, _ in self.received if image_id in self.expected}
        return len(own) >= sum(map(len, self.expected.values()))

    def in_order(self) -> dict[str, list[str]]:
        """By image that was changed here, the types that came, each delivery once: its id says that it comes again."""
        order: defaultdict[str, list[str]] = defaultdict(list)
        for _, image_id, kind in dict.fromkeys(self.received):
            if image_id in self.expected:
                order[image_id].append(kind)
        return dict(order)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Receive while the block runs; what isn't signed as it should be isn't taken."""
        webhook, received = Webhook(SECRET), self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                webhook.verify(body, dict(self.headers))  # raises, which the sender takes for a failure
                event = json.loads(body)
                received.append((self.headers["webhook-id"], event["data"]["image_id"], event["type"]))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            allow_reuse_address = True

        with Server(("127.0.0.1", self._port), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(LOOK_EVERY_S,))
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()
