"""The HTTP application: routers, middleware, and error handlers."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from graphs.http.auth import AccessControl
from graphs.http.errors import add_exception_handlers
from graphs.http.middleware import RequestMiddleware
from graphs.http.openapi import DESCRIPTION, LICENSE, TAGS, TITLE, complete_openapi, operation_id
from graphs.http.routes import (
    analysis,
    events,
    generation,
    images,
    jobs,
    keys,
    legacy,
    openai,
    regions,
    system,
    webhooks,
)
from graphs.services import Services


def build_http_app(services: Services, access_control: AccessControl | None = None) -> FastAPI:
    """Make the ASGI application.

    Args:
        services: what handlers call.
        access_control: authenticates requests; none is required if left out.
    """
    app: FastAPI = FastAPIOffline(
        title=TITLE,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        license_info=LICENSE,
        generate_unique_id_function=operation_id,
        version=version("ai-pipeline"),
        redoc_url=None,
        swagger_ui_parameters={"defaultModelsExpandDepth": -1},
    )
    app.state.services = services
    app.state.visualizations = legacy.VisualizationWriter()
    for router in (
        openai.router,  # before the images: `/v1/images/generations` is no image's id
        generation.router,
        images.router,
        analysis.router,
        regions.router,
        regions.coco_router,
        jobs.router,
        events.router,
        webhooks.router,
        keys.router,
        legacy.router,
        system.router,
    ):
        app.include_router(router)
    add_exception_handlers(app)
    complete_openapi(app)
    app.add_middleware(
        RequestMiddleware,
        admission=services.settings.admission,
        admit=(access_control or AccessControl()).admit,
        emit=services.bus.publish,
        traces=services.traces,
    )
    return app
