"""An untrained miniature SAM2 for ultralytics' modules, calibrated so that it finds a handful of regions.

Left as it is, an untrained SAM2 gives every point the same faint mask and the same score. Only the last layers of the
mask and score heads are changed: what all points have in common is taken out, what differs is made loud. The regions
follow colours, but they mean nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.engines.sam2 import Sam2Engine
from pipeline.engines.sam2_model import CONFIG_FILE, IMAGE_PARTS, WEIGHTS_FILE, build_from_config
from pipeline.records import Pixels
from pipeline.settings import Everything, ModelSource, Sam2Settings
from training.pictures import SIDE, draw_blobs, draw_shapes

ARCHITECTURE: dict[str, Any] = {
    "encoder_embed_dim": 32,
    "encoder_stages": [1, 1, 3, 1],
    "encoder_num_heads": 1,
    "encoder_global_att_blocks": [3],
    "encoder_window_spec": [8, 4, 14, 7],
    "encoder_window_spatial_size": [7, 7],
    "encoder_backbone_channel_list": [256, 128, 64, 32],
}

# Found by trial: with these, drawn shapes and generated blobs give 1 to 8 regions at the mini profile's thresholds.
LOGIT_SCALE = 45.0  # standard deviation of mask logits; the louder, the more stable
COVERAGE = 1.8  # standard deviations a pixel must be above the mean to belong to a mask
SCORE_MEAN = 0.15  # logit of the mean predicted IoU; its standard deviation over masks is 1
CALIBRATION_BLOBS = 4


def make_sam2(folder: Path, seed: int) -> None:
    """Write the model folder. The same seed writes the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(ARCHITECTURE, indent=2) + "\n")
    torch.manual_seed(seed)
    model = build_from_config(folder / CONFIG_FILE).requires_grad_(False)
    save_image_parts(model, folder / WEIGHTS_FILE)
    # Once round through the engine's own loader: what is calibrated is what will be read.
    engine = Sam2Engine(Sam2Settings(model=ModelSource(source=str(folder.resolve()))), "cpu")
    calibrate(engine, [draw_shapes(), *(draw_blobs(i) for i in range(CALIBRATION_BLOBS))])
    save_image_parts(engine.model, folder / WEIGHTS_FILE)


def save_image_parts(model: Any, path: Path) -> None:
    """Save what single images need, in half precision, without the memory for videos."""
    state = {name: t.half().contiguous() for name, t in model.state_dict().items() if name.startswith(IMAGE_PARTS)}
    save_file(state, path)


@torch.no_grad()
def calibrate(engine: Sam2Engine, pictures: Sequence[Pixels]) -> None:
    """Rescale the last layers of the decoder's heads by their statistics over pictures and points."""
    decoder = engine.model.sam_mask_decoder
    heads = [mlp.layers[-1] for mlp in decoder.output_hypernetworks_mlps[1:]]  # the first is for single masks
    seen = watch(
        engine, pictures, inputs=[*heads, decoder.iou_prediction_head.layers[-1]], output=decoder.output_upscaling[-1]
    )
    *hidden, scored, upscaled = seen  # (n, p, 256) each, and (n, p, 32, h, w)
    pixels = upscaled.mean(1)  # (n, 32, h, w): points hardly change it
    for layer, states in zip(heads, hidden, strict=True):
        separate_masks(layer, states, pixels)
    spread_scores(decoder.iou_prediction_head.layers[-1], scored)


def watch(
    engine: Sam2Engine, pictures: Sequence[Pixels], inputs: list[nn.Module], output: nn.Module
) -> list[torch.Tensor]:
    """Segment pictures and stack, over pictures, what enters the layers `inputs` and what leaves the layer `output`."""
    seen: list[list[torch.Tensor]] = [[] for _ in range(len(inputs) + 1)]

    def keep(store: list[torch.Tensor]) -> Callable[..., None]:
        return lambda _layer, given, *result: store.append((result or given)[0].clone())

    hooks = [layer.register_forward_pre_hook(keep(store)) for layer, store in zip(inputs, seen, strict=False)]
    hooks.append(output.register_forward_hook(keep(seen[-1])))
    nothing = Everything(image_size=SIDE, points_per_side=8, points_per_batch=64, min_predicted_iou=1.0)
    for picture in pictures:
        list(engine.segment(picture, nothing))
    for hook in hooks:
        hook.remove()
    return [torch.stack(store) for store in seen]


def separate_masks(layer: nn.Linear, states: torch.Tensor, pixels: torch.Tensor) -> None:
    """Make a mask depend on its point alone, centre it on the mean pixel, and push it down to a small area.

    Args:
        layer: the last layer of one mask's hypernetwork, 256 to 32.
        states: (n, p, 256), its inputs.
        pixels: (n, 32, h, w), what its outputs are multiplied with.
    """
    mean_pixel = pixels.mean((0, 2, 3))  # (32,)
    direction = mean_pixel / mean_pixel.norm()
    weight = layer.weight - torch.outer(direction, direction @ layer.weight)
    mean_state = states.mean((0, 1))
    logits = torch.einsum("npd,cd,nchw->nphw", states - mean_state, weight, pixels)
    layer.weight.copy_(weight * LOGIT_SCALE / logits.std())
    threshold = COVERAGE * LOGIT_SCALE * direction / mean_pixel.norm()
    layer.bias.copy_(-layer.weight @ mean_state - threshold)


def spread_scores(layer: nn.Linear, states: torch.Tensor) -> None:
    """Give each mask's score, before its sigmoid, the mean SCORE_MEAN and a standard deviation of 1.

    Args:
        layer: the last layer of the score head, 256 to 4.
        states: (n, p, 256), its inputs.
    """
    layer.weight.div_((states @ layer.weight.T).std((0, 1))[:, None])
    layer.bias.copy_(SCORE_MEAN - layer.weight @ states.mean((0, 1)))
