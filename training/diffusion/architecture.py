"""The parts of a miniature Stable Diffusion, untrained, in diffusers' own classes.

16 × 16 × 16 latents of 256 px images, v-prediction from zero SNR with trailing DDIM steps, text through cross-attention
on the lower of two levels and pooled into the time embedding.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import open_clip.tokenizer
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TOKENS = 77
MERGES = 4096  # of CLIP's 48,894: most common words take one or two tokens, and the embedding stays small
TEXT_WIDTH = 128
LATENT_CHANNELS = 16
LATENT_STRIDE = 16  # pixels per latent, in each direction
IMAGE_SIDE = 256  # pixels that the UNet's `sample_size` corresponds to
VAE_WIDTH = 64
RESIDUAL_GAIN, LATENT_GAIN, IMAGE_GAIN = 0.1, 0.5, 0.3  # of the autoencoder's last convolutions when training starts
START, END = "<|startoftext|>", "<|endoftext|>"

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
    """Build a three-layer text encoder for the tokenizer."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).eval()


def build_vae() -> Any:
    """Build an autoencoder that turns 16 × 16 pixels into one latent of 16 numbers.

    Its initial weights keep the variance of what passes through them (arXiv:1502.01852), and residual blocks start
    close to the identity: with PyTorch's defaults the first thousand steps are wasted.
    """
    vae = AutoencoderTiny(
        encoder_block_out_channels=(VAE_WIDTH,) * 5,
        decoder_block_out_channels=(VAE_WIDTH,) * 5,
        num_encoder_blocks=(0, 1, 2, 3, 3),
        num_decoder_blocks=(3, 3, 2, 1, 0),
        latent_channels=LATENT_CHANNELS,
        upsample_fn="bilinear",
    )
    _initialize(vae)
    return vae.eval()


@torch.no_grad()
def _initialize(vae: Any) -> None:
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in vae.modules():
        if isinstance(module, AutoencoderTinyBlock):
            module.conv[-1].weight.mul_(RESIDUAL_GAIN)
    vae.encoder.layers[-1].weight.mul_(LATENT_GAIN)
    vae.decoder.layers[-1].weight.mul_(IMAGE_GAIN)


def build_unet() -> Any:
    """Build a UNet of two levels with attention to the text on the lower one."""
    return UNet2DConditionModel(
        sample_size=IMAGE_SIDE // LATENT_STRIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=2,
        block_out_channels=(128, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=6,  # diffusers takes it for the number of heads: 6 of 32 channels
        norm_num_groups=16,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    ).eval()


def build_scheduler() -> Any:
    """Build the noise schedule: v-prediction from pure noise on (arXiv:2305.08891), as diffusers expects it."""
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
