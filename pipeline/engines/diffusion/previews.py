"""Previews of latents: a few decoded, or all approximated by a linear map fitted once to the decoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pipeline.records import Pixels

FIT_SIDE = 16  # latents; enough equations for a few unknowns, and quickly decoded
FIT_SEED = 0
PIXELS = 4  # of the image for one of the preview, in each direction


def predict_clean(
    scheduler: Any, scaled: torch.Tensor, timestep: torch.Tensor, predicted: torch.Tensor
) -> torch.Tensor:
    """Estimate the clean latents from one call of the UNet (arXiv:2010.02502, eq. 12; arXiv:2202.00512).

    Args:
        scheduler: a diffusers scheduler, for its noise levels and prediction type.
        scaled: the UNet's input, (n, c, h, w): of unit variance for every scheduler.
        timestep: of the call.
        predicted: the UNet's output with guidance, (n, c, h, w).
    """
    signal: float = scheduler.alphas_cumprod[int(timestep)].item()
    match scheduler.config.prediction_type:
        case "epsilon":
            return (scaled - math.sqrt(1 - signal) * predicted) / math.sqrt(max(signal, 1e-6))
        case "v_prediction":
            return math.sqrt(signal) * scaled - math.sqrt(1 - signal) * predicted
        case _:
            return predicted


def is_decoded(step: int, num_steps: int, wanted: int) -> bool:
    """Return whether to decode the image after a step, from 1, so that `wanted` previews are spread evenly.

    One comes early, after step 2, and none after the last step, which the image itself follows.
    """
    if step == num_steps:
        return False
    return step == 2 or step * wanted // num_steps > (step - 1) * wanted // num_steps


class LatentPreview:
    """A linear approximation of a decoder, by least squares, at a quarter of its resolution.

    Args:
        decode: turns latents, (1, c, h, w), into pixels, (h * f, w * f, 3).
        channels: c.
    """

    def __init__(self, decode: Callable[[torch.Tensor], Pixels], channels: int) -> None:
        generator = torch.Generator().manual_seed(FIT_SEED)
        latents = torch.randn(1, channels, FIT_SIDE, FIT_SIDE, generator=generator)
        decoded = decode(latents).astype(np.float32)
        self._side = max(1, len(decoded) // FIT_SIDE // PIXELS)  # of one latent's patch
        cell = len(decoded) // FIT_SIDE // self._side
        small = decoded.reshape(FIT_SIDE * self._side, cell, FIT_SIDE * self._side, cell, 3).mean((1, 3))
        patches = small.reshape(FIT_SIDE, self._side, FIT_SIDE, self._side, 3).swapaxes(1, 2)
        self._map, *_ = np.linalg.lstsq(_with_one(latents), patches.reshape(FIT_SIDE**2, -1), rcond=None)

    def draw(self, latents: torch.Tensor) -> Pixels:
        """Draw latents, (1, c, h, w), as (h * f / 4, w * f / 4, 3)."""
        h, w = latents.shape[-2:]
        patches = _with_one(latents.float().cpu()) @ self._map
        levels = patches.clip(0, 255).round().astype(np.uint8)
        drawn: Pixels = levels.reshape(h, w, self._side, self._side, 3).swapaxes(1, 2)
        return drawn.reshape(h * self._side, w * self._side, 3)


def _with_one(latents: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Reshape latents, (1, c, h, w), to (h * w, c + 1), with a last column of ones for the constant term."""
    rows = latents[0].permute(1, 2, 0).reshape(-1, latents.shape[1]).numpy()
    return np.hstack([rows, np.ones((len(rows), 1), np.float32)])
