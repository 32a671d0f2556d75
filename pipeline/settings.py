"""All settings: a `Profile` defines what is computed, `ServiceSettings` where it runs.

A profile is a file in `configs/`; service settings are the `args` of `serve_config.yaml`. Unknown keys are rejected.
Engines never read settings: parameters are resolved at the ingress and travel with each call.
"""

from __future__ import annotations

import os
import sysconfig
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
import yaml
from pydantic import BaseModel, ConfigDict, Field

from pipeline.cifar100 import CIFAR100
from pipeline.records import Scheduler

_CODE = Path(__file__).resolve().parent.parent
_IS_CHECKOUT = (_CODE / "pyproject.toml").is_file()

PROJECT_ROOT = _CODE if _IS_CHECKOUT else Path(sysconfig.get_path("data")) / "share" / "ai-pipeline"
"""Contains `configs/`, `models/` and `serve_config.yaml`: the checkout, or the data files of an installed wheel."""
DATA_ROOT = PROJECT_ROOT if _IS_CHECKOUT else platformdirs.user_data_path("ai-pipeline")
"""The base of relative paths for written data."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
DType = Literal["float32", "float16", "bfloat16"]
Accelerator = Literal["auto", "cpu", "cuda"]

RAY_NAMESPACE = "ai-pipeline"  # of the driver and of every named actor
DIFFUSION_REQUESTS = 16  # in flight of a diffusion replica
RENDERER_THREADS = 8


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelSource(_Settings):
    """Where weights come from."""

    source: str
    """A folder or file (starts with `.` or `/`; `.` is the project's root), or a name known to the model's library."""
    revision: str | None = None
    """Commit or tag on the hub."""
    sha256: str | None = None
    """Required digest of the weights; other content is rejected."""
    dtype: DType = "float32"

    @property
    def local_path(self) -> Path | None:
        """The folder or file on this machine, or None for a name on a hub."""
        if not self.source.startswith((".", "/")):
            return None
        return (PROJECT_ROOT / self.source).resolve()


class GenerationDefaults(_Settings):
    """What a request gets where it says nothing."""

    width: int
    """In pixels."""
    height: int
    """In pixels."""
    steps: int
    """Denoising steps."""
    guidance: float
    """Classifier-free guidance scale; 1 switches guidance off."""
    scheduler: Scheduler
    """Noise schedule and solver."""


class GenerationLimits(_Settings):
    """What a request may ask for."""

    min_side: int
    """Least width and height in pixels."""
    max_side: int
    """Greatest width and height in pixels."""
    side_multiple: int
    """Width and height are multiples of it, in pixels."""
    max_steps: int = 100
    """Denoising steps at most."""
    max_guidance: float = 30.0
    """Guidance scale at most."""


class DiffusionSettings(_Settings):
    model: ModelSource
    safety_checker: bool = False
    batch_rows: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Batch buckets of the denoiser, in rows, ascending; an image with guidance takes two rows. An image is
    bit-identical within one batch size, so a single size makes it independent of the load, at the cost of a full batch
    for one image."""
    decoded_previews: int = 0
    """Number of decoded previews of an image whose client wants previews, for fast autoencoders; 0 sends a linear
    approximation at every step instead."""
    progress_every_s: Annotated[float, Field(ge=0)] = 0.5
    """Minimum time between progress reports of an image without previews; with previews every step is reported."""
    compiled: bool = False
    """Compile the denoiser for each batch size, with CUDA graphs on a GPU: minutes at the start, less time for each
    step. Applies to the default image size only; others are denoised uncompiled."""
    defaults: GenerationDefaults
    limits: GenerationLimits
    vocabulary: tuple[str, ...] | None = None
    """All words the model knows: a prompt with others gets a warning. None for a model with an open vocabulary, without
    warnings."""


class ZeroShotSettings(_Settings):
    """Zero-shot classification by CLIP."""

    labels: Literal["cifar100"] | tuple[str, ...] = "cifar100"
    template: str = "a photo of a {label}"
    top_k: int = 5
    logit_scale: float = 100.0
    unknown: str | None = None
    """A text, such as `a photo of something unknown`, for pictures that show none of the labels: it is part of the
    softmax but not listed; a share above `max_unknown` adds a warning to the response."""
    max_unknown: Fraction = 0.5
    background: str | None = None
    """The label of backgrounds; its share of a whole image counts as unknown as well."""

    @property
    def names(self) -> tuple[str, ...]:
        """The labels."""
        return CIFAR100 if self.labels == "cifar100" else self.labels


class ProbeCalibration(_Settings):
    """The cosines that mean "nothing alike" and "the same" for this CLIP model."""

    floor: float = 0.22
    ceiling: float = 0.33
    neutral: tuple[str, ...] = ("a photo", "a picture of something", "a background")
    """Texts that fit any picture: a picture closer to them than to a concept shows none of the concepts."""


class TextSearchSettings(_Settings):
    """Thresholds for the regions that a text names, as cosines of this CLIP model."""

    template: str = "{text}"
    """Template of the encoded text; `{text}` is the requested one."""
    min_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.25
    """If neither the picture nor a region reaches it, the text names nothing in the picture."""
    logit_scale: Annotated[float, Field(gt=0)] = 100.0
    """Steepness of the scores around that bound, where they are 0.5."""


class ClipSettings(_Settings):
    model: ModelSource
    pretrained: str | None = None
    """open_clip's tag of the weights, if `model.source` names an architecture."""
    labelling: ZeroShotSettings = ZeroShotSettings()
    probing: ProbeCalibration = ProbeCalibration()
    finding: TextSearchSettings = TextSearchSettings()


class AutomaticMaskSettings(_Settings):
    """Segmentation of everything: a grid of points, masks above the thresholds, no duplicates."""

    image_size: int = 1024  # pixels; the longer side is scaled to it
    points_per_side: int = 32
    points_per_batch: int = 64
    min_predicted_iou: Fraction = 0.95
    min_stability: Fraction = 0.95
    stability_offset: float = 0.95  # logits
    max_box_iou: Fraction = 0.7
    max_mask_iou: Fraction = 1.0
    """Of two regions that overlap by more, the one of lower predicted IoU is dropped; 1 compares boxes only."""
    recall: Fraction = 1.0
    """Minimum share of the regions that the whole grid finds; below 1, points within regions already found are skipped
    as far as it allows."""
    min_area: Fraction = 0.0
    """Share of the image's pixels; smaller regions are dropped as specks."""


class Sam2Settings(_Settings):
    model: ModelSource
    everything: AutomaticMaskSettings = AutomaticMaskSettings()


class Sam3Settings(_Settings):
    """Segmentation by text with SAM3, instead of by ranking the regions of SAM2."""

    model: ModelSource
    """Meta's checkpoint as a file, such as `/weights/sam3.pt`; Meta provides it on request."""
    image_size: int = 1008  # pixels, each way; a multiple of 14
    min_score: Fraction = 0.5
    max_box_iou: Fraction = 0.7


class DrawingSettings(_Settings):
    """Appearance of overlays and spotlights."""

    dim: Fraction = 0.3
    """Brightness outside a spotlight's region."""
    outline: tuple[int, int, int] = (0, 255, 0)  # RGB


class ThreadSettings(_Settings):
    """Torch threads of a replica on a CPU, by model. SAM3 shares SAM2's process and threads."""

    diffusion: Annotated[int, Field(ge=1)] = 2
    clip: Annotated[int, Field(ge=1)] = 2
    sam2: Annotated[int, Field(ge=1)] = 2


class Profile(_Settings):
    """What is computed: models and their parameters."""

    name: str
    description: str = ""
    threads: ThreadSettings = ThreadSettings()
    diffusion: DiffusionSettings
    clip: ClipSettings
    sam2: Sam2Settings
    sam3: Sam3Settings | None = None
    drawing: DrawingSettings = DrawingSettings()


class AdmissionSettings(_Settings):
    """How much work an ingress replica accepts before it refuses more."""

    max_generations: int = 8
    max_stages: int = 16
    """Stage runs in progress; callers that join one don't count."""
    max_waiting_jobs: int = 1000
    """Queued jobs of all ingress replicas together."""
    deadline_s: float = 300.0
    max_body_bytes: int = 1 << 20
    max_upload_bytes: int = 32 << 20


class OwnerLimits(_Settings):
    """Rate and concurrency limits of one owner; None is no limit.

    Each ingress replica counts requests separately: with two replicas an owner may have up to twice as many.
    """

    requests_per_minute: Count | None = None
    concurrent_requests: Count | None = None
    """In flight at a time, including event streams."""
    unfinished_jobs: Count | None = None
    """Queued or running; counted in the database, so for all replicas together."""


class ReactionSettings(_Settings):
    """Prefetching: background analysis of new images before a request."""

    enabled: bool = True
    max_waiting: int = 64
    """Waiting images of each ingress replica; beyond it the oldest is dropped."""


class CacheSettings(_Settings):
    """The shared segmentation cache."""

    max_bytes: int = 256 << 20
    recent_bytes: int = 64 << 20
    """Local cache of each ingress replica: a call to the shared cache takes 5 ms."""
    lease_s: float = 10.0
    call_deadline_s: float = 0.5
    idle_exit_s: float = 24 * 3600.0
    """A cache without calls for so long ends itself: it belongs to an older version, or is not used."""


class RetentionSettings(_Settings):
    """How long and how much data is retained."""

    max_age_days: float = 30.0
    max_bytes_per_owner: int = 10 << 30
    sweep_interval_s: Annotated[float, Field(gt=0)] = 600.0  # between deletions of what exceeds these limits

    @property
    def max_age_s(self) -> float:
        """`max_age_days` in seconds."""
        return timedelta(days=self.max_age_days).total_seconds()


def _environment(name: str) -> str | None:
    return os.environ.get(name) or None


class StorageSettings(_Settings):
    """Where durable data is stored.

    The environment provides what is omitted here: every process of a cluster has it. It also provides the credentials,
    PGPASSWORD for PostgreSQL and AWS_ACCESS_KEY_ID etc. for S3, so that no file contains any.
    """

    database: str | None = Field(default_factory=lambda: _environment("PIPELINE_DATABASE"))
    """A SQLAlchemy URL such as `postgresql+psycopg://…`; by default an SQLite file in the data folder."""
    blobs: str | None = Field(default_factory=lambda: _environment("PIPELINE_BLOBS"))
    """A URL such as `s3://bucket/prefix`; by default a folder in the data folder."""
    retention: RetentionSettings = RetentionSettings()

    @property
    def is_local(self) -> bool:
        """Whether part of the storage is on one machine's disk."""
        return self.database is None or self.database.startswith("sqlite") or self.blobs is None


class TraceSettings(_Settings):
    """Traces of requests by OpenTelemetry."""

    to: Annotated[str, Field(pattern="^(off|(file:|https?://).+)$")] = "off"
    """A collector for OTLP over HTTP, such as `http://127.0.0.1:4318`; `file:PATH` for a JSON line for each span, with
    relative paths from the base of data folders; or `off` (in YAML with quotes, or omitted)."""
    ratio: Fraction = 1.0
    """Sampled share of the requests without a `traceparent`; with one, its sampled flag decides."""


UNTRACED = TraceSettings()


class WebhookSettings(_Settings):
    """Delivery of events by HTTP."""

    allow_private_addresses: bool = False
    """Deliver to non-public networks as well: clients that may register webhooks can then reach every host that this
    machine can reach, and read the beginning of its responses."""
    timeout_s: Annotated[float, Field(gt=0)] = 15.0
    """Of a whole request."""
    retry_after_s: tuple[Annotated[float, Field(ge=0)], ...] = (5, 30, 120, 600, 3600, 3 * 3600, 8 * 3600)
    """Waits in seconds before the first retry, the second and so on; none follows the last. By default exponential over
    half a day, as Standard Webhooks recommends: it outlasts a receiver's outage of one night."""
    max_per_owner: int = 20


class ServiceSettings(_Settings):
    """Where it runs: the `args` of the application in `serve_config.yaml`."""

    profile: str = "mini"
    """A name in `configs/` or the path of a YAML file."""
    data_dir: Path = Path("data")
    """Holds `app.log`, and the storage if it is local. A relative path starts at the project's root, or, for an
    installed wheel, at the user's data folder for applications (`~/.local/share/ai-pipeline`)."""
    storage: StorageSettings = Field(default_factory=StorageSettings)
    accelerator: Accelerator = "auto"
    num_gpus: dict[str, Fraction] = {"Diffusion": 0.35, "Clip": 0.1, "Segmenter": 0.2}
    log_format: Literal["text", "json"] = "text"
    keys: Literal["off", "required"] = "off"
    """Whether requests must authenticate with an API key. If not, everything belongs to one owner, `public`."""
    limits: OwnerLimits = OwnerLimits()
    admission: AdmissionSettings = AdmissionSettings()
    cache: CacheSettings = CacheSettings()
    reactions: ReactionSettings = ReactionSettings()
    traces: TraceSettings = TraceSettings()
    webhooks: WebhookSettings = WebhookSettings()
    model_aliases: tuple[str, ...] = ()
    """Further names of the diffusion model for OpenAI clients, such as `gpt-image-2`."""
    embed_parameters: bool = True
    """Write prompt and parameters into each PNG, as other tools do; everyone with the picture can read them."""
    public_url: str | None = None
    """The service's URL for clients, such as `https://images.example.com`; webhook deliveries then contain absolute
    URLs."""

    @property
    def data_path(self) -> Path:
        """The data folder as an absolute path."""
        return (DATA_ROOT / self.data_dir.expanduser()).resolve()

    def load_profile(self) -> Profile:
        """Load the profile that `profile` names.

        Raises:
            FileNotFoundError: there is no such profile.
            ValueError: the file contains no valid profile.
        """
        named = PROJECT_ROOT / "configs" / f"{self.profile}.yaml"
        path = named if named.is_file() else Path(self.profile)
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in named.parent.glob("*.yaml")))
            raise FileNotFoundError(f"No profile {self.profile!r}: name one of {known}, or a YAML file.")
        try:
            return Profile.model_validate(yaml.safe_load(path.read_text()))
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {error}") from error
