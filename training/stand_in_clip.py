"""An untrained miniature CLIP in open_clip's own folder format, calibrated so that inputs can be told apart.

Untrained towers map everything to nearly one vector. The biases of their last norms are set so that the mean over some
pictures and some prompts lies at the origin, and the projections so that no direction drowns the others. What is left
differs from input to input, but pictures and texts know nothing of each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from pipeline.engines.cifar100 import CIFAR100
from training.pictures import draw_blobs, draw_shapes

CALIBRATION_BLOBS = 63
SHRINKAGE = 0.1  # of the mean variance, added to each direction's: few pictures tell little of many directions

MODEL: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 128, "head_width": 32, "patch_size": 8},
    # The whole vocabulary, or open_clip's own tokenizer couldn't be used; so the width is small.
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}
PREPROCESSING: dict[str, Any] = {
    "mean": list(OPENAI_DATASET_MEAN),
    "std": list(OPENAI_DATASET_STD),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def make_clip(folder: Path, seed: int) -> None:
    """Write the model folder. The same seed writes the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    model: Any = open_clip.CLIP(**MODEL).eval().requires_grad_(False)
    pictures, prompts = calibration_pictures(), calibration_prompts()
    centre(model.visual.ln_post, lambda: model.encode_image(pictures), at=torch.zeros(len(pictures), dtype=torch.long))
    whiten(model.visual.proj, model.encode_image(pictures))
    centre(model.ln_final, lambda: model.encode_text(prompts), at=prompts.argmax(dim=1))
    whiten(model.text_projection, model.encode_text(prompts))
    config = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESSING}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    state = {name: t.half().contiguous() for name, t in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")


def calibration_pictures() -> torch.Tensor:
    """Some pictures as the model sees them, (n, 3, 64, 64)."""
    config = PreprocessCfg(size=MODEL["vision_cfg"]["image_size"], **PREPROCESSING)
    preprocess: Any = image_transform_v2(config, is_train=False)
    pictures = [draw_shapes(), *(draw_blobs(i) for i in range(CALIBRATION_BLOBS))]
    return torch.stack([preprocess(Image.fromarray(picture)) for picture in pictures])


def calibration_prompts() -> torch.Tensor:
    """The token ids of some prompts, (n, 77)."""
    tokens: torch.Tensor = open_clip.get_tokenizer("ViT-B-32")([f"a photo of a {label}" for label in CIFAR100])
    return tokens


def centre(norm: nn.Module, encode: Callable[[], object], at: torch.Tensor) -> None:
    """Set the bias of a tower's last norm so that what it puts out has the mean 0 over a batch.

    Args:
        norm: a LayerNorm that puts out (n, tokens, d).
        encode: runs the batch through the tower.
        at: (n,), which of the tokens the tower goes on with: a picture's first, a text's end.
    """
    seen: list[torch.Tensor] = []
    hook = norm.register_forward_hook(lambda _layer, _given, result: seen.append(result))
    encode()
    hook.remove()
    norm.get_parameter("bias").sub_(seen[0][torch.arange(len(at)), at].mean(dim=0))


def whiten(projection: torch.Tensor, vectors: torch.Tensor) -> None:
    """Rescale a projection, (width, d), so that the vectors it made, (n, d), would vary alike in all directions."""
    variances, axes = torch.linalg.eigh(torch.cov(vectors.T))
    scales = (variances.clamp(min=0) + SHRINKAGE * variances.mean()).rsqrt()
    projection.copy_(projection @ axes @ torch.diag(scales) @ axes.T)
