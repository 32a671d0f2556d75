"""Segmentation: SAM2 prompted with a grid of points; masks are filtered by thresholds, duplicates dropped.

The results are those of ultralytics' `SAM2Predictor.generate` with one difference: masks are scaled to the image as
logits and then cut at 0, whereas theirs grow at every edge. With a recall below 1 most points are skipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from cachetools import LRUCache
from torch.nn import functional
from torchvision.ops import masks_to_boxes, nms

from pipeline.engines.sam2.decoder import ImageContext, ManyPointDecoder
from pipeline.engines.sam2.loading import load_model
from pipeline.engines.sam2.point_sampling import SampledRegions, coarse_to_fine_rounds, covered, estimate_missed
from pipeline.imaging.masks import Mask, encode_mask, outline
from pipeline.records import Pixels, PointsAndBox, Segmentation, StepProgress
from pipeline.settings import AutomaticMaskSettings, Sam2Settings
from pipeline.traces import span

# RGB, 0 to 255: the normalisation of SAM's image encoders.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
PADDING = 114  # grey level of the canvas outside of the image, as in ultralytics

MASKS_PER_UPSAMPLING = 32  # 128 MiB of logits at 1024 px
MAX_ENCODED = 8  # cached encoded images, 35 MB each at 1024 px
INSIDE, OUTSIDE = 1, 0  # labels of points
CORNERS = [2, 3]  # labels of a box's corners, which are SAM2's first prompt points
PIXELS_PER_PLACE = 16  # of the canvas, in each direction


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """Masks that passed the filters, as a struct of arrays."""

    logits: torch.Tensor  # (n, s / 4, s / 4) float32, of the square canvas
    predicted_iou: torch.Tensor  # (n,) float32
    stability: torch.Tensor  # (n,) float32
    boxes: torch.Tensor  # (n, 4) float32: x0, y0, x1, y1 in canvas pixels, all inclusive
    points: torch.Tensor  # (n,) int64, the grid points they come from

    def select(self, index: torch.Tensor) -> Candidates:
        """Return the candidates of an index or a bool mask, in its order."""
        return Candidates(
            logits=self.logits[index],
            predicted_iou=self.predicted_iou[index],
            stability=self.stability[index],
            boxes=self.boxes[index],
            points=self.points[index],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Candidates]) -> Candidates:
        """Concatenate the candidates of several batches."""
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in cls.__slots__})


class Sam2Engine:
    """SAM2 on one device. Segmentations must not overlap in time, but may come from different threads.

    Attributes:
        device: `"cpu"` or `"cuda:0"`.
        fingerprint: digest of the weights.
        model: ultralytics' `SAM2Model`, for calibration and comparison.

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
        self._encoded: LRUCache[bytes, ImageContext] = LRUCache(MAX_ENCODED)

    def segment(
        self, pixels: Pixels, parameters: AutomaticMaskSettings
    ) -> Generator[StepProgress | Segmentation, None, None]:
        """Segment everything in an image. Closing the iterator stops after the current batch of points.

        Args:
            pixels: (h, w, 3) uint8 RGB.
            parameters: the grid and the thresholds; `image_size` must be a multiple of 32.

        Yields:
            A `StepProgress` after each batch of points, then the `Segmentation`, best predicted IoU first.
        """
        size = (pixels.shape[0], pixels.shape[1])
        share = image_share(size, parameters.image_size)
        image = self.encode_cached(fit(pixels, share, parameters.image_size))
        grid = point_grid(parameters.points_per_side, size, parameters.image_size)
        found = yield from self._sample_points(image, grid, parameters)
        kept = without_overlaps(without_duplicates(found, parameters.max_box_iou), parameters.max_mask_iou)
        masks = upscaled_masks(kept.logits, parameters.image_size, share, size)
        yield segmentation_of(kept, masks, size, parameters.min_area)

    def segment_prompts(
        self, pixels: Pixels, prompts: Sequence[PointsAndBox], parameters: AutomaticMaskSettings
    ) -> Segmentation:
        """Segment what prompts point at, one region for each, in their order.

        Args:
            pixels: (h, w, 3) uint8 RGB.
            prompts: at least one, in pixels of the image.
            parameters: only `image_size` is used.
        """
        size = (pixels.shape[0], pixels.shape[1])
        share = image_share(size, parameters.image_size)
        image = self.encode_cached(fit(pixels, share, parameters.image_size))
        with span("decode", prompts=len(prompts)):
            answers = [self._decode_prompt(image, prompt, parameters.image_size / max(size)) for prompt in prompts]
        chosen = Candidates.concatenate(
            [
                stability_of(logits, score, torch.tensor([number]), parameters)
                for number, (logits, score) in enumerate(answers)
            ]
        )
        masks = upscaled_masks(chosen.logits, parameters.image_size, share, size)
        return segmentation_of(chosen, masks, size, min_area=None)

    def clear_cache(self) -> None:
        """Drop all cached encoded images."""
        self._encoded.clear()

    def _sample_points(
        self, image: ImageContext, grid: torch.Tensor, parameters: AutomaticMaskSettings
    ) -> Generator[StepProgress, None, Candidates]:
        """Decode the grid's points, (p, 2), or as many of them as the required recall takes."""
        everything = np.arange(len(grid))
        rounds = coarse_to_fine_rounds(parameters.points_per_side) if parameters.recall < 1 else [everything]
        num_steps = -(-len(grid) // parameters.points_per_batch)
        parts: list[Candidates] = []
        tried = np.zeros(0, np.int64)
        settled = left_out = 0
        for planned in rounds:
            wanted = planned
            if parts:
                known = merge_found(parts, parameters)
                is_covered = covered(known, grid[planned], parameters.image_size)
                missed = estimate_missed(
                    known, tried, grid, left_out + int(is_covered.sum()), parameters.image_size, parameters.max_box_iou
                )
                if len(known.boxes) >= parameters.recall * (len(known.boxes) + missed):
                    wanted = planned[~is_covered]
                    left_out += int(is_covered.sum())
                    settled += int(is_covered.sum())
            for start in range(0, len(wanted), parameters.points_per_batch):
                batch = wanted[start : start + parameters.points_per_batch]
                with span("decode", points=len(batch)):
                    parts.append(self.decode_points(image, grid[batch], torch.from_numpy(batch), parameters))
                settled += len(batch)
                yield StepProgress(step=max(1, settled * num_steps // len(grid)), num_steps=num_steps)
            tried = np.concatenate([tried, wanted])
        return Candidates.concatenate(parts)

    @torch.inference_mode()
    def encode_cached(self, canvas: Pixels) -> ImageContext:
        """Encode a square canvas, (s, s, 3) uint8, or return it from an LRU cache."""
        key = hashlib.blake2b(canvas.tobytes(), digest_size=16).digest() + canvas.shape[0].to_bytes(4)
        image = self._encoded.get(key)
        if image is None:
            with span("encode"):
                image = self._encoded[key] = self._encode(canvas)
        return image

    def _encode(self, canvas: Pixels) -> ImageContext:
        side = canvas.shape[0]
        self.model.set_imgsz([side, side])
        image = torch.from_numpy(canvas).to(self.device).permute(2, 0, 1)[None].float()  # (1, 3, s, s)
        mean, std = (torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in (MEAN, STD))
        *fine, coarse = self.model.forward_image(((image - mean) / std).to(self._dtype))["backbone_fpn"]
        # A single image has no memory of earlier frames: SAM2 adds a learned vector that encodes this.
        embedding = coarse + self.model.no_mem_embed.view(1, -1, 1, 1)
        prompts = self.model.sam_prompt_encoder
        no_mask = prompts.no_mask_embed.weight.view(1, -1, 1, 1).to(self._dtype)
        return self._decoder.precompute(embedding, no_mask, prompts.get_dense_pe().to(self._dtype), fine)

    @torch.inference_mode()
    def decode_points(
        self, image: ImageContext, points: torch.Tensor, names: torch.Tensor, parameters: AutomaticMaskSettings
    ) -> Candidates:
        """Decode three masks for each of p points and filter them.

        Args:
            image: the encoded image.
            points: (p, 2), x and y on the canvas.
            names: (p,) int64, their indices in the grid.
            parameters: the thresholds.
        """
        inside = torch.full((len(points), 1), INSIDE, dtype=torch.int32)
        state = self._decoder.predict_iou(image, self._embed(image, points[:, None], inside))
        scores = state.predicted_iou[:, 1:].float()  # (p, 3)
        good = scores > parameters.min_predicted_iou
        worth_it = good.any(1).nonzero()[:, 0]
        logits = self._decoder.predict_masks(image, state, worth_it)[:, 1:]
        names = names.to(self.device)[:, None].expand(-1, 3)[good]
        return stable_candidates(logits[good[worth_it]].float(), scores[good], names, parameters)

    @torch.inference_mode()
    def _decode_prompt(
        self, image: ImageContext, prompt: PointsAndBox, gain: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode the mask of one prompt, (1, s / 4, s / 4), and its predicted IoU, (1,).

        A single point is ambiguous, so the mask is the one of three with the highest predicted IoU. Otherwise it is the
        single mask, unless that isn't stable.
        """
        corners = [] if prompt.box is None else [prompt.box[:2], prompt.box[2:]]
        places = torch.tensor([*corners, *(point[:2] for point in prompt.points)], dtype=torch.float32)
        labels = CORNERS[: len(corners)] + [INSIDE if is_inside else OUTSIDE for _, _, is_inside in prompt.points]
        embedded = self._embed(image, places[None] * gain, torch.tensor([labels], dtype=torch.int32))
        state = self._decoder.predict_iou(image, embedded)
        scores = state.predicted_iou[0].float()
        logits = self._decoder.predict_masks(
            image, state, torch.zeros(1, dtype=torch.int64, device=self.device)
        ).float()
        if labels == [INSIDE]:
            best = 1 + int(scores[1:].argmax())
            return logits[:, best], scores[best : best + 1]
        single, score = self.model.sam_mask_decoder._dynamic_multimask_via_stability(logits, scores[None])
        return single[:, 0], score[0]

    def _embed(self, image: ImageContext, points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Encode p prompts of k points on an image's canvas, (p, k, 2), with their labels, (p, k)."""
        prompts = self.model.sam_prompt_encoder
        side = image.size[0] * PIXELS_PER_PLACE
        self.model.set_imgsz([side, side])  # another image may have had another size
        sparse, _ = prompts(points=(points.to(self.device), labels.to(self.device)), boxes=None, masks=None)
        embedded: torch.Tensor = sparse.to(self._dtype)
        return embedded


def image_share(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the part (h, w) of a square canvas that an image of `size` (h, w) covers, its longer side being `side`."""
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


def stable_candidates(
    logits: torch.Tensor, scores: torch.Tensor, points: torch.Tensor, parameters: AutomaticMaskSettings
) -> Candidates:
    """Return the masks that are stable against a shift of their threshold.

    Args:
        logits: (n, s / 4, s / 4) float32.
        scores: (n,) predicted IoU.
        points: (n,), the points they come from.
        parameters: the thresholds.
    """
    chunks = zip(*(torch.split(each, MASKS_PER_UPSAMPLING) for each in (logits, scores, points)), strict=True)
    everything = Candidates.concatenate([stability_of(part, score, point, parameters) for part, score, point in chunks])
    return everything.select((everything.stability > parameters.min_stability) & (everything.boxes[:, 2] >= 0))


def stability_of(
    logits: torch.Tensor, scores: torch.Tensor, points: torch.Tensor, parameters: AutomaticMaskSettings
) -> Candidates:
    """Measure stability and boxes of masks at the canvas's size; the box of an empty mask is -1.

    The stability score is the area above `+offset` over the area above `-offset` (Segment Anything, arXiv:2304.02643,
    appendix B).
    """
    measure = measure_one_by_one if logits.device.type == "cpu" else measure_at_once
    inner, outer, boxes = measure(logits, parameters.image_size, parameters.stability_offset)
    return Candidates(
        logits=logits, predicted_iou=scores, stability=inner / outer.clamp(min=1), boxes=boxes, points=points
    )


Measured = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Pixels of n masks above the offset, (n,), above its negative, (n,), and the boxes, (n, 4)."""


def measure_at_once(logits: torch.Tensor, side: int, offset: float) -> Measured:
    """Measure low-resolution masks, (n, h, w) logits, as they are at `side` pixels, all of them in one tensor."""
    full = upsample(logits, (side, side))
    masks = full > 0
    boxes = torch.full((len(masks), 4), -1.0, device=masks.device)
    filled = masks.any(2).any(1)
    boxes[filled] = masks_to_boxes(masks[filled])
    return (full > offset).sum((1, 2)), (full > -offset).sum((1, 2)), boxes


def measure_one_by_one(logits: torch.Tensor, side: int, offset: float) -> Measured:
    """Measure the same on a CPU: one mask at a time fits in the CPU cache and takes a tenth of the time."""
    full = np.empty((side, side), np.float32)
    inner, outer = np.zeros((2, len(logits)), np.int64)
    boxes = np.full((len(logits), 4), -1, np.float32)
    for i, mask in enumerate(logits.numpy()):
        cv2.resize(mask, (side, side), dst=full, interpolation=cv2.INTER_LINEAR)
        inner[i], outer[i] = np.count_nonzero(full > offset), np.count_nonzero(full > -offset)
        x, y, width, height = cv2.boundingRect((full > 0).view(np.uint8))
        if width > 0:
            boxes[i] = x, y, x + width - 1, y + height - 1
    return torch.from_numpy(inner), torch.from_numpy(outer), torch.from_numpy(boxes)


def merge_found(parts: Sequence[Candidates], parameters: AutomaticMaskSettings) -> SampledRegions:
    """Merge the candidates of several batches, without duplicates."""
    everything = Candidates.concatenate(parts)
    kept = without_duplicates(everything, parameters.max_box_iou)
    return SampledRegions(
        masks=kept.logits > 0,
        boxes=kept.boxes,
        all_boxes=everything.boxes,
        all_points=everything.points.cpu().numpy(),
    )


def without_duplicates(found: Candidates, max_box_iou: float) -> Candidates:
    """Return the best of candidates whose boxes overlap by more than `max_box_iou` (NMS).

    Returns:
        Candidates in descending predicted IoU.
    """
    return found.select(nms(found.boxes, found.predicted_iou, max_box_iou))


def without_overlaps(found: Candidates, max_mask_iou: float) -> Candidates:
    """Return the candidates whose masks don't overlap a better one by more than `max_mask_iou`.

    Args:
        found: in descending predicted IoU.
        max_mask_iou: of masks at the resolution of their logits; at 1 everything is kept.
    """
    if max_mask_iou >= 1:
        return found
    masks = (found.logits > 0).flatten(1).float()  # (n, places)
    shared = masks @ masks.T
    areas = shared.diagonal()
    overlaps = (shared / (areas[:, None] + areas - shared).clamp(min=1) > max_mask_iou).cpu().numpy()  # (n, n)
    kept: list[int] = []
    for i, row in enumerate(overlaps):
        if not row[kept].any():
            kept.append(i)
    return found.select(torch.tensor(kept, dtype=torch.int64, device=found.boxes.device))


def upscaled_masks(
    logits: torch.Tensor, side: int, share: tuple[int, int], size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Remove the padding, scale logits from the canvas to the image, and apply the threshold last.

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
    kept: Candidates, masks: npt.NDArray[np.bool_], size: tuple[int, int], min_area: float | None
) -> Segmentation:
    """Encode masks, (n, h, w) bool, of an image of `size` (h, w), without empty ones and specks; None keeps all."""
    areas = masks.sum(axis=(1, 2))
    filled = np.arange(len(masks))
    if min_area is not None:
        filled = np.flatnonzero(areas >= max(1, min_area * size[0] * size[1]))
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
    """Return x0, y0, x1, y1 of a mask, x1 and y1 exclusive; zeros for an empty one."""
    if not mask.any():
        return 0, 0, 0, 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
