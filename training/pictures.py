"""Pictures drawn by code, for calibrating the stand-ins and for tests."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch.nn import functional

from pipeline.records import Pixels

SIDE = 128  # pixels


def draw_shapes(height: int = SIDE, width: int = SIDE) -> Pixels:
    """Draw four plain shapes on grey: a rectangle, a disc, a triangle and a dot. (height, width, 3) uint8 RGB."""
    image: Pixels = np.full((SIDE, SIDE, 3), (200, 205, 210), dtype=np.uint8)
    cv2.rectangle(image, (10, 14), (50, 54), (212, 38, 38), cv2.FILLED)
    cv2.circle(image, (90, 36), 24, (45, 85, 215), cv2.FILLED)
    cv2.fillPoly(image, [np.array([[30, 112], [62, 70], [94, 112]])], (50, 165, 60))
    cv2.circle(image, (112, 100), 11, (245, 220, 50), cv2.FILLED)
    scaled: Pixels = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
    return scaled


def draw_blobs(seed: int, side: int = SIDE) -> Pixels:
    """Draw soft coloured blobs, (side, side, 3) uint8 RGB: what the untrained diffusion model paints."""
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    smooth = functional.interpolate(noise, (side, side), mode="bicubic", align_corners=False)
    levels = (128 + 60 * smooth[0]).clamp(0, 255).to(torch.uint8)
    blobs: Pixels = levels.permute(1, 2, 0).contiguous().numpy()
    return blobs
