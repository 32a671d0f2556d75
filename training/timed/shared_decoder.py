"""SAM2's forward pass in training, sharing the work common to all prompts of an image.

Results and gradients equal those of `TrainableSam2.forward` up to rounding. Savings: the image is projected
once per image in the decoder's first layer, whatever the number of prompts; keys, values and queries of the second
layer come from one matrix product; positions are projected once for all images; and transposed convolutions of stride 2
are matrix products on maps whose channels come last. It never synchronizes with the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from training.sam2.model import KINSHIP, Answers, TrainableSam2

INSIDE_POINT, FIRST_CORNER, SECOND_CORNER = 1, 2, 3  # of ultralytics' embeddings for kinds of points


@dataclass(frozen=True, kw_only=True)
class EncodedImages:
    """The encoder's outputs for the decoder."""

    embedding: torch.Tensor  # (n, 256, h, w), including the no-memory embedding
    fine: torch.Tensor  # (n, 32, 4h, 4w)
    medium: torch.Tensor  # (n, 64, 2h, 2w)


@dataclass(frozen=True, kw_only=True)
class DecoderState:
    """Tokens of q prompts, and their feature maps."""

    tokens: torch.Tensor  # (q, t, 256)
    keys: torch.Tensor  # (q, h * w, 256), each prompt's own map


def answer_prompts(
    model: TrainableSam2,
    images: torch.Tensor,
    points: torch.Tensor,
    boxes: torch.Tensor | None = None,
    *,
    teach_encoder: bool = True,
) -> Answers:
    """Answer prompts as `TrainableSam2.forward` does.

    Args:
        model: on the images' device.
        images: (n, 3, s, s), normalised, in the encoder's type; s as in the model's last `set_imgsz`.
        points: (n, p, 2) in pixels.
        boxes: (n, p, 4) in pixels, used instead of the points if given.
        teach_encoder: whether gradients of `kin` and `dense` reach the encoder, or end at the heads.
    """
    encoded = encode(model.sam2, images)
    each, side = points.shape[1], images.shape[-1]
    corners = points.reshape(-1, 1, 2) if boxes is None else boxes.reshape(-1, 2, 2)
    with torch.autocast(images.device.type, enabled=False):  # half precision would misplace the points
        prompts = embed_prompts(model.sam2.sam_prompt_encoder, corners, side)
    logits, quality = decode(model.sam2, encoded, prompts, each)
    shown = encoded.embedding if teach_encoder else encoded.embedding.detach()
    kinship = model.kinship(shown).float()  # (n, d, h, w)
    here = functional.grid_sample(kinship, 2 * points[:, None] / side - 1, align_corners=False)
    kin = torch.einsum("ndop,ndhw->nphw", here, kinship) / KINSHIP**0.5 + model.aloofness
    return Answers(
        logits=logits.float(),
        quality=quality.float(),
        kin=kin.flatten(0, 1)[:, None],
        dense=model.dense(shown).float(),
        power=encoded.embedding.float().square().mean(),
    )


def encode(sam2: Any, images: torch.Tensor) -> EncodedImages:
    """Encode images, (n, 3, s, s)."""
    fine, medium, coarse = sam2.forward_image(images)["backbone_fpn"]
    no_memory = sam2.no_mem_embed.view(1, -1, 1, 1)
    return EncodedImages(embedding=coarse.to(no_memory.dtype) + no_memory, fine=fine, medium=medium)


def embed_prompts(prompt_encoder: Any, corners: torch.Tensor, side: int) -> torch.Tensor:
    """Embed points, (q, 1, 2), or boxes, (q, 2, 2), as (q, k + 1, 256) in float32; the last token is padding."""
    matrix = prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    phases = 2 * math.pi * ((2 * (corners + 0.5) / side - 1) @ matrix)
    kinds = (INSIDE_POINT,) if corners.shape[1] == 1 else (FIRST_CORNER, SECOND_CORNER)
    of_kind = torch.cat([prompt_encoder.point_embeddings[kind].weight for kind in kinds])
    tokens = torch.cat([phases.sin(), phases.cos()], -1) + of_kind
    padding = prompt_encoder.not_a_point_embed.weight.expand(len(tokens), 1, -1)
    return torch.cat([tokens, padding], 1)


