"""Python client of the image service: `Client`, or `AsyncClient` for asyncio. Depends only on httpx and httpx-sse.

from ai_pipeline_client import Client

with Client("http://127.0.0.1:8000") as client:
    (image,) = client.generate("red apple in white plate", on_progress=print)
    apples = client.find(image.image_id, "apple")
"""

from ai_pipeline_client.async_client import AsyncClient
from ai_pipeline_client.calls import Call, Filter, Parameters, Point
from ai_pipeline_client.client import Client
from ai_pipeline_client.errors import (
    Conflict,
    ConnectionFailed,
    InvalidRequest,
    JobCancelled,
    NotFound,
    Overloaded,
    PipelineError,
    RateLimited,
    ServiceFailed,
    ServiceUnavailable,
    Unauthorized,
    UnexpectedAnswer,
)
from ai_pipeline_client.results import (
    About,
    Accepted,
    Analysis,
    AnswerWarning,
    ConceptMatch,
    Concepts,
    Defaults,
    Event,
    GenerationRequest,
    Image,
    Job,
    Label,
    Limits,
    OnProgress,
    Page,
    Progress,
    RegionConcepts,
    RegionLabels,
    RunLengths,
    Segment,
    Source,
    Spotlight,
    Uploaded,
    Visualization,
)
from ai_pipeline_client.retries import Retries

__all__ = [
    "About",
    "Accepted",
    "Analysis",
    "AnswerWarning",
    "AsyncClient",
    "Call",
    "Client",
    "ConceptMatch",
    "Concepts",
    "Conflict",
    "ConnectionFailed",
    "Defaults",
    "Event",
    "Filter",
    "GenerationRequest",
    "Image",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "Label",
    "Limits",
    "NotFound",
    "OnProgress",
    "Overloaded",
    "Page",
    "Parameters",
    "PipelineError",
    "Point",
    "Progress",
    "RateLimited",
    "RegionConcepts",
    "RegionLabels",
    "Retries",
    "RunLengths",
    "Segment",
    "ServiceFailed",
    "ServiceUnavailable",
    "Source",
    "Spotlight",
    "Unauthorized",
    "UnexpectedAnswer",
    "Uploaded",
    "Visualization",
]
