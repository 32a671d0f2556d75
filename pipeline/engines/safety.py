"""Stable Diffusion's own safety checker, as diffusers stores it beside the pipeline's other parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPImageProcessor

from pipeline.records import Pixels


class SafetyChecker:
    """Compares an image with the concepts its weights name.

    Raises:
        OSError: the pipeline folder has no `safety_checker` or no `feature_extractor`.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._device = device
        self._processor = CLIPImageProcessor.from_pretrained(folder / "feature_extractor", local_files_only=True)
        checker = StableDiffusionSafetyChecker.from_pretrained(
            folder / "safety_checker", dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        self._checker = checker.to(device).eval()

    def flags(self, pixels: Pixels) -> bool:
        """Say whether an image, (h, w, 3) uint8, shows what the checker was made to refuse."""
        # A copy: torch warns of arrays it must not write.
        clip_input = self._processor(images=[pixels.copy()], return_tensors="pt").pixel_values.to(self._device)
        # The checker paints flagged images black in place, so it gets something to paint on.
        _, flagged = self._checker(clip_input=clip_input, images=[np.zeros((1, 1, 3), np.float32)])
        return bool(flagged[0])
