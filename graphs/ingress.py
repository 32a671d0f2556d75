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

SWEEP_INTERVAL_S = 600.0
THREADS = 16
UNASKED_S = 10.0  # after which Serve asks for this replica's health no more: it is to end
GAUGE_INTERVAL_S = 2.0  # a gauge that is not set again and again vanishes from the exporter


@serve.deployment(
    max_ongoing_requests=256,
    # Behind the admission in the app: should it ever be too slow to refuse, the proxy does, in plain text.
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
        self._asked_at = time.monotonic()
        self._metrics = Metrics(serve_metrics)
        workers = ServeWorkers(diffusion=diffusion, clip=clip, segmenter=segmenter, renderer=renderer)
        store = open_store(settings)
        self._access_control = AccessControl(store.keys if settings.keys == "required" else None, settings.limits)
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
        # Ray's own pool has five threads for a replica this small; the store and the pictures want more.
        loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="blocking"))
        chores = (self._report_loop(), self._prune_loop(), self._close_streams_when_draining(), self._services.run())
        self._background_tasks = [loop.create_task(chore) for chore in chores]
        return build_http_app(self._services, self._access_control)

    def check_health(self) -> None:
        """Serve asks again and again, and replaces a replica that raises.

        Raises:
            RuntimeError: something that is to run as long as the replica does has ended.
        """
        self._asked_at = time.monotonic()
        for chore in self._background_tasks:
            if chore.done():
                raise RuntimeError(f"{chore.get_coro()} has ended: {chore.exception()!r}")

    async def __del__(self) -> None:
        """Serve waits for it before it ends a replica: jobs in hand are given back, streams end."""
        for chore in self._background_tasks:
            chore.cancel()
        await asyncio.gather(*self._background_tasks, return_exceptions=True)
        await asyncio.to_thread(self._services.traces.close)

    async def _report_loop(self) -> None:
        while True:
            for limiter in (self._services.generation.admission, self._services.analysis_admission):
                self._metrics.set_in_hand(limiter.what, len(limiter))
            await asyncio.sleep(GAUGE_INTERVAL_S)

    async def _close_streams_when_draining(self) -> None:
        """Send readers away who would keep Serve waiting for the end of this replica, which it doesn't announce."""
        while True:
            await asyncio.sleep(HEALTH_INTERVAL_S)
            if time.monotonic() - self._asked_at > UNASKED_S:
                self._services.feed.close_subscriptions()

    async def _prune_loop(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._services.images.prune)
            except Exception:
                logger.exception("The store could not be swept")
            await asyncio.sleep(SWEEP_INTERVAL_S)


def _running_replicas() -> Mapping[str, int]:
    """Count the running replicas of each deployment of this application."""
    deployments = serve.status().applications[serve.get_replica_context().app_name].deployments
    return {name: status.replica_states.get("RUNNING", 0) for name, status in deployments.items()}
