"""A small trainable SAM2: ultralytics' modules, an initialization suited to training, and auxiliary heads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pipeline.engines.sam2.engine import CORNERS, INSIDE, MEAN, STD
from pipeline.engines.sam2.loading import CONFIG_FILE, IMAGE_PARTS, build_from_config

ARCHITECTURE: dict[str, Any] = {
    "encoder_embed_dim": 40,
    "encoder_stages": [1, 2, 6, 1],
    "encoder_num_heads": 1,
    "encoder_global_att_blocks": [5, 8],
    "encoder_window_spec": [8, 4, 8, 4],  # they divide the maps at 128 and at 256 px, so nothing is padded
    "encoder_window_spatial_size": [7, 7],
    "encoder_backbone_channel_list": [320, 160, 80, 40],
}
EMBEDDING = 256  # channels, ultralytics' constant
KINSHIP = 64  # channels of the head that separates objects

NEARNESS = 2.5  # initial sharpness of the attention to the point's place
ATTENTION = 3.0  # initial logits by which mask tokens prefer the point to each other
LOUDNESS = 3.0  # of mask logits: their borders must be steep for the stability test, which moves the threshold by 0.95


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Outputs of a model in training for q points in n images, in float32."""

    logits: torch.Tensor  # (q, 4, s / 4, s / 4) of masks, the single one first
    quality: torch.Tensor  # (q, 4), logits of the masks' IoU
    kin: torch.Tensor  # (q, 1, s / 16, s / 16), logits of belonging to the point's object, from the encoder alone
    dense: torch.Tensor  # (n, 5, s / 16, s / 16)
    power: torch.Tensor  # mean square of the embedding


class TrainableSam2(nn.Module):
    """Ultralytics' model without its memory, and two auxiliary heads that supervise the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.sam2 = build_sam2()
        self.dense = nn.Conv2d(EMBEDDING, 5, 1)  # objectness, and distances to the sides of the box
        self.kinship = nn.Conv2d(EMBEDDING, KINSHIP, 1)  # similar for two places of one object
        self.aloofness = nn.Parameter(torch.tensor(-1.0))

    def forward(self, pictures: torch.Tensor, points: torch.Tensor, boxes: torch.Tensor | None = None) -> Answers:
        """Decode masks for points, (n, p, 2), or boxes of their objects, (n, p, 4), in images, (n, 3, s, s)."""
        levels = embed(self.sam2, pictures)
        logits, quality = ask(self.sam2, levels, points, boxes)
        kinship = self.kinship(levels[-1]).float()  # (n, d, h, w)
        here = functional.grid_sample(kinship, 2 * points[:, None] / pictures.shape[-1] - 1, align_corners=False)
        kin = torch.einsum("ndop,ndhw->nphw", here, kinship) / KINSHIP**0.5 + self.aloofness
        return Answers(
            logits=logits,
            quality=quality,
            kin=kin.flatten(0, 1)[:, None],
            dense=self.dense(levels[-1]).float(),
            power=levels[-1].float().square().mean(),
        )


def build_sam2() -> Any:
    """Build ultralytics' model for training on single images."""
    with TemporaryDirectory() as folder:
        config = Path(folder) / CONFIG_FILE
        config.write_text(json.dumps(ARCHITECTURE))
        model = build_from_config(config)
    model.memory_attention = model.memory_encoder = None
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(IMAGE_PARTS))
    decoder = model.sam_mask_decoder
    decoder.iou_prediction_head.sigmoid = False  # logits while training; the served model has it
    for head in decoder.output_hypernetworks_mlps:
        head.layers[-1].weight.data.mul_(LOUDNESS)
    attend_to_places(decoder.transformer)
    listen_to_points(decoder.transformer, model.sam_prompt_encoder.point_embeddings[1].weight[0])
    return model


@torch.no_grad()
def attend_to_places(transformer: Any) -> None:
    """Initialize cross-attentions with equal queries and keys: both hold positions, so a point attends to its place.

    With random projections a model ignores its prompts for thousands of images.
    """
    crossing = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        crossing += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for attention in crossing:
        attention.q_proj.weight.mul_(NEARNESS)
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        attention.q_proj.bias.zero_()
        attention.k_proj.bias.zero_()


@torch.no_grad()
def listen_to_points(transformer: Any, foreground: torch.Tensor) -> None:
    """Initialize the self-attentions so that the mask tokens attend to the point and copy its position.

    Args:
        foreground: (256,), the common part of all points' tokens.
    """
    for layer in transformer.layers:
        attention = layer.self_attn
        key = attention.k_proj(foreground)  # (256,)
        per_head = key.square().sum() / attention.num_heads
        attention.q_proj.bias.copy_(key * ATTENTION * (len(key) / attention.num_heads) ** 0.5 / per_head)
        for projection in (attention.v_proj, attention.out_proj):
            nn.init.eye_(projection.weight)
            projection.bias.zero_()


def prepare(pictures: Any, device: torch.device) -> torch.Tensor:
    """Normalise (n, s, s, 3) uint8 to the model's input, (n, 3, s, s)."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() - mean) / std


def embed(model: Any, pictures: torch.Tensor) -> list[torch.Tensor]:
    """Encode normalised pictures, (n, 3, s, s), to feature maps of strides 4, 8 and 16."""
    model.set_imgsz(list(pictures.shape[-2:]))
    levels = model.forward_image(pictures)["backbone_fpn"]
    return [*levels[:-1], levels[-1] + model.no_mem_embed.view(1, -1, 1, 1)]


def ask(
    model: Any, levels: list[torch.Tensor], points: torch.Tensor, boxes: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode four masks for each point, or for each box if boxes are given.

    Returns:
        Logits (n * p, 4, s / 4, s / 4) and predicted IoU (n * p, 4), in float32.
    """
    each = points.shape[1]
    if boxes is None:
        coordinates, label = points.reshape(-1, 1, 2), [INSIDE]
    else:
        coordinates, label = boxes.reshape(-1, 2, 2), CORNERS
    labels = torch.tensor([label], dtype=torch.int32, device=points.device).expand(len(coordinates), -1)
    with torch.autocast(points.device.type, enabled=False):  # half precision would misplace the points
        sparse, dense = model.sam_prompt_encoder(points=(coordinates, labels), boxes=None, masks=None)
        positions = model.sam_prompt_encoder.get_dense_pe()
    *fine, embedding = (level.repeat_interleave(each, 0) for level in levels)
    logits, quality, _, _ = model.sam_mask_decoder.predict_masks(
        image_embeddings=embedding,
        image_pe=positions,
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=False,
        high_res_features=fine,
    )
    return logits.float(), quality.float()
