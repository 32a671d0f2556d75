"""Segmentation by text with SAM3, built from ultralytics' modules.

The weights are Meta's, under their own licence, and must be provided as a file; they are read without running code.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from torchvision.ops import box_convert, nms

from pipeline.engines import weights
from pipeline.engines.sam2.engine import (  # prepares ultralytics
    MASKS_PER_UPSAMPLING,
    Candidates,
    segmentation_of,
    upsample,
)
from pipeline.imaging.codecs import resized
from pipeline.records import Pixels, Segmentation
from pipeline.settings import Sam3Settings

DETECTOR = "detector."  # prefix of its tensors in Meta's checkpoints
RENAMED = {"interactive_convs": "sam2_convs"}  # SAM 3.1


class Sam3Engine:
    """SAM3's detector on one device. Calls must not overlap in time, but may come from different threads.

    Attributes:
        fingerprint: digest of the weights.

    Raises:
        ModelUnavailable: the weights are missing or unusable.
    """

    def __init__(self, settings: Sam3Settings, device: str) -> None:
        source = settings.model
        path = weights.find(source)
        if path is None:
            raise weights.unavailable(source.source, "is no file: SAM3's weights are not to be had without asking Meta")
        self.fingerprint = weights.fingerprint(path)
        self._model = build_model()
        _load(self._model, path)
        self._device = torch.device(device)
        self._model.to(self._device, getattr(torch, source.dtype)).eval().requires_grad_(False)
        self._dtype: torch.dtype = getattr(torch, source.dtype)

    @torch.inference_mode()
    def find(self, pixels: Pixels, text: str, parameters: Sam3Settings) -> Segmentation:
        """Segment everything that a text names, the highest score first.

        Args:
            pixels: (h, w, 3) uint8 RGB.
            text: a noun phrase, such as `red apple`.
            parameters: the input size and the thresholds.
        """
        side = parameters.image_size
        self._model.set_imgsz((side, side))
        square = torch.from_numpy(np.array(resized(pixels, side, side))).to(self._device)
        image = (square.permute(2, 0, 1)[None].float() / 127.5 - 1).to(self._dtype)  # (1, 3, s, s)
        self._model.set_classes(text=[text])
        found = self._model.forward_grounding(
            backbone_out=self._model.backbone.forward_image(image), text_ids=torch.zeros(1, dtype=torch.long)
        )
        presence = found["presence_logit_dec"].float().sigmoid().reshape(())
        scores = found["pred_logits"][0, :, 0].float().sigmoid() * presence  # (queries,)
        boxes = box_convert(found["pred_boxes"][0].float(), "cxcywh", "xyxy")  # shares of the sides
        sure = torch.nonzero(scores >= parameters.min_score)[:, 0]
        kept = sure[nms(boxes[sure], scores[sure], parameters.max_box_iou)]
        chosen = Candidates(
            logits=found["pred_masks"][0, kept].float(),
            predicted_iou=scores[kept],
            stability=scores[kept],
            boxes=boxes[kept],
            points=kept,
        )
        size = (pixels.shape[0], pixels.shape[1])
        return segmentation_of(chosen, _masks(chosen.logits, size), size, min_area=0)


def build_model() -> Any:
    """Build an untrained `SAM3SemanticModel`.

    Ultralytics' builder imports a CLIP that no registry has, only for its tokenizer, and unpickles a checkpoint without
    restrictions: here the tokenizer is open_clip's, which is identical, and the weights are loaded later.
    """
    from ultralytics.models.sam import build_sam3

    clip = ModuleType("clip")
    clip.simple_tokenizer = open_clip.tokenizer  # type: ignore[attr-defined]
    load_checkpoint = build_sam3._load_checkpoint
    sys.modules.setdefault("clip", clip)
    build_sam3._load_checkpoint = lambda model, _: model
    try:
        return build_sam3.build_sam3_image_model("")
    finally:
        build_sam3._load_checkpoint = load_checkpoint
        if sys.modules["clip"] is clip:
            del sys.modules["clip"]


def _load(model: Any, path: Path) -> None:
    found = {}
    for name, tensor in weights.load_state_dict(path).items():
        if name.startswith(DETECTOR):
            for old, new in RENAMED.items():
                name = name.replace(old, new)
            found[name.removeprefix(DETECTOR)] = tensor
    missing = sorted(model.state_dict().keys() - found.keys())
    if missing:
        raise weights.unavailable(path, f"lacks tensors of SAM3's detector ({', '.join(missing[:3])}, …)")
    try:
        model.load_state_dict(found, strict=False)
    except RuntimeError as error:
        raise weights.unavailable(path, f"holds weights of other shapes ({error})") from error


def _masks(logits: torch.Tensor, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Scale masks, (n, h', w'), to a picture of `size` (h, w), a few at a time."""
    parts = [(upsample(part, size) > 0).cpu().numpy() for part in torch.split(logits, MASKS_PER_UPSAMPLING)]
    return np.concatenate(parts) if parts else np.zeros((0, *size), np.bool_)
