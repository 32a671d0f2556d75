"""Changes whose events a webhook's receiver must get, though it is up only at times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import httpx
import numpy as np

from pipeline.imaging import codecs as images
from testing.ports import quiet_port
from testing.webhook_receiver import Receiver
from tests.chaos.ledger import Image, Session

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
BLACK = np.zeros((64, 64, 3), np.uint8)
PNG = images.encode_png(BLACK)


class Changes:
    """Makes changes, and compares them with the events that were received.

    Attributes:
        session: the images that are changed.
        expected: by image, the types of events in their order.
        receiver: keeps all messages; signatures are verified when they are read.
    """

    def __init__(self, random: Random) -> None:
        self.session = Session("changes")
        self.expected: dict[str, list[str]] = {}
        self.receiver = Receiver(port=quiet_port())
        self._random = random

    def register(self, client: httpx.Client) -> None:
        body = {"url": self.receiver.url, "types": ["image.created", "image.deleted"], "secret": SECRET}
        client.post("/v1/webhooks", json=body).raise_for_status()

    def change(self, client: httpx.Client) -> None:
        """Upload an image, and usually delete it again."""
        headers = {"Content-Type": "image/png", "X-Session-ID": self.session.name}
        answer = client.post("/v1/images/upload", content=PNG, headers=headers).raise_for_status()
        image_id = str(answer.json()["image_id"])
        self.session.keep(image_id, Image(digest=images.digest(BLACK)))
        self.expected[image_id] = ["image.created"]
        if self._random.random() < 0.7:
            client.delete(f"/v1/images/{image_id}").raise_for_status()
            self.session.drop(image_id)
            self.expected[image_id].append("image.deleted")

    @contextmanager
    def received(self) -> Iterator[None]:
        """Receive while the block runs."""
        self.receiver.up()
        try:
            yield
        finally:
            self.receiver.down()

    def in_order(self) -> dict[str, list[str]]:
        """Return the types of the received events by image that was changed here, without repeated deliveries."""
        order: defaultdict[str, list[str]] = defaultdict(list)
        for message in self.receiver.first_messages():
            event = message.verified(SECRET)
            if event["subject"] in self.expected:
                order[event["subject"]].append(event["type"])
        return dict(order)

    @property
    def num_missing(self) -> int:
        """The number of deliveries not received yet."""
        return sum(map(len, self.expected.values())) - sum(map(len, self.in_order().values()))
