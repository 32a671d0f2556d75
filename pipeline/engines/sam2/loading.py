"""SAM2's image model, built from ultralytics' modules, with weights that are read without running code.

Ultralytics' own loader unpickles whole checkpoints, so only its builders and modules are used. The memory modules for
video are omitted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch  # before ultralytics, which sets OMP_NUM_THREADS=1 for what is loaded after it

from pipeline.engines import weights
from pipeline.settings import ModelSource

# Read when ultralytics is imported: no installation of packages, no telemetry, no update checks.
os.environ["YOLO_AUTOINSTALL"] = "false"
os.environ["YOLO_OFFLINE"] = "true"

from ultralytics.models.sam.build import _build_sam2, sam_model_map
from ultralytics.utils import SETTINGS
from ultralytics.utils.downloads import attempt_download_asset

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
IMAGE_PARTS = ("image_encoder.", "sam_prompt_encoder.", "sam_mask_decoder.", "no_mem_embed")

_BUILDERS: dict[str, Callable[[], Any]] = {name: build for name, build in sam_model_map.items() if "sam2" in name}


def load_model(source: ModelSource) -> tuple[Any, str]:
    """Build the model that a source names and load its weights.

    Args:
        source: a folder with `config.json` (arguments of ultralytics' `_build_sam2`) and `model.safetensors`, or a
            checkpoint whose name ends in one known to ultralytics, such as `sam2.1_b.pt`, or such a name alone.

    Returns:
        The model, a float32 `SAM2Model` on the CPU without its memory, and the weights' fingerprint.

    Raises:
        ModelUnavailable: the weights are missing, don't fit the model, or have another SHA-256 than the source's.
    """
    path = weights.find(source) or find_checkpoint(source)
    if path.is_dir():
        model = build_from_config(path / CONFIG_FILE)
        load_image_parts(model, path / WEIGHTS_FILE)
    else:
        model = _builder_for(path)()
        load_image_parts(model, path)
    return model, weights.fingerprint(path)


def build_from_config(path: Path) -> Any:
    """Build an untrained model from the arguments in a JSON file.

    Raises:
        ModelUnavailable: the file is missing or invalid.
    """
    if not path.is_file():
        raise weights.unavailable(path, "does not exist")
    try:
        return _build_sam2(**json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise weights.unavailable(path, f"holds no arguments of a SAM2 model ({error})") from error


def find_checkpoint(source: ModelSource) -> Path:
    """Find a checkpoint by its known name: in the working folder, in ultralytics' weights folder, or by download.

    Raises:
        ModelUnavailable: it isn't found, or its SHA-256 isn't the source's.
    """
    _builder_for(Path(source.source))
    kept = Path(SETTINGS["weights_dir"]) / source.source
    here = Path(source.source)
    try:
        path = here if here.is_file() else Path(attempt_download_asset(kept))
    except (OSError, RuntimeError) as error:
        raise weights.unavailable(source.source, f"is not at {kept} and can't be downloaded ({error})") from error
    if not path.is_file():
        raise weights.unavailable(source.source, f"is not at {kept} and can't be downloaded")
    weights.verify(path, source.sha256)
    return path


def load_image_parts(model: Any, path: Path) -> None:
    """Load the modules for single images and drop the rest of the model; other tensors in the file are ignored.

    Raises:
        ModelUnavailable: the file is unusable, lacks tensors of these modules, or has them in other shapes.
    """
    model.memory_attention = None
    model.memory_encoder = None
    found = {name: t for name, t in weights.load_state_dict(path).items() if name.startswith(IMAGE_PARTS)}
    needed = {name for name in model.state_dict() if name.startswith(IMAGE_PARTS)}
    if found.keys() != needed:
        differing = ", ".join(sorted(found.keys() ^ needed)[:3])
        raise weights.unavailable(path, f"holds another model's weights (missing or unknown: {differing}, …)")
    try:
        model.load_state_dict(found, strict=False)
    except RuntimeError as error:
        raise weights.unavailable(path, f"holds weights of other shapes ({error})") from error
    model.to(torch.float32).eval().requires_grad_(False)


def _builder_for(path: Path) -> Callable[[], Any]:
    for name, build in _BUILDERS.items():
        if path.name.endswith(name):
            return build
    raise weights.unavailable(path, f"has none of the names {', '.join(_BUILDERS)}, so its architecture is unknown")
