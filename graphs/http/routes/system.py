"""Liveness, readiness, and metrics of what is stored."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from graphs.http.context import ServicesDep
from graphs.http.responses import json_response
from graphs.http.schemas import common as schemas
from graphs.observability.store_metrics import render_metrics

router = APIRouter(tags=["service"])


@router.get("/", response_model=schemas.Online)
async def get_service(services: ServicesDep) -> Response:
    """Return the device, the profile, and its defaults and limits."""
    statuses = await services.models.statuses()
    wanted = "cpu" if services.settings.accelerator == "cpu" else "cuda"
    return json_response(
        schemas.Online(
            status="online",
            device=statuses["Diffusion"].device or wanted,
            profile=services.profile.name,
            defaults=services.profile.diffusion.defaults,
            limits=services.profile.diffusion.limits,
        )
    )


@router.get("/metrics", response_class=PlainTextResponse)
async def get_metrics(services: ServicesDep) -> Response:
    """Metrics of what is stored, for Prometheus. Ray's exporter, on a port of its own, has all others."""
    body = await asyncio.to_thread(render_metrics, services.images.statistics, services.settings.data_path)
    return Response(body, media_type=CONTENT_TYPE_LATEST)


@router.get("/healthz", response_model=schemas.Health)
async def get_liveness() -> Response:
    """Liveness: this process responds."""
    return json_response(schemas.Health(status="alive"))


@router.get("/readyz", response_model=schemas.Readiness, responses={503: {"model": schemas.Readiness}})
async def get_readiness(services: ServicesDep) -> Response:
    """Readiness: whether every model is loaded; which is not, and why."""
    statuses = await services.models.statuses()
    models: dict[str, schemas.ModelReadiness] = {
        name: schemas.ModelReadiness(ready=status.ready, device=status.device, reason=status.reason)
        for name, status in statuses.items()
    }
    ready = all(model.ready for model in models.values())
    return json_response(schemas.Readiness(ready=ready, models=models), status_code=200 if ready else 503)
