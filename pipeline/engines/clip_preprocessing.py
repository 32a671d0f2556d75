"""Pictures as CLIP takes them: open_clip's preprocessing on whole batches of bytes, without PIL.

Levels stay within two of PIL's, and the vectors that come of them at a cosine above 0.999.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from pipeline.records import Pixels


class Preprocessing:
    """What one model wants.

    Args:
        config: open_clip's preprocessing of it: `size`, `mean`, `std`, `interpolation`, `resize_mode`, `fill_color`.
        device: where batches go, still as bytes.
    """

    def __init__(self, config: dict[str, Any], device: str) -> None:
        size = config["size"]
        self._size: tuple[int, int] = (size, size) if isinstance(size, int) else (size[0], size[1])
        self._interpolation = InterpolationMode(config["interpolation"])
        self._mode: str = config["resize_mode"]
        self._fill = torch.tensor(config["fill_color"], dtype=torch.uint8).expand(3)[:, None, None]
        self._device = device
        self._mean, self._std = (
            torch.tensor(config[name], device=device).view(3, 1, 1) * 255 for name in ("mean", "std")
        )

    def __call__(self, pictures: Sequence[Pixels]) -> torch.Tensor:
        """Fit n pictures, (h, w, 3) uint8 of any sizes, to (n, 3, s, s) float32, normalised."""
        batch = torch.stack([self._fit(pixels) for pixels in pictures]).to(self._device)
        normalised: torch.Tensor = (batch.float() - self._mean) / self._std
        return normalised

    def _fit(self, pixels: Pixels) -> torch.Tensor:
        """Scale a picture and cut or fill it to the model's size, (3, s, s) uint8."""
        image = torch.tensor(pixels).permute(2, 0, 1)
        scaled: torch.Tensor = transforms.resize(
            image, self._scaled_size(image.shape[1], image.shape[2]), self._interpolation
        )
        height, width = self._size
        if scaled.shape[1:] == self._size:
            return scaled
        canvas = self._fill.repeat(1, height, width)
        top, left = (scaled.shape[1] - height) / 2, (scaled.shape[2] - width) / 2
        rows, into_rows = _overlap(top, scaled.shape[1], height)
        columns, into_columns = _overlap(left, scaled.shape[2], width)
        canvas[:, into_rows, into_columns] = scaled[:, rows, columns]
        return canvas

    def _scaled_size(self, height: int, width: int) -> list[int]:
        """The size to scale to, rounded as open_clip and torchvision round it."""
        if self._mode == "squash":
            return list(self._size)
        ratios = height / self._size[0], width / self._size[1]
        if self._mode == "longest":
            return [max(1, round(side / max(ratios))) for side in (height, width)]
        if self._size[0] != self._size[1]:
            return [max(1, round(side / min(ratios))) for side in (height, width)]
        side = self._size[0]
        return [side, int(side * width / height)] if height <= width else [int(side * height / width), side]


def _overlap(start: float, length: int, size: int) -> tuple[slice, slice]:
    """Which part of a side of `length` lies on a canvas of `size` round the same middle, and where on it."""
    if start >= 0:
        first = round(start)
        return slice(first, first + size), slice(0, size)
    first = int(-start)
    return slice(0, length), slice(first, first + length)
