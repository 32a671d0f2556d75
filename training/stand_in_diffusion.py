"""An untrained miniature Stable Diffusion in diffusers' own format, calibrated to paint soft coloured blobs.

The parts have the shapes a trained 128 px model would have: 8 × 8 × 12 latents, v-prediction from zero SNR with
trailing DDIM steps, text through cross-attention and pooled into the time embedding. They just know nothing.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import open_clip.tokenizer
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

TOKENS = 77
MERGES = 4096  # of CLIP's 48,894: most everyday words stay one or two tokens, and the embedding stays small
TEXT_WIDTH = 64
LATENT_CHANNELS = 12
START, END = "<|startoftext|>", "<|endoftext|>"

CONTRAST = 0.2  # standard deviation of a colour channel, 0 to 1
PREDICTION_SCALE = 0.8  # standard deviation of the predicted v, whose targets have about 1
TEXT_GAIN = 3.0  # how much louder the pooled text is than the time, or prompts would hardly show
CALIBRATION_IMAGES = 16

MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderTiny"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
}


def make_diffusion(folder: Path, seed: int) -> None:
    """Write the pipeline folder. The same seed writes the same bytes."""
    transformers_logging.disable_progress_bar()
    torch.manual_seed(seed)
    tokenizer = write_tokenizer(folder / "tokenizer")
    text_encoder = build_text_encoder(tokenizer)
    vae = build_vae()
    unet = build_unet()
    soften(vae)
    spread_colours(vae)
    set_prediction_scale(unet)
    for name, part in {"text_encoder": text_encoder, "vae": vae, "unet": unet}.items():
        part.half().save_pretrained(folder / name, safe_serialization=True)
    build_scheduler().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")


def write_tokenizer(folder: Path) -> Any:
    """Write CLIP's byte-pair tokenizer with its most frequent merges only, in transformers' format."""
    vocabulary_file = Path(open_clip.tokenizer.default_bpe())
    lines = gzip.decompress(vocabulary_file.read_bytes()).decode().split("\n")
    merges = lines[1 : MERGES + 1]  # the first line is a header
    letters = list(open_clip.tokenizer.bytes_to_unicode().values())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(m.split()) for m in merges), START, END]
    tokenizer = CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[tuple(merge.split()) for merge in merges],
        model_max_length=TOKENS,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_text_encoder(tokenizer: Any) -> Any:
    """Build a two-layer text encoder for the tokenizer."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).eval()


def build_vae() -> Any:
    """Build an autoencoder that turns 16 × 16 pixels into one latent of 12 numbers."""
    return AutoencoderTiny(
        encoder_block_out_channels=(32,) * 5,
        decoder_block_out_channels=(32,) * 5,
        num_encoder_blocks=(0, 1, 1, 2, 2),
        num_decoder_blocks=(3, 2, 1, 1, 0),
        latent_channels=LATENT_CHANNELS,
        upsample_fn="bilinear",
    ).eval()


def build_unet() -> Any:
    """Build a UNet of two levels with attention to the text on both."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(96, 160),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    ).eval()


def build_scheduler() -> Any:
    """Build the noise schedule: v-prediction from pure noise on (arXiv:2305.08891), as diffusers wants it."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # pipelines rewrite 0 to 1 and warn; trailing steps don't use it
    )


@torch.no_grad()
def soften(vae: Any) -> None:
    """Turn random texture into soft blobs: blur among the latents, and let finer levels mix channels only.

    Zero padding would darken a frame at every level; without 3 × 3 sums on the finer ones it doesn't.
    """
    upsampled = False
    for layer in vae.decoder.modules():
        upsampled = upsampled or isinstance(layer, nn.Upsample)
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            mean = layer.weight.mean((2, 3))
            layer.weight.copy_(mean[..., None, None].expand_as(layer.weight))
            if upsampled:
                layer.weight.zero_()
                layer.weight[:, :, 1, 1] = 3 * mean  # nine independent weights add up to three of one's size


@torch.no_grad()
def spread_colours(vae: Any) -> None:
    """Rescale the decoder's last layer so that colours of random latents are independent, centred on grey and vivid."""
    latents = torch.randn(CALIBRATION_IMAGES, LATENT_CHANNELS, 8, 8)
    colours = (vae.decode(latents).sample / 2 + 0.5).transpose(0, 1).flatten(1)  # (3, pixels)
    last: nn.Conv2d = vae.decoder.layers[-1]
    values, axes = torch.linalg.eigh(torch.cov(colours))
    whiten = CONTRAST * axes @ torch.diag(values.clamp(min=1e-12).rsqrt()) @ axes.T  # (3, 3)
    bias = last.get_parameter("bias")
    bias.copy_(0.5 + whiten @ (bias - colours.mean(1)))
    last.weight.copy_(torch.einsum("ij,jkhw->ikhw", whiten, last.weight))


@torch.no_grad()
def set_prediction_scale(unet: Any) -> None:
    """Make prompts audible in the time embedding, then scale the last layer to predictions of a plausible size."""
    unet.add_embedding.norm2.weight.mul_(TEXT_GAIN)
    latents = torch.randn(CALIBRATION_IMAGES, LATENT_CHANNELS, 8, 8)
    text = nn.functional.layer_norm(torch.randn(CALIBRATION_IMAGES, TOKENS, TEXT_WIDTH), (TEXT_WIDTH,))
    predicted = unet(latents, 500, encoder_hidden_states=text).sample
    for parameter in (unet.conv_out.weight, unet.conv_out.bias):
        parameter.mul_(PREDICTION_SCALE / predicted.std())
