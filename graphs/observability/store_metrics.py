"""Metrics of the store, read at each scrape of `/metrics`.

Ray's exporter counts what happens in each process; these are the same from every replica.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeline.store import StoreStatistics


class StoreMetricsCollector(Collector):
    """Turns the store's counts into gauges.

    Args:
        facts: counts them; blocks.
        folder: with this service's data, for the metrics of its disk.
    """

    def __init__(self, facts: Callable[[], StoreStatistics], folder: Path) -> None:
        self._facts = facts
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Count once and yield a family of metrics for each kind of thing."""
        facts, disk = self._facts(), shutil.disk_usage(self._folder)
        for name, help_, value in (
            ("store_images", "Images stored.", facts.images),
            ("store_image_bytes", "Bytes of the stored images.", facts.image_bytes),
            ("store_sessions", "Sessions with an image.", facts.sessions),
            ("store_events", "Events in the log.", facts.events),
            ("store_newest_image_age_seconds", "Since the newest image was made.", facts.newest_image_age_s),
            ("store_oldest_delivery_age_seconds", "What a webhook waits for longest.", facts.oldest_delivery_age_s),
            ("disk_free_bytes", "Free where the data folder lies.", disk.free),
            ("disk_size_bytes", "Of the disk where the data folder lies.", disk.total),
        ):
            if value is not None:
                yield GaugeMetricFamily(f"pipeline_{name}", help_, value)
        yield CounterMetricFamily("pipeline_store_events_logged", "Events ever logged.", facts.newest_event)
        for name, help_, by_state in (
            ("jobs", "Jobs kept.", facts.jobs),
            ("oldest_job_age_seconds", "Since the oldest job was accepted that hasn't ended.", facts.oldest_job_age_s),
            ("deliveries", "Deliveries to webhooks kept.", facts.deliveries),
        ):
            family = GaugeMetricFamily(f"pipeline_store_{name}", help_, labels=["state"])
            for state, value in by_state.items():
                family.add_metric([state], value)
            yield family


def render_metrics(facts: Callable[[], StoreStatistics], folder: Path) -> bytes:
    """Write the metrics down as Prometheus reads them; blocks."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StoreMetricsCollector(facts, folder))
    return generate_latest(registry)
