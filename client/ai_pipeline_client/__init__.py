"""Python client of the ai-pipeline image service: `Client`, or `AsyncClient` for asyncio.

from ai_pipeline_client import Client

client = Client()  # AI_PIPELINE_URL, AI_PIPELINE_API_KEY
image = client.images.generate("a red apple on a white plate", seed=7)
image.save("apple.webp", max_side=512)
apple = image.find("apple")
"""

from ai_pipeline_client.aio.image import AsyncImage, AsyncRegion
from ai_pipeline_client.async_client import AsyncClient
from ai_pipeline_client.blocking.image import Image, Region
from ai_pipeline_client.calls import Call, Filter, Parameters, Point
from ai_pipeline_client.client import Client
from ai_pipeline_client.connection import installed_version
from ai_pipeline_client.errors import (
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    ImageRefused,
    InvalidRequest,
    JobCancelled,
    LimitReached,
    NotFound,
    Overloaded,
    PipelineError,
    QuotaExceeded,
    RateLimited,
    RequestTooLarge,
    ResponseTimeout,
    ServiceFailed,
    ServiceUnavailable,
    Timeout,
    Unauthorized,
    UnexpectedAnswer,
)
from ai_pipeline_client.fields import ImageFields, RegionFields
from ai_pipeline_client.picture import Picture
from ai_pipeline_client.results import (
    About,
    Accepted,
    Analysis,
    AnswerWarning,
    ConceptMatch,
    Concepts,
    Defaults,
    Delivery,
    DeliveryRequest,
    DeliveryResponse,
    Event,
    GenerationRequest,
    ImageModel,
    Job,
    Label,
    Labels,
    Limits,
    Model,
    ModelReadiness,
    OnProgress,
    Page,
    Progress,
    Readiness,
    RegionConcepts,
    RegionLabels,
    RunLengths,
    Segment,
    Source,
    Spotlight,
    Uploaded,
    Visualization,
    Webhook,
)
from ai_pipeline_client.retries import Retries
from ai_pipeline_client.vectors import Vectors

__version__ = installed_version()

__all__ = [
    "About",
    "Accepted",
    "Analysis",
    "AnswerWarning",
    "AsyncClient",
    "AsyncImage",
    "AsyncRegion",
    "Call",
    "Client",
    "ConceptMatch",
    "Concepts",
    "Conflict",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Defaults",
    "Delivery",
    "DeliveryRequest",
    "DeliveryResponse",
    "Event",
    "Filter",
    "GenerationRequest",
    "Image",
    "ImageFields",
    "ImageModel",
    "ImageRefused",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "Label",
    "Labels",
    "LimitReached",
    "Limits",
    "Model",
    "ModelReadiness",
    "NotFound",
    "OnProgress",
    "Overloaded",
    "Page",
    "Parameters",
    "Picture",
    "PipelineError",
    "Point",
    "Progress",
    "QuotaExceeded",
    "RateLimited",
    "Readiness",
    "Region",
    "RegionConcepts",
    "RegionFields",
    "RegionLabels",
    "RequestTooLarge",
    "ResponseTimeout",
    "Retries",
    "RunLengths",
    "Segment",
    "ServiceFailed",
    "ServiceUnavailable",
    "Source",
    "Spotlight",
    "Timeout",
    "Unauthorized",
    "UnexpectedAnswer",
    "Uploaded",
    "Vectors",
    "Visualization",
    "Webhook",
    "__version__",
]
