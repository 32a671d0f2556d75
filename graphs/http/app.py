"""The HTTP routes. No logic: each asks the flow and writes down the answer."""

import asyncio
from importlib.metadata import version
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Depends, FastAPI, Header, Query, Request
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from graphs.concurrency import task_group
from graphs.flow import Flow
from graphs.generation.edits import EditRequests
from graphs.generation.requests import GenerationJobSpec
from graphs.http.auth import AccessControl
from graphs.http.context import AnyCaller, Caller, Key
from graphs.http.middleware import RequestMiddleware, answer_errors
from graphs.http.responses import JsonRoute, document_proxy_errors, error_responses, json_response
from graphs.http.routes.analysis import analysis_routes
from graphs.http.routes.edits import edit_routes
from graphs.http.routes.events import EVENT_STREAM, event_routes
from graphs.http.routes.images import image_routes
from graphs.http.routes.jobs import RESPOND_ASYNC, generated, job_routes
from graphs.http.routes.openai import openai_routes
from graphs.http.routes.openai_images import OpenAIImages
from graphs.http.routes.visualizations import Visualizations
from graphs.http.routes.webhooks import webhook_routes
from graphs.http.schemas import common as schemas
from graphs.http.schemas.common import class_scores, percent
from graphs.http.schemas.generation import GenerateBody
from graphs.http.sse import as_event, sse_response
from graphs.observability.store_metrics import render_metrics
from pipeline.records import ImageRecord
from pipeline.settings import ServiceSettings

DESCRIPTION = """
Text becomes an image, the image is classified and taken apart, and what was computed once is kept.

Calls without an `image_id` mean the last image of the caller's session: that of the `X-Session-ID` header, else of the
`session_id` cookie that `/generate` gives, else the one all callers without either share.

A service that wants API keys takes them as `Authorization: Bearer …`. What one owner makes, no other finds.
Where an owner's requests are limited, `RateLimit` tells how many are left, and a refusal (429) when to come back.
"""


def build_http_app(flow: Flow, settings: ServiceSettings, access_control: AccessControl | None = None) -> FastAPI:
    """Make the ASGI application.

    Args:
        flow: does the work.
        access_control: authenticates requests; none is required if left out.
    """
    edits = EditRequests(flow)
    models = (flow.profile.name, *settings.model_aliases)
    app: FastAPI = FastAPIOffline(
        title="ai-pipeline",
        description=DESCRIPTION,
        version=version("ai-pipeline"),
        redoc_url=None,
        swagger_ui_parameters={"defaultModelsExpandDepth": -1},
    )
    app.include_router(_legacy_routes(flow))
    app.include_router(
        openai_routes(flow, OpenAIImages(flow, edits, models, settings.public_url), models, f"{models[0]}-clip")
    )
    app.include_router(image_routes(flow))
    app.include_router(edit_routes(flow, edits))
    app.include_router(analysis_routes(flow))
    app.include_router(job_routes(flow))
    app.include_router(event_routes(flow))
    app.include_router(webhook_routes(flow))
    app.include_router(_service_routes(flow, settings))
    answer_errors(app)
    document_proxy_errors(app)
    app.add_middleware(
        RequestMiddleware,
        admission=settings.admission,
        enter=(access_control or AccessControl()).admit,
        emit=flow.emit,
        traces=flow.traces,
    )
    return app


_USUAL_PROBLEMS = error_responses(400, 401, 413, 422, 429, 500, 503, 504)


