"""Metrics of facts: what the store knows, read when somebody scrapes `/metrics`.

Ray's exporter tells what happened in each process; this tells what there is, the same from every replica.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pipeline.store import StoreFacts


class FactCollector(Collector):
    """Turns the store's counts into gauges.

    Args:
        facts: counts them; blocks.
    """

    def __init__(self, facts: Callable[[], StoreFacts]) -> None:
        self._facts = facts

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Count once and yield a gauge for each kind of thing."""
        facts = self._facts()
        for name, help_, value in (
            ("images", "Images stored.", facts.images),
            ("image_bytes", "Bytes of the stored images.", facts.image_bytes),
            ("sessions", "Sessions with an image.", facts.sessions),
            ("events", "Events in the log.", facts.events),
            ("newest_image_age_seconds", "Since the newest image was made.", facts.newest_image_age_s),
        ):
            if value is not None:
                yield GaugeMetricFamily(f"pipeline_store_{name}", help_, value)


def exposition(facts: Callable[[], StoreFacts]) -> bytes:
    """Write the metrics down as Prometheus reads them; blocks."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FactCollector(facts))
    return generate_latest(registry)
