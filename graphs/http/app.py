"""The HTTP application: routers, middleware, and error handlers."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from graphs.http.auth import AccessControl
from graphs.http.errors import add_exception_handlers, document_proxy_errors
from graphs.http.middleware import RequestMiddleware
from graphs.http.routes import analysis, events, images, jobs, legacy, openai, system, webhooks
from graphs.services import Services

DESCRIPTION = """
Generate an image from a text, classify it and segment it; every result is stored and reused.

Calls without an `image_id` mean the last image of the caller's session: that of the `X-Session-ID` header, else of the
`session_id` cookie that `/generate` sets, else the one all callers without either share.

A service that requires API keys takes them as `Authorization: Bearer …`; owners can't access each other's images.
Where an owner has a rate limit, `RateLimit` headers have the remaining requests, and a 429 has `Retry-After`.
"""


def build_http_app(services: Services, access_control: AccessControl | None = None) -> FastAPI:
    """Make the ASGI application.

    Args:
        services: what handlers call.
        access_control: authenticates requests; none is required if left out.
    """
    app: FastAPI = FastAPIOffline(
        title="ai-pipeline",
        description=DESCRIPTION,
        version=version("ai-pipeline"),
        redoc_url=None,
        swagger_ui_parameters={"defaultModelsExpandDepth": -1},
    )
    app.state.services = services
    app.state.visualizations = legacy.VisualizationWriter()
    for router in (
        legacy.router,
        openai.router,
        images.router,
        images.edits_router,
        analysis.router,
        jobs.router,
        events.router,
        webhooks.router,
        system.router,
    ):
        app.include_router(router)
    add_exception_handlers(app)
    document_proxy_errors(app)
    app.add_middleware(
        RequestMiddleware,
        admission=services.settings.admission,
        admit=(access_control or AccessControl()).admit,
        emit=services.bus.publish,
        traces=services.traces,
    )
    return app