def _legacy_routes(flow: Flow) -> APIRouter:
    router = APIRouter(route_class=JsonRoute, tags=["legacy"])
    visualizations = Visualizations()

    ImageId = Annotated[UUID | None, Query(description="Instead of the session's last image.")]

    async def find(caller: Caller, body: schemas.ImageChoice | None, image_id: UUID | None) -> ImageRecord:
        chosen = (body and body.image_id) or image_id
        return await flow.images.find(str(chosen) if chosen else None, owner=caller.owner, session=caller.session)

    async def chosen_image(
        caller: AnyCaller, body: Annotated[schemas.ImageChoice | None, Body()] = None, image_id: ImageId = None
    ) -> ImageRecord:
        return await find(caller, body, image_id)

    ChosenImage = Annotated[ImageRecord, Depends(chosen_image)]

    @router.post(
        "/generate",
        response_model=schemas.Generated,
        responses=_USUAL_PROBLEMS
        | error_responses(409)
        | {
            200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}},
            202: {"model": schemas.JobStatus, "description": "Accepted, with `Prefer: respond-async`"},
        },
    )
    async def generate(
        body: GenerateBody,
        request: Request,
        caller: AnyCaller,
        key: Key,
        prefer: Annotated[str, Header(description=f"`{RESPOND_ASYNC}` answers at once, with the job.")] = "",
    ) -> Response:
        """Make an image of a text and say what it shows.

        With `Accept: text/event-stream` the events on the way come first: `generation.stepped` carries a `preview`
        (base64 PNG). The last one is `generation.finished` with the answer, or `error` with the problem.
        With `Prefer: respond-async` the answer is the job that makes it, at once; it goes on whatever becomes of the
        client or of the server. Without, a client that hangs up stops it, unless it sent an `Idempotency-Key`.
        """
        order = GenerationJobSpec(
            request=body.resolve(flow.profile.diffusion),
            owner=caller.owner,
            sessions=caller.sessions,
            request_id=caller.request_id,
            key=key,
        )
        if RESPOND_ASYNC in prefer:
            (submitted,) = await flow.generations.submit([order])
            job = schemas.JobStatus.of(submitted, flow.job_warnings(submitted))
            accepted = json_response(job, status_code=202)
            accepted.headers.update({"Location": job.url, "Preference-Applied": RESPOND_ASYNC})
            caller.set_session_cookie(accepted)
            return accepted

        if EVENT_STREAM in request.headers.get("accept", ""):
            made = await sse_response(request.scope, generated(flow.generations.generating(order)), as_event)
        else:
            made = json_response(schemas.Generated.of(await flow.generations.generate(order)))
        caller.set_session_cookie(made)
        return made

    @router.post("/analyze", response_model=schemas.Analysis, responses=_USUAL_PROBLEMS | error_responses(404))
    async def analyze(image: ChosenImage, caller: AnyCaller) -> Response:
        """Say what an image shows, and where."""
        async with task_group() as group:
            describing = group.create_task(flow.describe(image, caller.request_id))
            segmenting = group.create_task(flow.segment(image, caller.request_id))
        description, segmentation = describing.result(), segmenting.result()
        return json_response(
            schemas.Analysis(
                request_id=caller.request_id,
                clip_scores=class_scores(description),
                segmentation=schemas.SegmentationSummary(
                    masks=[f"region_{i}" for i in range(len(segmentation))], polygons=list(segmentation.polygons)
                ),
                image_id=image.image_id,
                warnings=list(flow.warnings(image, description)),
            )
        )

    @router.post("/probe", response_model=schemas.ProbeAnswer, responses=_USUAL_PROBLEMS | error_responses(404))
    async def probe(body: schemas.ProbeBody, caller: AnyCaller, image_id: ImageId = None) -> Response:
        """Say how well a text matches an image and each of its regions."""
        image = await find(caller, body, image_id)
        found = await flow.questions.probe(image, body.prompt, caller.request_id)
        matches = zip(found.region_labels, found.region_matches, strict=True)
        return json_response(
            schemas.ProbeAnswer(
                request_id=caller.request_id,
                probe_text=body.prompt,
                global_match_score=percent(found.image_match),
                regional_matches=[
                    schemas.RegionMatch(region_id=i, class_label=label, similarity_to_prompt=percent(match))
                    for i, (label, match) in enumerate(matches)
                ],
                image_id=image.image_id,
            )
        )

    @router.post("/segment", response_model=schemas.SegmentAnswer, responses=_USUAL_PROBLEMS | error_responses(404))
    async def segment(image: ChosenImage, caller: AnyCaller) -> Response:
        """Take an image apart and classify each region on its own."""
        async with task_group() as group:
            segmenting = group.create_task(flow.segment(image, caller.request_id))
            describing_regions = group.create_task(flow.describe_regions(image, caller.request_id))
            describing = group.create_task(flow.describe(image, caller.request_id))
        return json_response(
            schemas.SegmentAnswer(
                request_id=caller.request_id,
                segmented_regions=schemas.segmented_regions(segmenting.result(), describing_regions.result()),
                image_id=image.image_id,
                warnings=list(flow.warnings(image, describing.result())),
            )
        )

    @router.post("/visualize", response_model=schemas.Visualization, responses=_USUAL_PROBLEMS | error_responses(404))
    async def visualize(image: ChosenImage, caller: AnyCaller) -> Response:
        """Draw an image's regions: all outlines in one picture, and a spotlight on each."""
        found = await flow.analyze(image, caller.request_id)
        body = await visualizations.write(
            (found.segmentation, found.regions, found.drawings),
            request_id=caller.request_id,
            image_id=image.image_id,
        )
        return Response(body, media_type="application/json")

    return router


def _service_routes(flow: Flow, settings: ServiceSettings) -> APIRouter:
    router = APIRouter(tags=["service"])

    @router.get("/", response_model=schemas.Online)
    async def online() -> Response:
        """Say that the service is there, and what it computes on."""
        statuses = await flow.models.statuses()
        wanted = "cpu" if settings.accelerator == "cpu" else "cuda"
        return json_response(
            schemas.Online(
                status="online",
                device=statuses["Diffusion"].device or wanted,
                profile=flow.profile.name,
                defaults=flow.profile.diffusion.defaults,
                limits=flow.profile.diffusion.limits,
            )
        )

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Tell Prometheus what is stored. What happens is told by Ray's exporter, on a port of its own."""
        body = await asyncio.to_thread(render_metrics, flow.images.facts, settings.data_path)
        return Response(body, media_type=CONTENT_TYPE_LATEST)

    @router.get("/healthz", response_model=schemas.Health)
    async def healthz() -> Response:
        """Answer, which proves that this process is alive."""
        return json_response(schemas.Health(status="alive"))

    @router.get("/readyz", response_model=schemas.Readiness, responses={503: {"model": schemas.Readiness}})
    async def readyz() -> Response:
        """Say whether every model is loaded; which is not, and why."""
        statuses = await flow.models.statuses()
        models: dict[str, schemas.ModelReadiness] = {
            name: schemas.ModelReadiness(ready=status.ready, device=status.device, reason=status.reason)
            for name, status in statuses.items()
        }
        ready = all(model.ready for model in models.values())
        return json_response(schemas.Readiness(ready=ready, models=models), status_code=200 if ready else 503)

    return router
