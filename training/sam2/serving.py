"""The trained SAM2 in the engine that serves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.engines.sam2.engine import Sam2Engine
from pipeline.imaging.masks import decode_mask
from pipeline.records import Pixels, Segmentation
from pipeline.settings import AutomaticMaskSettings, ModelSource, Sam2Settings

Masks = npt.NDArray[np.bool_]  # (n, h, w)


def open_engine(folder: Path) -> Sam2Engine:
    """Load the engine on the CPU."""
    return Sam2Engine(Sam2Settings(model=ModelSource(source=str(folder.resolve()))), "cpu")


def segment(engine: Sam2Engine, pixels: Pixels, everything: AutomaticMaskSettings) -> Segmentation:
    """Segment one image."""
    *_, last = engine.segment(np.asarray(pixels), everything)
    if not isinstance(last, Segmentation):
        raise TypeError(f"the engine ended with {last}")
    return last


def masks_of(found: Segmentation) -> Masks:
    """A segmentation's regions, (n, h, w)."""
    return np.array([decode_mask(rle, found.size) for rle in found.rles], np.bool_).reshape(-1, *found.size)
