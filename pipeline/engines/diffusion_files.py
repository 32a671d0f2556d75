"""Where a diffusers pipeline's files are: in a folder, in the hub's cache, or on the hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from pipeline.engines import weights
from pipeline.settings import ModelSource

# What the engine reads of a hub's repository; the same weights in other formats would triple the download.
HUB_FILES = ["*.json", "*.txt", *(f"{part}/*.safetensors" for part in ("unet", "vae", "text_encoder"))]
HUB_SAFETY_FILES = ["safety_checker/*.safetensors"]
HUB_VARIANTS = ["*.fp16.*", "*.non_ema.*"]


def find_pipeline(source: ModelSource, *, with_safety_checker: bool) -> Path:
    """Find a diffusers pipeline folder: on this machine, in the hub's cache or on the hub.

    Raises:
        ModelUnavailable: there is no such folder, or its content isn't what `source.sha256` says.
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
