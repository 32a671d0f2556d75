"""Selection of prompt points from a grid: coarse to fine, skipping points within known regions.

Most points of a grid lie in regions that other points have found. Skipping them loses a region only if it lies entirely
within others that were found first. How often that happens is estimated from the sampled points; if it is too often for
the required recall, the covered points are sampled as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import box_iou

COARSEST = 4  # minimum number of points per side that are always sampled
STRIDES = (4, 2, 1)

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledRegions:
    """The regions found by the points sampled so far."""

    masks: torch.Tensor  # (n, h, w) bool, of the regions without duplicates, on a coarse map of the canvas
    boxes: torch.Tensor  # (n, 4), of the same regions
    all_boxes: torch.Tensor  # (m, 4), of all candidates, with duplicates
    all_points: Index  # (m,), the grid points of the candidates


def coarse_to_fine_rounds(points_per_side: int) -> list[Index]:
    """Split a grid's indices, row by row, into rounds from coarse to fine."""
    rows, columns = np.divmod(np.arange(points_per_side**2), points_per_side)
    rounds, planned = [], np.zeros(points_per_side**2, np.bool_)
    for stride in STRIDES:
        if stride > 1 and points_per_side / stride < COARSEST:
            continue
        first = min(1, stride - 1)
        chosen = (rows % stride == first) & (columns % stride == first) & ~planned
        rounds.append(np.flatnonzero(chosen))
        planned |= chosen
    return rounds


def covered(found: SampledRegions, points: torch.Tensor, side: int) -> npt.NDArray[np.bool_]:
    """Return which points, (p, 2) x and y on a canvas of `side` pixels, lie in a region already found."""
    if len(found.masks) == 0:
        return np.zeros(len(points), np.bool_)
    covers: npt.NDArray[np.bool_] = found.masks.any(0)[_cells(found, points, side)].cpu().numpy()
    return covers


def estimate_missed(
    found: SampledRegions, sampled: Index, grid: torch.Tensor, left_out: int, side: int, max_box_iou: float
) -> float:
    """Estimate how many regions the skipped points would have added.

    A sampled point is a surprise if it lies in a region that others found and still gave one that no other point gave.
    The same proportion of surprises is expected among the skipped points.

    Args:
        found: by the sampled points.
        sampled: indices of those points in the grid.
        grid: (p, 2), all points.
        left_out: number of points skipped because they were covered.
        side: of the canvas.
        max_box_iou: above which two boxes belong to one region.
    """
    if left_out == 0 or len(found.boxes) == 0:
        return 0.0
    same = (box_iou(found.boxes, found.all_boxes) > max_box_iou).cpu().numpy()  # (n, m)
    givers = [set(found.all_points[row]) for row in same]
    inside = found.masks[:, *_cells(found, grid[sampled], side)].cpu().numpy()  # (n, sampled)
    lonely = {next(iter(points)) for points in givers if len(points) == 1}
    surprises = tests = 0
    for place, point in enumerate(sampled.tolist()):
        if any(inside[i, place] and givers[i] != {point} for i in range(len(givers))):
            tests += 1
            surprises += point in lonely
    return left_out * surprises / max(tests, 1)


def _cells(found: SampledRegions, points: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    height, width = found.masks.shape[1:]
    x = (points[:, 0] * width / side).long().clamp(0, width - 1)
    y = (points[:, 1] * height / side).long().clamp(0, height - 1)
    return y.to(found.masks.device), x.to(found.masks.device)
