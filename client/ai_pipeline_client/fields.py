"""The fields of images and regions, without what can be done with them."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from typing import Any, Dict, Optional, Tuple

from ai_pipeline_client.decoding import decoded, wire
from ai_pipeline_client.masks import Mask, decode_mask
from ai_pipeline_client.results import (
    AnswerWarning,
    Box,
    GenerationRequest,
    ImageModel,
    Label,
    Labels,
    Origin,
    Polygon,
    RunLengths,
)


@dataclass(frozen=True)
class ImageFields:
    """A stored image, and how it was made.

    Attributes:
        image_id: id of the image.
        created_at: when it was stored.
        width: in pixels.
        height: in pixels.
        digest: SHA-256 over shape and pixels, hex.
        parameters: those that make the same image again; None for an upload without them.
        warnings: such as words of the prompt that the model doesn't know.
        url: path of the image, from the service's root.
        content_url: path of the picture itself.
        origin: "generated" or "uploaded".
        job_id: id of the job that generated it; None for an upload.
        model: that generated it; None for an upload.
        made_from: id of the image that it is a variation or an edit of.
        metadata: your own values by key.
        tags: your own tags.
        raw: the whole JSON object.
    """

    image_id: str
    created_at: datetime
    width: int
    height: int
    digest: str
    parameters: Optional[GenerationRequest] = wire("parameters", "request")  # noqa: RUF009
    warnings: Tuple[AnswerWarning, ...] = ()
    url: str = ""
    content_url: str = wire("content_url", "content", default="")
    origin: Origin = ""
    job_id: Optional[str] = None
    model: Optional[ImageModel] = None
    made_from: Optional[str] = None
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    tags: Tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def request(self) -> Optional[GenerationRequest]:
        """The same as `parameters`."""
        return self.parameters

    @property
    def prompt(self) -> Optional[str]:
        """The prompt it was made from; None for an upload without parameters."""
        return None if self.parameters is None else self.parameters.prompt

    @property
    def seed(self) -> Optional[int]:
        """The seed of its noise; None for an upload without parameters."""
        return None if self.parameters is None else self.parameters.seed

    @property
    def included_content(self) -> Optional[bytes]:
        """The picture's encoded bytes, if they were requested with `include`."""
        encoded = self.raw.get("content_b64")
        return None if encoded is None else b64decode(encoded)

    @property
    def included_labels(self) -> Optional[Labels]:
        """The best classes it shows, if requested with `include`; those of its regions, if these were, too."""
        if self.raw.get("labels") is None:
            return None
        facts = {name: self.raw.get(name) or [] for name in ("labels", "regions", "warnings")}
        return decoded(Labels, {**facts, "image_id": self.image_id})

    def html(self, content: Optional[bytes]) -> str:
        """Return the image and its facts for a notebook."""
        picture = "" if content is None else f"<img src='{data_url(content)}' width='{min(self.width, 512)}'>"
        facts = [self.prompt, f"{self.width} × {self.height}", self.seed is not None and f"seed {self.seed}"]
        caption = " · ".join(escape(fact) for fact in (*facts, self.image_id) if fact)
        return f"<figure style='margin:0'>{picture}<figcaption>{caption}</figcaption></figure>"


@dataclass(frozen=True)
class RegionFields:
    """A region of an image.

    Attributes:
        image_id: id of its image.
        region_id: unique within its image.
        box: x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
        area: in pixels.
        predicted_iou: estimate of the mask's IoU with the true one, 0 to 1.
        stability: IoU of the masks at a lower and a higher threshold, 0 to 1.
        label: what it shows.
        confidence: of the label, 0 to 1.
        labels: the best labels, best first.
        url: path of the region, from the service's root.
        match: with the text of the request, 0 to 1; None without a text.
        polygons: its outlines, each of (x, y) in pixels.
        rle: its mask as COCO's compressed run lengths.
    """

    image_id: str
    region_id: int
    box: Box
    area: int
    predicted_iou: float
    stability: float
    label: str
    confidence: float
    labels: Tuple[Label, ...]
    url: str = ""
    match: Optional[float] = None
    polygons: Optional[Polygon] = field(default=None, repr=False)
    rle: Optional[RunLengths] = field(default=None, repr=False)

    @property
    def mask(self) -> Mask:
        """The mask: bool array (h, w) of the image's size, True in the region.

        Raises:
            ImportError: numpy isn't installed.
            ValueError: the run lengths are missing or malformed.
        """
        if self.rle is None:
            raise ValueError(f"Region {self.region_id} came without its run lengths: get it by image.region(id).")
        return decode_mask(self.rle.counts, self.rle.size)


def data_url(content: bytes) -> str:
    """Return a picture as a URL that contains it."""
    kind = {b"\xff\xd8": "jpeg", b"RI": "webp"}.get(content[:2], "png")
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def region_payloads(image_id: str, payload: Mapping[str, Any]) -> Sequence[Dict[str, Any]]:
    """Return the regions of a response, each with the id of its image."""
    return [{**region, "image_id": image_id} for region in payload["data"]]