def decode(sam2: Any, encoded: EncodedImages, prompts: torch.Tensor, each: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode four masks for each prompt.

    Args:
        sam2: ultralytics' model.
        encoded: n images.
        prompts: (n * each, k, 256), embedded.
        each: prompts of an image.

    Returns:
        Logits (n * each, 4, 4h, 4w), and logits of their quality (n * each, 4).
    """
    decoder, transformer = sam2.sam_mask_decoder, sam2.sam_mask_decoder.transformer
    height, width = encoded.embedding.shape[-2:]
    dtype = encoded.embedding.dtype
    with torch.autocast(encoded.embedding.device.type, enabled=False):
        positions = sam2.sam_prompt_encoder.pe_layer((height, width)).to(dtype).flatten(1).T  # (h * w, 256)
    no_mask = sam2.sam_prompt_encoder.no_mask_embed.weight.to(dtype)  # (1, 256)
    image = encoded.embedding.flatten(2).transpose(1, 2) + no_mask  # (n, h * w, 256)
    own = torch.cat([decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight])
    initial = torch.cat([own.expand(len(prompts), -1, -1), prompts.to(own.dtype)], 1)  # (q, t, 256)
    state = attend_first(transformer.layers[0], initial, image, positions, each)
    state = attend_second(transformer.layers[1], initial, state, positions)
    tokens = attend_last(transformer, initial, state, positions)
    logits = predict_masks(decoder, tokens[:, 2:], state.keys.view(len(prompts), height, width, -1), encoded, each)
    return logits, decoder.iou_prediction_head(tokens[:, 1])


def attend_first(
    layer: Any, initial: torch.Tensor, image: torch.Tensor, positions: torch.Tensor, each: int
) -> DecoderState:
    """The first layer, in which all prompts of an image see the same map.

    Args:
        layer: ultralytics' block.
        initial: (q, t, 256) tokens.
        image: (n, h * w, 256).
        positions: (h * w, 256).
        each: q / n.
    """
    n, length = len(image), initial.shape[1]
    attention = layer.self_attn
    tokens = layer.norm1(
        attend(attention, attention.q_proj(initial), attention.k_proj(initial), attention.v_proj(initial))
    )
    placed = image + positions
    attention = layer.cross_attn_token_to_image
    queries = attention.q_proj(tokens + initial).view(n, each * length, -1)  # queries of all prompts in one product
    seen = attend(attention, queries, attention.k_proj(placed), attention.v_proj(image))
    tokens = layer.norm2(tokens + seen.view(n * each, length, -1))
    tokens = layer.norm3(tokens + layer.mlp(tokens))
    attention = layer.cross_attn_image_to_token
    queries = split_heads(attention, attention.q_proj(placed))  # (n, heads, h * w, c)
    queries = queries[:, None].expand(-1, each, -1, -1, -1).flatten(0, 1)
    keys = split_heads(attention, attention.k_proj(tokens + initial))
    values = split_heads(attention, attention.v_proj(tokens))
    attended = attention.out_proj(merge_heads(functional.scaled_dot_product_attention(queries, keys, values)))
    keys = layer.norm4((image[:, None] + attended.view(n, each, *image.shape[1:])).flatten(0, 1))
    return DecoderState(tokens=tokens, keys=keys)


def attend_second(layer: Any, initial: torch.Tensor, state: DecoderState, positions: torch.Tensor) -> DecoderState:
    """The second layer, in which each prompt has a map of its own."""
    attention = layer.self_attn
    placed = state.tokens + initial
    seen = attend(attention, attention.q_proj(placed), attention.k_proj(placed), attention.v_proj(state.tokens))
    tokens = layer.norm1(state.tokens + seen)
    to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
    keys, values, queries = project(
        state.keys, positions, placed=(to_image.k_proj, to_tokens.q_proj), unplaced=to_image.v_proj
    )
    tokens = layer.norm2(tokens + attend(to_image, to_image.q_proj(tokens + initial), keys, values))
    tokens = layer.norm3(tokens + layer.mlp(tokens))
    attended = attend(to_tokens, queries, to_tokens.k_proj(tokens + initial), to_tokens.v_proj(tokens))
    return DecoderState(tokens=tokens, keys=layer.norm4(state.keys + attended))


def attend_last(transformer: Any, initial: torch.Tensor, state: DecoderState, positions: torch.Tensor) -> torch.Tensor:
    """The final cross-attention of the tokens to their maps, (q, t, 256)."""
    attention = transformer.final_attn_token_to_image
    keys, values = project(state.keys, positions, placed=(attention.k_proj,), unplaced=attention.v_proj)
    seen = attend(attention, attention.q_proj(state.tokens + initial), keys, values)
    tokens: torch.Tensor = transformer.norm_final_attn(state.tokens + seen)
    return tokens


def project(
    maps: torch.Tensor, positions: torch.Tensor, *, placed: tuple[Any, ...], unplaced: Any
) -> tuple[torch.Tensor, ...]:
    """Project maps in one matrix product; positions, which all maps share, are projected once.

    Args:
        maps: (q, h * w, 256).
        positions: (h * w, 256).
        placed: projections of the maps with positions.
        unplaced: a projection of the maps as they are.

    Returns:
        The first of `placed`, then `unplaced`, then the rest of `placed`, (q, h * w, c) each.
    """
    first, *rest = placed
    order = [first, unplaced, *rest]
    projected = functional.linear(maps, torch.cat([projection.weight for projection in order]))
    shifts = [
        projection.bias.expand(len(positions), -1) if projection is unplaced else projection(positions)
        for projection in order
    ]
    return torch.split(projected + torch.cat(shifts, -1), [projection.out_features for projection in order], -1)


def predict_masks(
    decoder: Any, tokens: torch.Tensor, maps: torch.Tensor, encoded: EncodedImages, each: int
) -> torch.Tensor:
    """Upscale the maps and combine their channels with weights from the mask tokens.

    Args:
        decoder: ultralytics'.
        tokens: (q, at least 4, 256), those of masks first.
        maps: (q, h, w, 256).
        encoded: n images.
        each: q / n.

    Returns:
        (q, 4, 4h, 4w) logits.
    """
    first, norm, first_activation, second, second_activation = decoder.output_upscaling
    medium = add_to_each(upscale(first, maps), encoded.medium, each)
    medium = first_activation(functional.layer_norm(medium, medium.shape[-1:], norm.weight, norm.bias, norm.eps))
    fine = second_activation(add_to_each(upscale(second, medium), encoded.fine, each))  # (q, 4h, 4w, 32)
    mixing = torch.stack([head(tokens[:, i]) for i, head in enumerate(decoder.output_hypernetworks_mlps)], 1)
    return torch.einsum("qmc,qhwc->qmhw", mixing, fine)


def upscale(convolution: Any, maps: torch.Tensor) -> torch.Tensor:
    """Apply a transposed convolution of 2 × 2 and stride 2 to maps, (q, h, w, c), giving (q, 2h, 2w, d)."""
    q, height, width, channels = maps.shape
    out = convolution.out_channels
    weight = convolution.weight.permute(2, 3, 1, 0).reshape(4 * out, channels)  # rows of the 2 × 2, then channels
    blocks = functional.linear(maps, weight, convolution.bias.repeat(4)).view(q, height, width, 2, 2, out)
    return blocks.transpose(2, 3).reshape(q, 2 * height, 2 * width, out)


def add_to_each(maps: torch.Tensor, features: torch.Tensor, each: int) -> torch.Tensor:
    """Add the features of n images, (n, d, h, w), to the maps of their prompts, (n * each, h, w, d)."""
    of_images = maps.view(-1, each, *maps.shape[1:])
    return (of_images + features.permute(0, 2, 3, 1)[:, None]).flatten(0, 1)


def attend(attention: Any, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attend with what is projected already, (b, t, c) each, and project the result, (b, t, 256)."""
    queries, keys, values = (split_heads(attention, part) for part in (queries, keys, values))
    attended: torch.Tensor = attention.out_proj(
        merge_heads(functional.scaled_dot_product_attention(queries, keys, values))
    )
    return attended


def split_heads(attention: Any, maps: torch.Tensor) -> torch.Tensor:
    """(b, t, c) to (b, heads, t, c / heads)."""
    return maps.view(*maps.shape[:2], attention.num_heads, -1).transpose(1, 2)


def merge_heads(maps: torch.Tensor) -> torch.Tensor:
    """(b, heads, t, c) to (b, t, heads * c)."""
    return maps.transpose(1, 2).flatten(2)
