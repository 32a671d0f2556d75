"""The HTTP routes. No logic: each asks the flow and writes down the answer."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Body, Depends, FastAPI, Query, Request
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from graphs import schemas
from graphs.answers import answer, problems
from graphs.caller import Caller, find_caller
from graphs.edge import Edge, answer_errors
from graphs.event_stream import stream
from graphs.fact_metrics import exposition
from graphs.flow import Flow
from graphs.history_routes import history_routes
from graphs.schemas import class_scores, percent
from graphs.together import together
from graphs.visualizations import Visualizations, base64_text
from pipeline.records import ImageRecord
from pipeline.settings import Admission

EVENT_STREAM = "text/event-stream"

DESCRIPTION = """
Text becomes an image, the image is classified and taken apart, and what was computed once is kept.

Calls without an `image_id` mean the last image of the caller's session: that of the `X-Session-ID` header, else of the
`session_id` cookie that `/generate` gives, else the one all callers without either share.
"""


class _OrjsonRequest(Request):
    async def json(self) -> Any:
        return orjson.loads(await self.body())


class _JsonRoute(APIRoute):
    """Reads bodies with orjson: NaN, invalid UTF-8 and endless nesting are errors, not surprises."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_orjson(request: Request) -> Response:
            return await handle(_OrjsonRequest(request.scope, request.receive))

        return handle_orjson


def build_http_app(flow: Flow, admission: Admission, device: str) -> FastAPI:
    """Make the ASGI application.

    Args:
        flow: does the work.
        admission: bounds of bodies and time.
        device: what `GET /` says as long as no model has answered.
    """
    app: FastAPI = FastAPIOffline(
        title="ai-pipeline",
        description=DESCRIPTION,
        version="0.1.0",
        redoc_url=None,
        swagger_ui_parameters={"defaultModelsExpandDepth": -1},
    )
    app.include_router(_origin_routes(flow))
    app.include_router(history_routes(flow))
    app.include_router(_service_routes(flow, device))
    answer_errors(app)
    app.add_middleware(Edge, admission=admission, emit=flow.emit)
    return app


_USUAL_PROBLEMS = problems(400, 413, 422, 429, 500, 503, 504)


def _origin_routes(flow: Flow) -> APIRouter:
    router = APIRouter(route_class=_JsonRoute, tags=["images"])
    visualizations = Visualizations()

    AnyCaller = Annotated[Caller, Depends(find_caller)]
    ImageId = Annotated[UUID | None, Query(description="Instead of the session's last image.")]

    async def find(caller: Caller, body: schemas.ImageChoice | None, image_id: UUID | None) -> ImageRecord:
        chosen = (body and body.image_id) or image_id
        return await flow.gallery.find(str(chosen) if chosen else None, owner=caller.owner, session=caller.session)

    async def chosen_image(
        caller: AnyCaller, body: Annotated[schemas.ImageChoice | None, Body()] = None, image_id: ImageId = None
    ) -> ImageRecord:
        return await find(caller, body, image_id)

    ChosenImage = Annotated[ImageRecord, Depends(chosen_image)]

    @router.post(
        "/generate",
        response_model=schemas.Generated,
        responses=_USUAL_PROBLEMS | {200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}}},
    )
    async def generate(body: schemas.GenerateBody, request: Request, caller: AnyCaller) -> Response:
        """Make an image of a text and say what it shows.

        With `Accept: text/event-stream` the events on the way come first: `generation.stepped` carries a `preview`
        (base64 PNG). The last one is `generation.finished` with the answer, or `error` with the problem.
        """

        async def make() -> Response:
            made = await flow.generate(
                body.resolve(flow.profile.diffusion),
                owner=caller.owner,
                sessions=caller.sessions,
                request_id=caller.request_id,
            )
            return answer(
                schemas.Generated.of(
                    made.record, made.request, made.description, base64_text(made.png), caller.request_id
                )
            )

        if EVENT_STREAM in request.headers.get("accept", ""):
            generated = await stream(request.scope, flow.followers.follow(caller.request_id, make()))
        else:
            generated = await make()
        caller.greet(generated)
        return generated

    @router.post("/analyze", response_model=schemas.Analysis, responses=_USUAL_PROBLEMS | problems(404))
    async def analyze(image: ChosenImage, caller: AnyCaller) -> Response:
        """Say what an image shows, and where."""
        async with together() as group:
            describing = group.create_task(flow.describe(image, caller.request_id))
            segmenting = group.create_task(flow.segment(image, caller.request_id))
        description, segmentation = describing.result(), segmenting.result()
        return answer(
            schemas.Analysis(
                request_id=caller.request_id,
                clip_scores=class_scores(description),
                segmentation=schemas.SegmentationSummary(
                    masks=[f"region_{i}" for i in range(len(segmentation))], polygons=list(segmentation.polygons)
                ),
                image_id=image.image_id,
            )
        )

    @router.post("/probe", response_model=schemas.ProbeAnswer, responses=_USUAL_PROBLEMS | problems(404))
    async def probe(body: schemas.ProbeBody, caller: AnyCaller, image_id: ImageId = None) -> Response:
        """Say how well a text matches an image and each of its regions."""
        image = await find(caller, body, image_id)
        found = await flow.probe(image, body.prompt, caller.request_id)
        matches = zip(found.region_labels, found.region_matches, strict=True)
        return answer(
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

    @router.post("/segment", response_model=schemas.SegmentAnswer, responses=_USUAL_PROBLEMS | problems(404))
    async def segment(image: ChosenImage, caller: AnyCaller) -> Response:
        """Take an image apart and classify each region on its own."""
        async with together() as group:
            segmenting = group.create_task(flow.segment(image, caller.request_id))
            describing = group.create_task(flow.describe_regions(image, caller.request_id))
        regions = schemas.segmented_regions(segmenting.result(), describing.result())
        return answer(
            schemas.SegmentAnswer(request_id=caller.request_id, segmented_regions=regions, image_id=image.image_id)
        )

    @router.post("/visualize", response_model=schemas.Visualization, responses=_USUAL_PROBLEMS | problems(404))
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


def _service_routes(flow: Flow, device: str) -> APIRouter:
    router = APIRouter(tags=["service"])

    @router.get("/", response_model=schemas.Online)
    async def online() -> Response:
        """Say that the service is there, and what it computes on."""
        statuses = await flow.models.statuses()
        return answer(
            schemas.Online(
                status="online",
                device=statuses["Diffusion"].device or device,
                profile=flow.profile.name,
                defaults=flow.profile.diffusion.defaults,
                limits=flow.profile.diffusion.limits,
            )
        )

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Tell Prometheus what is stored. What happens is told by Ray's exporter, on a port of its own."""
        body = await asyncio.to_thread(exposition, flow.gallery.facts)
        return Response(body, media_type=CONTENT_TYPE_LATEST)

    @router.get("/healthz", response_model=schemas.Health)
    async def healthz() -> Response:
        """Answer, which proves that this process is alive."""
        return answer(schemas.Health(status="alive"))

    @router.get("/readyz", response_model=schemas.Readiness, responses={503: {"model": schemas.Readiness}})
    async def readyz() -> Response:
        """Say whether every model is loaded; which is not, and why."""
        statuses = await flow.models.statuses()
        models: dict[str, schemas.ModelReadiness] = {
            name: schemas.ModelReadiness(ready=status.ready, device=status.device, reason=status.reason)
            for name, status in statuses.items()
        }
        ready = all(model.ready for model in models.values())
        return answer(schemas.Readiness(ready=ready, models=models), status_code=200 if ready else 503)

    return router
