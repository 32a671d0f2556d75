"""Prompts for SAM2 sampled on the device, like those of `training.sam2.prompts`, without the host.

The mask of a point is the visible part of the object under it, that of a box the object it surrounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from training.sam2.prompts import BACKGROUND_SHARE, MIN_PX, SLACK, THIN_PX, THIN_SHARE
from training.scenes.dataset import MAX_THINGS

CELL = 16  # pixels of the encoder's stride


@dataclass(frozen=True, kw_only=True)
class ImagePrompts:
    """Images with several prompts each, and their targets."""

    images: torch.Tensor  # (n, 3, s, s) float32, 0 to 255
    points: torch.Tensor  # (n, p, 2): x and y in pixels
    boxes: torch.Tensor  # (n, p, 4): x0, y0, x1 and y1 in pixels, with jitter
    truth: torch.Tensor  # (n, p, s, s) bool
    is_thing: torch.Tensor  # (n, s / 16, s / 16) bool: whether a thing is in the middle of a cell
    distances: torch.Tensor  # (n, 4, s / 16, s / 16): from there to the sides of its box, as shares of the side


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Boxes around the owners of pixels, (n, 4) int64 each, with the last pixel inside."""

    left: torch.Tensor
    right: torch.Tensor
    top: torch.Tensor
    bottom: torch.Tensor


def draw_image_prompts(pixels: torch.Tensor, owners: torch.Tensor, num: int, each: int) -> ImagePrompts:
    """Draw images, half of them mirrored, and prompts in them.

    Args:
        pixels: (m, s, s, 3) uint8 of all scenes.
        owners: (m, s, s) uint8: 0 the background, then the things.
        num: of images.
        each: prompts of an image.
    """
    device = pixels.device
    index = torch.randint(len(pixels), (num,), device=device)
    mirrored = torch.rand(num, device=device) < 0.5
    shown, own = pixels[index], owners[index]
    shown = torch.where(mirrored[:, None, None, None], shown.flip(2), shown)
    own = torch.where(mirrored[:, None, None], own.flip(2), own)
    numbers = torch.arange(MAX_THINGS + 1, device=device, dtype=own.dtype)
    masks = own[:, None] == numbers[:, None, None]  # (n, 4, s, s)
    chosen = choose_owners(masks, each)  # (n, p)
    truth = own[:, None] == chosen[:, :, None, None].to(own.dtype)
    bounds = find_bounds(masks)
    is_thing, distances = measure_cells(own, bounds)
    return ImagePrompts(
        images=shown.permute(0, 3, 1, 2).float(),
        points=draw_points(masks, chosen, truth),
        boxes=draw_boxes(bounds, chosen, own.shape[-1]),
        truth=truth,
        is_thing=is_thing,
        distances=distances,
    )


def choose_owners(masks: torch.Tensor, each: int) -> torch.Tensor:
    """Choose prompted masks: visible objects with equal probability, and sometimes the background.

    Args:
        masks: (n, 4, s, s) bool, the background first.
        each: prompts of an image.

    Returns:
        (n, each) int64.
    """
    visible = masks.flatten(2).sum(2) >= MIN_PX  # (n, 4)
    things = visible[:, 1:]
    luck = torch.rand(len(masks), each, MAX_THINGS, device=masks.device).masked_fill(~things[:, None], -1.0)
    behind = (torch.rand(len(masks), each, device=masks.device) < BACKGROUND_SHARE) & visible[:, :1]
    return torch.where(behind | ~things.any(1, keepdim=True), 0, luck.argmax(2) + 1)


def draw_points(masks: torch.Tensor, chosen: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Draw a point in each of the chosen masks, (n, p, 2), sometimes on a part too thin for most grids."""
    n, each, side = *chosen.shape, masks.shape[-1]
    reach = THIN_PX // 2
    solid = masks.to(torch.bfloat16 if masks.is_cuda else torch.float32)
    eroded = -functional.max_pool2d(-solid, THIN_PX, 1, reach)
    opened = functional.max_pool2d(eroded, THIN_PX, 1, reach)
    thin = (masks & (opened < 0.5)).flatten(2)  # (n, 4, s * s)
    has_thin = thin.any(2).gather(1, chosen)
    on_thin = (torch.rand(n, each, device=masks.device) < THIN_SHARE) & has_thin
    images = torch.arange(n, device=masks.device)[:, None]
    allowed = torch.where(on_thin[:, :, None], thin[images, chosen], truth.flatten(2))  # (n, p, s * s)
    place = (torch.rand(allowed.shape, device=masks.device) + 1).mul_(allowed).argmax(2)
    corner = torch.stack([place % side, place // side], -1).float()
    return corner + torch.rand(n, each, 2, device=masks.device)


def find_bounds(masks: torch.Tensor) -> Bounds:
    """Find the box around each mask, (n, 4, s, s) bool."""
    left, right = find_ends(masks.any(2))
    top, bottom = find_ends(masks.any(3))
    return Bounds(left=left, right=right, top=top, bottom=bottom)


def find_ends(flags: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the indices of the first and of the last flag that is set, (..., s) to (...) each."""
    numbers = flags.float()
    return numbers.argmax(-1), flags.shape[-1] - 1 - numbers.flip(-1).argmax(-1)


def draw_boxes(bounds: Bounds, chosen: torch.Tensor, side: int) -> torch.Tensor:
    """Draw boxes around the chosen masks, (n, p, 4), with jittered sides."""
    x0, x1 = bounds.left.gather(1, chosen).float(), bounds.right.gather(1, chosen).float() + 1
    y0, y1 = bounds.top.gather(1, chosen).float(), bounds.bottom.gather(1, chosen).float() + 1
    lengths = torch.stack([x1 - x0, y1 - y0, x1 - x0, y1 - y0], -1)
    exact = torch.stack([x0, y0, x1, y1], -1)
    return (exact + SLACK / 2 * lengths * torch.randn_like(exact)).clamp(0, side)


def measure_cells(owners: torch.Tensor, bounds: Bounds) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets of the dense head, (n, c, c) bool and (n, 4, c, c), from owners of pixels, (n, s, s)."""
    side = owners.shape[-1]
    cells = side // CELL
    middles = ((torch.arange(cells, device=owners.device) + 0.5) * side / cells).long()
    there = owners[:, middles][:, :, middles].long()  # (n, c, c)

    def at_cells(edge: torch.Tensor) -> torch.Tensor:
        return edge.gather(1, there.flatten(1)).view_as(there)

    x, y = middles[None, None, :], middles[None, :, None]
    distances = [x - at_cells(bounds.left), at_cells(bounds.right) - x]
    distances += [y - at_cells(bounds.top), at_cells(bounds.bottom) - y]
    return there > 0, torch.stack(distances, 1).float() / side
