"""The one tree of settings: a `Profile` says what is computed, `ServiceSettings` where it runs.

A profile is a file in `configs/`; service settings are the `args` of `serve_config.yaml`. Unknown keys are refused.
Engines never read settings: parameters are resolved at the ingress and travel with each call.
"""

from __future__ import annotations

import os
import sysconfig
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
"""Has `configs/`, `models/` and `serve_config.yaml`: the checkout, or what a wheel has installed."""
DATA_ROOT = PROJECT_ROOT if _IS_CHECKOUT else platformdirs.user_data_path("ai-pipeline")
"""What relative paths of written data start from."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
DType = Literal["float32", "float16", "bfloat16"]
Accelerator = Literal["auto", "cpu", "cuda"]

RAY_NAMESPACE = "ai-pipeline"  # of the driver and of every named actor


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSource(_Settings):
    """Where weights come from."""

    source: str
    """A folder or file (starts with `.` or `/`; `.` is the project's root), or a name the model's library knows."""
    revision: str | None = None
    """Commit or tag on the hub."""
    sha256: str | None = None
    """What a checkpoint file's digest must be; other content is refused."""
    dtype: DType = "float32"

    @property
    def local_path(self) -> Path | None:
        """The folder or file on this machine, or None for a name on a hub."""
        if not self.source.startswith((".", "/")):
            return None
        return (PROJECT_ROOT / self.source).resolve()


class GenerationDefaults(_Settings):
    """What a request gets where it says nothing."""

    width: int  # pixels
    height: int  # pixels
    steps: int
    guidance: float
    scheduler: Scheduler


class GenerationLimits(_Settings):
    """What a request may ask for."""

    min_side: int  # pixels
    max_side: int  # pixels
    side_multiple: int  # pixels
    max_steps: int = 100
    max_guidance: float = 30.0


class DiffusionSettings(_Settings):
    model: ModelSource
    safety_checker: bool = False
    batch_rows: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Sizes of a denoising batch, ascending; an image with guidance takes two rows. An image is the same bit for bit
    whenever it went through batches of one size, so a single size makes it the same whatever the load, at the price
    of a full batch for a lonely image."""
    decoded_previews: int = 0
    """How often an image that somebody follows is decoded on the way, for autoencoders that are quick; 0 shows a linear
    guess at every step instead."""
    progress_every_s: Annotated[float, Field(ge=0)] = 0.5
    """How often the progress of an image is told that nobody follows, at most; who follows one is told every step."""
    compiled: bool = False
    """Compile the denoiser for each size of batch, with CUDA graphs on a GPU: minutes at the start, less time for each
    step. Only for the default size of an image; others are denoised as they are without."""
    defaults: GenerationDefaults
    limits: GenerationLimits
    vocabulary: tuple[str, ...] | None = None
    """All words the model knows: a prompt with others is answered with a warning. None for a model that knows open
    language, which never warns."""


class Labelling(_Settings):
    """Zero-shot classification by CLIP."""

    labels: Literal["cifar100"] | tuple[str, ...] = "cifar100"
    template: str = "a photo of a {label}"
    top_k: int = 5
    logit_scale: float = 100.0
    unknown: str | None = None
    """A text, such as `a photo of something unknown`, for pictures that show none of the labels: it takes part in the
    softmax and is not listed; where its share is above `max_unknown` the answer carries a warning."""
    max_unknown: Fraction = 0.5
    background: str | None = None
    """The label of what is behind things; its share of a whole image counts as unknown as well."""

    @property
    def names(self) -> tuple[str, ...]:
        """The labels themselves."""
        return CIFAR100 if self.labels == "cifar100" else self.labels


class Probing(_Settings):
    """The cosines that mean "nothing alike" and "the same" for this CLIP model."""

    floor: float = 0.22
    ceiling: float = 0.33
    neutral: tuple[str, ...] = ("a photo", "a picture of something", "a background")
    """Texts that fit any picture: what resembles them more than a concept is none of the concepts."""


class Finding(_Settings):
    """Which regions a text means, by the cosines of this CLIP model."""

    template: str = "{text}"
    """What is encoded for the text that was asked for."""
    min_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.25
    """Where neither the picture nor a region comes as close to the text, it names nothing there."""
    logit_scale: Annotated[float, Field(gt=0)] = 100.0
    """How steeply a score leaves 0.5 on either side of that bound."""


class ClipSettings(_Settings):
    model: ModelSource
    pretrained: str | None = None
    """open_clip's tag of the weights, where `model.source` names an architecture."""
    labelling: Labelling = Labelling()
    probing: Probing = Probing()
    finding: Finding = Finding()


class Everything(_Settings):
    """Segmenting without a prompt: a grid of points, the good masks, no duplicates."""

    image_size: int = 1024  # pixels; the longer side is scaled to it
    points_per_side: int = 32
    points_per_batch: int = 64
    min_predicted_iou: Fraction = 0.95
    min_stability: Fraction = 0.95
    stability_offset: float = 0.95  # logits
    max_box_iou: Fraction = 0.7
    max_mask_iou: Fraction = 1.0
    """Of two regions that overlap by more, the one of lower predicted IoU is dropped; 1 leaves it at the boxes."""
    recall: Fraction = 1.0
    """Of the regions that the whole grid gives; below 1 points that lie in regions found before are left out as far as
    that allows."""
    min_area: Fraction = 0.0
    """Of the image's pixels; a smaller region is a speck and dropped."""


class Sam2Settings(_Settings):
    model: ModelSource
    everything: Everything = Everything()


class Sam3Settings(_Settings):
    """Finding what a text names with SAM3 instead of by ranking the regions that SAM2 finds without being asked."""

    model: ModelSource
    """A checkpoint of Meta's as a file, such as `/weights/sam3.pt`; they give it to who asks."""
    image_size: int = 1008  # pixels, each way; a multiple of 14
    min_score: Fraction = 0.5
    max_box_iou: Fraction = 0.7


class Drawing(_Settings):
    """How overlays and spotlights look."""

    dim: Fraction = 0.3
    """Brightness left outside a spotlight's region."""
    outline: tuple[int, int, int] = (0, 255, 0)  # RGB


class Threads(_Settings):
    """Torch's threads of a replica on a CPU, by its model. SAM3 has those of SAM2, whose process it shares."""

    diffusion: Annotated[int, Field(ge=1)] = 2
    clip: Annotated[int, Field(ge=1)] = 2
    sam2: Annotated[int, Field(ge=1)] = 2


class Profile(_Settings):
    """What is computed: models and their parameters."""

    name: str
    description: str = ""
    threads: Threads = Threads()
    diffusion: DiffusionSettings
    clip: ClipSettings
    sam2: Sam2Settings
    sam3: Sam3Settings | None = None
    drawing: Drawing = Drawing()


class Admission(_Settings):
    """How much waits before more is refused, for each ingress replica."""

    max_generations: int = 8
    max_stages: int = 16
    """Stage runs in progress; callers who join one of them are free."""
    max_waiting_jobs: int = 1000
    """Accepted jobs of all ingress replicas that nobody works on yet."""
    deadline_s: float = 300.0
    max_body_bytes: int = 1 << 20
    max_upload_bytes: int = 32 << 20


class OwnerLimits(_Settings):
    """What one owner may take of the service; None is no limit.

    Requests are counted by each ingress replica for itself: with two replicas an owner may have up to twice as many.
    """

    requests_per_minute: Count | None = None
    concurrent_requests: Count | None = None
    """Being answered at a time, event streams among them."""
    unfinished_jobs: Count | None = None
    """Waiting or being worked on; counted in the database, so for all replicas together."""


class ReactionSettings(_Settings):
    """What is computed of a new image before anybody asks."""

    enabled: bool = True
    max_waiting: int = 64
    """New images for each ingress replica; the oldest makes room for one more."""


class CacheSettings(_Settings):
    """The shared segmentation cache."""

    max_bytes: int = 256 << 20
    recent_bytes: int = 64 << 20
    """What each ingress replica remembers by itself: a call to the shared cache takes 5 ms."""
    lease_s: float = 10.0
    call_deadline_s: float = 0.5
    idle_exit_s: float = 24 * 3600.0
    """A cache nobody called for so long ends itself: it is an older version's, or of no use."""


class Retention(_Settings):
    """How long and how much is kept."""

    max_age_days: float = 30.0
    max_bytes_per_owner: int = 10 << 30


def _environment(name: str) -> str | None:
    return os.environ.get(name) or None


class StorageSettings(_Settings):
    """Where the truth is kept.

    What is left out the environment may say: every process of a cluster has it, and it holds the credentials as well,
    PGPASSWORD for PostgreSQL and AWS_ACCESS_KEY_ID and its like for S3, so that none stands in a file.
    """

    database: str | None = Field(default_factory=lambda: _environment("PIPELINE_DATABASE"))
    """A SQLAlchemy URL such as `postgresql+psycopg://…`; if nothing says it, an SQLite file in the data folder."""
    blobs: str | None = Field(default_factory=lambda: _environment("PIPELINE_BLOBS"))
    """A URL such as `s3://bucket/prefix`; if nothing says it, a folder in the data folder."""
    retention: Retention = Retention()

    @property
    def is_local(self) -> bool:
        """Whether some of it is on one machine's disk."""
        return self.database is None or self.database.startswith("sqlite") or self.blobs is None


class TraceSettings(_Settings):
    """Telling where a request's time went, in OpenTelemetry's words."""

    to: Annotated[str, Field(pattern="^(off|(file:|https?://).+)$")] = "off"
    """A collector that speaks OTLP over HTTP, such as `http://127.0.0.1:4318`; `file:PATH` for a JSON line for each
    span, where a relative path starts where data folders do; or `off` (in YAML with quotes, or left out)."""
    ratio: Fraction = 1.0
    """Of the requests that come without a `traceparent`; with one they are recorded if it says so."""


UNTRACED = TraceSettings()


class WebhookSettings(_Settings):
    """Telling others by HTTP what happens."""

    allow_private_addresses: bool = False
    """Send into networks that aren't public as well: whoever may register a webhook then reaches what this machine
    can reach."""
    timeout_s: Annotated[float, Field(gt=0)] = 15.0
    """For the whole of a request."""
    retry_after_s: tuple[Annotated[float, Field(ge=0)], ...] = (5, 30, 120, 600, 3600, 3 * 3600, 8 * 3600)
    """Seconds to wait after the first failed attempt, the second and so on, after the last of which none follows. By
    default exponential over half a day, as Standard Webhooks recommends: a receiver's night is survived."""
    max_per_owner: int = 20


class ServiceSettings(_Settings):
    """Where it runs: the `args` of the application in `serve_config.yaml`."""

    profile: str = "mini"
    """A name in `configs/` or the path of a YAML file."""
    data_dir: Path = Path("data")
    """`app.log`, and the storage where it is local. A relative path starts at the project's root, or, where a wheel was
    installed, at the user's data folder for applications (`~/.local/share/ai-pipeline`)."""
    storage: StorageSettings = Field(default_factory=StorageSettings)
    accelerator: Accelerator = "auto"
    num_gpus: dict[str, Fraction] = {"Diffusion": 0.35, "Clip": 0.1, "Segmenter": 0.2}
    log_format: Literal["text", "json"] = "text"
    keys: Literal["off", "required"] = "off"
    """Whether a request needs an API key. Without, everything belongs to one owner, `public`."""
    limits: OwnerLimits = OwnerLimits()
    admission: Admission = Admission()
    cache: CacheSettings = CacheSettings()
    reactions: ReactionSettings = ReactionSettings()
    traces: TraceSettings = TraceSettings()
    webhooks: WebhookSettings = WebhookSettings()
    model_aliases: tuple[str, ...] = ()
    """Other names that OpenAI's clients may call the diffusion model by, such as `gpt-image-2`."""
    embed_parameters: bool = True
    """Write prompt and parameters into each PNG, as other tools do; whoever gets the picture can read them."""
    public_url: str | None = None
    """Where clients reach the service, such as `https://images.example.com`; what it sends of its own accord then holds
    whole URLs."""

    @property
    def data_path(self) -> Path:
        """The data folder as an absolute path."""
        return (DATA_ROOT / self.data_dir.expanduser()).resolve()

    def load_profile(self) -> Profile:
        """Read the profile this names.

        Raises:
            FileNotFoundError: there is no such profile.
            ValueError: the file holds something else than a profile.
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
