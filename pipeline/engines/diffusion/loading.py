"""Files of a diffusers pipeline, in a folder, in the hub's cache or on the hub, and its safety checker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import CLIPImageProcessor

from pipeline.engines import weights
from pipeline.records import Pixels
from pipeline.settings import ModelSource

# Files of a hub's repository that the engine reads; the same weights in other formats would triple the download.
HUB_FILES = ["*.json", "*.txt", *(f"{part}/*.safetensors" for part in ("unet", "vae", "text_encoder"))]
HUB_SAFETY_FILES = ["safety_checker/*.safetensors"]
HUB_VARIANTS = ["*.fp16.*", "*.non_ema.*"]


def find_pipeline(source: ModelSource, *, with_safety_checker: bool) -> Path:
    """Find a diffusers pipeline folder: on this machine, in the hub's cache or on the hub.

    Raises:
        ModelUnavailable: there is no such folder, or its digest isn't `source.sha256`.
    """
    local = weights.find(source)
    if local is not None:
        return local
    files = HUB_FILES + HUB_SAFETY_FILES if with_safety_checker else HUB_FILES
    try:
        folder = Path(
            snapshot_download(
                source.source, revision=source.revision, allow_patterns=files, ignore_patterns=HUB_VARIANTS
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise weights.unavailable(source.source, f"can't be had from the hub or its cache ({error})") from error
    weights.verify(folder, source.sha256)
    return folder


class SafetyChecker:
    """Classifies images by the unsafe concepts of its weights.

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
        """Return whether an image, (h, w, 3) uint8, shows an unsafe concept."""
        # A copy: torch warns of read-only arrays.
        clip_input = self._processor(images=[pixels.copy()], return_tensors="pt").pixel_values.to(self._device)
        # The checker blackens flagged images in place, so it gets a dummy image.
        _, flagged = self._checker(clip_input=clip_input, images=[np.zeros((1, 1, 3), np.float32)])
        return bool(flagged[0])
