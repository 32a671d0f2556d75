"""Taking an image apart: SAM2 asked with a grid of points, the good masks kept, duplicates dropped.

The same answer as ultralytics' `SAM2Predictor.generate`, with two differences: masks are scaled to the image as logits
and then cut at 0 (theirs grow at every edge), and only what passed the score filter is ever upsampled.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from torchvision.ops import masks_to_boxes, nms

from pipeline.engines.sam2_decoder import ManyPointDecoder, SharedPicture
from pipeline.engines.sam2_model import load_model
from pipeline.records import Pixels, Segmentation, StepProgress
from pipeline.regions import Mask, encode_mask, outline
from pipeline.settings import Everything, Sam2Settings

# RGB, 0 to 255: what SAM's image encoders were trained with.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
PADDING = 114  # grey level of the canvas beside the image, ultralytics' choice

MASKS_PER_UPSAMPLING = 32  # 128 MiB of logits at 1024 px


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """Masks that passed the filters, as a struct of arrays."""

    logits: torch.Tensor  # (n, s / 4, s / 4) float32, of the square canvas
    predicted_iou: torch.Tensor  # (n,) float32
    stability: torch.Tensor  # (n,) float32
    boxes: torch.Tensor  # (n, 4) float32: x0, y0, x1, y1 in canvas pixels, all inclusive

    def select(self, index: torch.Tensor) -> Candidates:
        """Keep the candidates an index or a bool mask names, in its order."""
        return Candidates(
            logits=self.logits[index],
            predicted_iou=self.predicted_iou[index],
            stability=self.stability[index],
            boxes=self.boxes[index],
        )


class Sam2Engine:
    """SAM2 on one device. Segmentations must not overlap in time, but may come from different threads.

    Attributes:
        device: `"cpu"` or `"cuda:0"`.
        fingerprint: digest of the weights.
        model: ultralytics' `SAM2Model`, for those who calibrate or compare it.

    Raises:
        ModelUnavailable: the weights are missing or unusable.
    """

    def __init__(self, settings: Sam2Settings, device: str) -> None:
        model, self.fingerprint = load_model(settings.model)
        self.device = device
        self._dtype: torch.dtype = getattr(torch, settings.model.dtype)
        self.model: Any = model.to(device, self._dtype)
        # Coordinates up to 1024 lose half a pixel in half precision.
        self.model.sam_prompt_encoder.float()
        self._decoder = ManyPointDecoder(self.model.sam_mask_decoder)

    def segment(self, pixels: Pixels, parameters: Everything) -> Generator[StepProgress | Segmentation, None, None]:
        """Find everything in an image. Closing the iterator stops the work after the current batch of points.

        Args:
            pixels: (h, w, 3) uint8 RGB.
            parameters: the grid and the thresholds; `image_size` must be a multiple of 32.

        Yields:
            A `StepProgress` after each batch of points, then the `Segmentation`, best predicted IoU first.
        """
        size = (pixels.shape[0], pixels.shape[1])
        share = image_share(size, parameters.image_size)
        picture = self._look(fit(pixels, share, parameters.image_size))
        grid = point_grid(parameters.points_per_side, size, parameters.image_size)
        batches = torch.split(grid, parameters.points_per_batch)
        found: list[Candidates] = []
        for step, points in enumerate(batches, start=1):
            found.append(self._ask(picture, points, parameters))
            yield StepProgress(step=step, num_steps=len(batches))
        kept = without_duplicates(found, parameters.max_box_iou)
        masks = masks_at(kept.logits, parameters.image_size, share, size)
        yield segmentation_of(kept, masks, size, parameters.min_area)

    @torch.inference_mode()
    def _look(self, canvas: Pixels) -> SharedPicture:
        """Encode a square canvas, (s, s, 3) uint8, once for all its points."""
        side = canvas.shape[0]
        self.model.set_imgsz([side, side])
        image = torch.from_numpy(canvas).to(self.device).permute(2, 0, 1)[None].float()  # (1, 3, s, s)
        mean, std = (torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in (MEAN, STD))
        *fine, coarse = self.model.forward_image(((image - mean) / std).to(self._dtype))["backbone_fpn"]
        # A single image has no memory of earlier frames: SAM2 adds a learned vector that says so.
        embedding = coarse + self.model.no_mem_embed.view(1, -1, 1, 1)
        prompts = self.model.sam_prompt_encoder
        no_mask = prompts.no_mask_embed.weight.view(1, -1, 1, 1).to(self._dtype)
        return self._decoder.look(embedding, no_mask, prompts.get_dense_pe().to(self._dtype), fine)

    @torch.inference_mode()
    def _ask(self, picture: SharedPicture, points: torch.Tensor, parameters: Everything) -> Candidates:
        """Decode three masks for each of p points, (p, 2) x and y on the canvas, and filter them."""
        coordinates = points[:, None].to(self.device)  # (p, 1, 2)
        foreground = torch.ones(coordinates.shape[:2], dtype=torch.int32, device=self.device)
        sparse, _ = self.model.sam_prompt_encoder(points=(coordinates, foreground), boxes=None, masks=None)
        answered = self._decoder.ask(picture, sparse.to(self._dtype))
        scores = answered.predicted_iou[:, 1:].float()  # (p, 3)
        good = scores > parameters.min_predicted_iou
        worth_it = good.any(1).nonzero()[:, 0]
        logits = self._decoder.draw(picture, answered, worth_it)[:, 1:]
        return stable_candidates(logits[good[worth_it]].float(), scores[good], parameters)


def image_share(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Say how much (h, w) of a square canvas an image of `size` (h, w) covers with its longer side scaled to `side`."""
    gain = side / max(size)
    return max(round(size[0] * gain), 1), max(round(size[1] * gain), 1)


