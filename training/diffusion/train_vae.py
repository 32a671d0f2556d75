"""A small autoencoder in diffusers' AutoencoderTiny: 16 × 16 pixels to one latent of 16 numbers, and back."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.format import open_memmap
from rich.progress import track
from torch.nn import functional

from training.diffusion.architecture import LATENT_CHANNELS, build_vae
from training.loop import Recipe, Run
from training.precision import mixed_precision
from training.scenes.dataset import Scenes

BATCH = 16
RECIPE = Recipe(steps=4000, learning_rate=2e-3, weight_decay=0.0, warmup=100, ema=0.995)
LATENT_NOISE = 0.28  # standard deviation at most; generated latents are imperfect
EDGES, COARSE_EDGES, CENTRING, OUTLIERS = 0.3, 0.15, 0.05, 0.005  # weights of the auxiliary losses
REACH = 2.5  # the decoder squeezes latents with 3 tanh(z / 3)
ENCODED_AT_ONCE = 128

Latents = npt.NDArray[np.float16]  # (n, 16, s / 16, s / 16)


def train_vae(sets: Sequence[Scenes], recipe: Recipe, checkpoint: Path | None, device: str) -> Run:
    """Train on equally many images of each set, from scratch or from the checkpoint."""
    torch.manual_seed(recipe.seed)
    return _train(build_vae(), sets, recipe, checkpoint, device, "Autoencoder")


def train_decoder(vae: Any, sets: Sequence[Scenes], recipe: Recipe, checkpoint: Path | None, device: str) -> Run:
    """Train a trained autoencoder's decoder further; the latent space stays the same."""
    vae.requires_grad_(True).encoder.requires_grad_(False)
    return _train(vae, sets, recipe, checkpoint, device, "Decoder")


def _train(vae: Any, sets: Sequence[Scenes], recipe: Recipe, checkpoint: Path | None, device: str, words: str) -> Run:
    run = Run(vae.to(device, memory_format=torch.channels_last), recipe, checkpoint)

    def loss_of(_step: int, rng: np.random.Generator) -> torch.Tensor:
        shown = [scenes.pixels[rng.integers(len(scenes), size=BATCH // len(sets))] for scenes in sets]
        pictures = to_tensor(np.concatenate(shown), device)
        with mixed_precision(pictures.device):
            latents = vae.encode(pictures).latents.float()
            made = vae.decode(add_noise(latents)).sample.float()
        return loss_of_reconstruction(made, pictures) + loss_of_latents(latents)

    run.train(loss_of, words)
    return run


def add_noise(latents: torch.Tensor) -> torch.Tensor:
    """Add normal noise to latents, (n, c, h, w), with a strength per image from 0 to LATENT_NOISE."""
    strength = LATENT_NOISE * torch.rand(len(latents), 1, 1, 1, device=latents.device)
    return latents + strength * torch.randn_like(latents)


def loss_of_reconstruction(made: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Reconstruction loss of images, (n, 3, h, w) from -1 to 1, and of their edges on two scales, against blur."""
    off = made - pictures
    coarse = functional.avg_pool2d(off, 2)
    return off.abs().mean() + off.square().mean() + EDGES * _edges(off) + COARSE_EDGES * _edges(coarse)


def _edges(maps: torch.Tensor) -> torch.Tensor:
    return maps.diff(dim=2).abs().mean() + maps.diff(dim=3).abs().mean()


def loss_of_latents(latents: torch.Tensor) -> torch.Tensor:
    """Loss of each channel's distance from mean 0 and deviation 1, and of latents beyond the decoder's range."""
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    off_centre = mean.square().mean() + (deviation - 1).square().mean()
    return CENTRING * off_centre + OUTLIERS * functional.relu(latents.abs() - REACH).square().mean()


@torch.no_grad()
def measure_psnr(vae: Any, pixels: npt.NDArray[np.uint8], device: str) -> float:
    """Mean signal-to-noise ratio of pictures, (n, h, w, 3), reconstructed by the autoencoder, in dB."""
    pictures = to_tensor(pixels, device)
    made = vae.decode(vae.encode(pictures).latents).sample.clamp(-1, 1)
    errors = ((made - pictures) / 2).square().mean((1, 2, 3))
    return float(-10 * errors.log10().mean())


def load_latents(vae: Any, scenes: Scenes, name: str, folder: Path, device: str) -> Latents:
    """Load the latents of scenes, unscaled, after computing them if `folder` doesn't hold them for these weights."""
    place = folder / f"latents-{name}-{fingerprint(vae):08x}.npy"
    if not place.exists():
        side = scenes.pixels.shape[1] // 16
        partial = place.with_suffix(".partial")
        latents = open_memmap(partial, "w+", np.float16, (len(scenes), LATENT_CHANNELS, side, side))
        for start in track(range(0, len(scenes), ENCODED_AT_ONCE), f"Encoding {len(scenes)} scenes"):
            part = slice(start, start + ENCODED_AT_ONCE)
            latents[part] = encode(vae, scenes.pixels[part], device)
        latents.flush()
        os.replace(partial, place)
    loaded: Latents = np.load(place, mmap_mode="r")
    return loaded


@torch.no_grad()
def encode(vae: Any, pixels: npt.NDArray[np.uint8], device: str) -> Latents:
    """Encode pictures, (n, h, w, 3), to latents."""
    pictures = to_tensor(pixels, device)
    with mixed_precision(pictures.device):
        latents = vae.encode(pictures).latents
    encoded: Latents = latents.half().cpu().numpy()
    return encoded


def fingerprint(vae: Any) -> int:
    """A checksum of the encoder's weights."""
    checksum = 0
    for weights in vae.encoder.state_dict().values():
        checksum = zlib.crc32(weights.cpu().contiguous().numpy().tobytes(), checksum)
    return checksum


def to_tensor(pixels: npt.NDArray[np.uint8], device: str) -> torch.Tensor:
    """Pictures, (n, h, w, 3) uint8, as input of the autoencoder, (n, 3, h, w) from -1 to 1."""
    pictures = torch.from_numpy(np.array(pixels)).to(device).permute(0, 3, 1, 2)
    return (pictures.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
