"""The ingress deployment: connects the services to Ray, serves the HTTP application, and owns background tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve import metrics as serve_metrics
from ray.serve.handle import DeploymentHandle

from deployments import HEALTH_INTERVAL_S
from deployments.event_hub import RemoteHub
from deployments.segmentation_cache import RemoteCache
from graphs.events.bus import EventBus
from graphs.http.app import build_http_app
from graphs.http.auth import AccessControl
from graphs.observability.logs import configure_logging, log_event, logger
from graphs.observability.metrics import Metrics
from graphs.services import build_services
from graphs.workers.handles import ServeWorkers
from graphs.workers.model_status import ModelStatusTracker
from pipeline.settings import ServiceSettings
from pipeline.store import open_store
from pipeline.traces import open_traces

THREADS = 16
HEALTH_CHECK_SILENCE_S = 10.0  # without a health check Serve is draining this replica
GAUGE_INTERVAL_S = 2.0  # a gauge that isn't set regularly vanishes from the exporter


@serve.deployment(
    max_ongoing_requests=256,
    # Above the admission limits of the app: the proxy refuses, in plain text, only what the app is too slow to refuse.
    max_queued_requests=256,
    backpressure_config={"status_code": 429, "retry_after_s": 2},
    graceful_shutdown_wait_loop_s=0.2,
    health_check_period_s=HEALTH_INTERVAL_S,
    ray_actor_options={"num_cpus": 0.1},
)
@serve.ingress()
class Ingress:
    """One of several equal replicas."""

    def __init__(
        self,
        settings: ServiceSettings,
        diffusion: DeploymentHandle[Any],
        clip: DeploymentHandle[Any],
        segmenter: DeploymentHandle[Any],
        renderer: DeploymentHandle[Any],
    ) -> None:
        configure_logging(settings.data_path, settings.log_format)
        self._background_tasks: list[asyncio.Task[None]] = []
        self._health_checked_at = time.monotonic()
        self._metrics = Metrics(serve_metrics)
        workers = ServeWorkers(diffusion=diffusion, clip=clip, segmenter=segmenter, renderer=renderer)
        store = open_store(settings)
        self._access_control = AccessControl(store.keys if settings.keys == "required" else None, settings.limits)
        self._sweep_interval_s = settings.storage.retention.sweep_interval_s
        self._services = build_services(
            settings=settings,
            profile=settings.load_profile(),
            workers=workers,
            models=ModelStatusTracker(workers, _running_replicas),
            cache=RemoteCache(settings.cache),
            store=store,
            hub=RemoteHub(),
            put=ray.put,
            bus=EventBus(log_event, self._metrics.count),
            traces=open_traces(settings.traces, "Ingress"),
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        loop = asyncio.get_running_loop()
        # Ray's own pool has five threads for a replica this small; the store and the codecs need more.
        loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="blocking"))
        loops = (self._report_loop(), self._prune_loop(), self._close_streams_when_draining(), self._services.run())
        self._background_tasks = [loop.create_task(background) for background in loops]
        return build_http_app(self._services, self._access_control)

    def check_health(self) -> None:
        """Called by Serve every few seconds; a replica that raises is replaced.

        Raises:
            RuntimeError: a background task has ended.
        """
        self._health_checked_at = time.monotonic()
        for task in self._background_tasks:
            if task.done():
                raise RuntimeError(f"{task.get_coro()} has ended: {task.exception()!r}")

    async def __del__(self) -> None:
        """Requeue jobs in flight and end streams; Serve waits for it before it stops a replica."""
        for task in self._background_tasks:
            task.cancel()
        await asyncio.gather(*self._background_tasks, return_exceptions=True)
        await asyncio.to_thread(self._services.traces.close)

    async def _report_loop(self) -> None:
        while True:
            for limiter in (self._services.generation.admission, self._services.analysis_admission):
                self._metrics.set_in_flight(limiter.what, len(limiter))
            await asyncio.sleep(GAUGE_INTERVAL_S)

    async def _close_streams_when_draining(self) -> None:
        """End event streams once Serve drains this replica, which it doesn't announce; they would keep it waiting."""
        while True:
            await asyncio.sleep(HEALTH_INTERVAL_S)
            if time.monotonic() - self._health_checked_at > HEALTH_CHECK_SILENCE_S:
                self._services.feed.close_subscriptions()

    async def _prune_loop(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._services.images.prune)
            except Exception:
                logger.exception("Pruning the store failed")
            await asyncio.sleep(self._sweep_interval_s)


def _running_replicas() -> Mapping[str, int]:
    """Count the running replicas of each deployment of this application."""
    deployments = serve.status().applications[serve.get_replica_context().app_name].deployments
    return {name: status.replica_states.get("RUNNING", 0) for name, status in deployments.items()}