def fit(pixels: Pixels, share: tuple[int, int], side: int) -> Pixels:
    """Scale an image, (h, w, 3), to its share of a canvas, (side, side, 3), padded on the right and at the bottom."""
    canvas: Pixels = np.full((side, side, 3), PADDING, dtype=np.uint8)
    height, width = share
    canvas[:height, :width] = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return canvas


def point_grid(points_per_side: int, size: tuple[int, int], side: int) -> torch.Tensor:
    """Spread n × n points evenly over the image's part of the canvas, row by row.

    Returns:
        (n * n, 2) float32, x and y in canvas pixels.
    """
    centres = (torch.arange(points_per_side, dtype=torch.float64) + 0.5) / points_per_side
    y, x = torch.meshgrid(centres * size[0], centres * size[1], indexing="ij")
    return (torch.stack([x, y], dim=-1).reshape(-1, 2) * (side / max(size))).float()


def stable_candidates(logits: torch.Tensor, scores: torch.Tensor, parameters: Everything) -> Candidates:
    """Keep the masks that hardly change when their threshold moves.

    The stability score is the area above `+offset` over the area above `-offset` (Segment Anything, arXiv:2304.02643,
    appendix B).

    Args:
        logits: (n, s / 4, s / 4) float32.
        scores: (n,) predicted IoU.
    """
    stability, boxes, kept = [], [], []
    for chunk in torch.split(logits, MASKS_PER_UPSAMPLING):
        full = upsample(chunk, (parameters.image_size, parameters.image_size))
        inner, outer = (
            (full > offset).sum((1, 2)) for offset in (parameters.stability_offset, -parameters.stability_offset)
        )
        ratio = inner / outer.clamp(min=1)
        masks = full > 0
        keep = (ratio > parameters.min_stability) & masks.any(2).any(1)
        stability.append(ratio)
        kept.append(keep)
        boxes.append(masks_to_boxes(masks[keep]))
    index = torch.cat(kept)
    return Candidates(
        logits=logits[index], predicted_iou=scores[index], stability=torch.cat(stability)[index], boxes=torch.cat(boxes)
    )


def without_duplicates(found: list[Candidates], max_box_iou: float) -> Candidates:
    """Join the batches' candidates and keep, of those whose boxes overlap by more than `max_box_iou`, the best.

    Returns:
        Candidates in descending predicted IoU.
    """
    everything = Candidates(
        logits=torch.cat([c.logits for c in found]),
        predicted_iou=torch.cat([c.predicted_iou for c in found]),
        stability=torch.cat([c.stability for c in found]),
        boxes=torch.cat([c.boxes for c in found]),
    )
    return everything.select(nms(everything.boxes, everything.predicted_iou, max_box_iou))


def masks_at(logits: torch.Tensor, side: int, share: tuple[int, int], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Cut the padding off, scale logits of the canvas to the image, and only then decide each pixel.

    Args:
        logits: (n, side / 4, side / 4) float32.
        side: of the canvas.
        share: (h, w) of the canvas that the image covers.
        size: (h, w) of the image.

    Returns:
        (n, h, w) bool.
    """
    masks = [  # split gives one empty chunk for no masks
        (upsample(upsample(chunk, (side, side))[:, : share[0], : share[1]], size) > 0).cpu().numpy()
        for chunk in torch.split(logits, MASKS_PER_UPSAMPLING)
    ]
    return np.concatenate(masks)


def segmentation_of(
    kept: Candidates, masks: npt.NDArray[np.bool_], size: tuple[int, int], min_area: float
) -> Segmentation:
    """Encode the masks of an image of `size` (h, w), (n, h, w) bool, without empty ones and specks."""
    filled = np.flatnonzero(masks.sum(axis=(1, 2)) >= max(1, min_area * size[0] * size[1]))
    chosen = [masks[i] for i in filled]
    boxes = np.array([_box(mask) for mask in chosen], dtype=np.float32).reshape(-1, 4)
    predicted_iou = kept.predicted_iou.cpu().numpy()[filled]
    stability = kept.stability.cpu().numpy()[filled]
    for array in (boxes, predicted_iou, stability):
        array.flags.writeable = False
    return Segmentation(
        size=size,
        rles=tuple(encode_mask(mask) for mask in chosen),
        boxes=boxes,
        predicted_iou=predicted_iou,
        stability=stability,
        polygons=tuple(outline(mask) for mask in chosen),
    )


def upsample(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Scale (n, h, w) bilinearly to (n, *size)."""
    if len(logits) == 0:  # interpolate refuses an empty batch
        return logits.new_zeros(0, *size)
    return functional.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]


def _box(mask: Mask) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a mask with at least one pixel; x1 and y1 exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
