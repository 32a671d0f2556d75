"""Augmentation on the device, so that SAM2 works on generated images: blur, recolouring, reconstruction.

Each effect applies to a fixed share of a batch, so that none synchronizes with the device; the affected images move
from step to step, and effects overlap.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch.nn import functional

from training.timed.device import working_dtype
from training.timed.part import PartContext

RECOLOURED, BLURRED, MORE_BLURRED, COARSENED, TINTED, RECONSTRUCTED, NOISY = 0.2, 0.35, 0.15, 0.12, 0.25, 0.15, 0.2
STARTS = (0.05, 0.15, 0.55, 0.7, 0.4, 0.82, 0.3)  # where in the batch the shares begin, in the order above
LATENT_NOISE = 0.35  # standard deviation at most
TINT_CELLS = 12  # a side
BLUR_REACH = 5  # pixels


class Softener:
    """The effects; the autoencoder is added once it is trained.

    Args:
        context: of the part.
        device: of the images.
    """

    def __init__(self, context: PartContext, device: torch.device) -> None:
        self._context, self._device = context, device
        self._vae: Any = None

    def load_autoencoder(self) -> None:
        """Load the autoencoder if it is trained and not loaded yet."""
        if self._vae is not None:
            return
        self._vae = load_trained_autoencoder(self._context, self._device)
        if self._vae is not None:
            self._context.log("some images go through the autoencoder from now on")

    @torch.no_grad()
    def soften(self, images: torch.Tensor, offset: int) -> torch.Tensor:
        """Augment images, (n, 3, s, s) from 0 to 255, in place.

        Args:
            images: to change.
            offset: shift of the effects' positions in the batch.
        """

        def choose(share: float, start: float) -> torch.Tensor:
            count = max(1, round(share * len(images)))
            return (torch.arange(count, device=images.device) + int(start * len(images)) + offset) % len(images)

        shares = (RECOLOURED, BLURRED, MORE_BLURRED, COARSENED, TINTED, RECONSTRUCTED, NOISY)
        recoloured, blurred, more, coarsened, tinted, reconstructed, noisy = map(choose, shares, STARTS)
        images[recoloured] = permute_channels(images[recoloured])
        images[blurred] = blur(images[blurred], draw_between(0.3, 1.2, len(blurred), images.device))
        images[more] = blur(images[more], draw_between(1.2, 2.2, len(more), images.device))
        images[coarsened] = coarsen(images[coarsened])
        images[tinted] = tint(images[tinted])
        if self._vae is not None:
            images[reconstructed] = self._reconstruct(images[reconstructed])
        images[noisy] += draw_between(1, 6, len(noisy), images.device)[:, None, None, None] * torch.randn_like(
            images[noisy]
        )
        return images.round_().clamp_(0, 255)

    def _reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        latents = encode_images(self._vae, images)
        strength = LATENT_NOISE * torch.rand(len(latents), 1, 1, 1, device=latents.device)
        return decode_images(self._vae, latents + (strength * torch.randn_like(latents)).to(latents.dtype))


def load_trained_autoencoder(context: PartContext, device: torch.device) -> Any | None:
    """Load the autoencoder, in the type the device computes in; None if this training has none, or not yet."""
    folder = context.recipe.out / "diffusion" / "vae"
    is_trained = context.recipe.fine_tune or context.scenes.scaling is not None
    if not is_trained or not (folder / "config.json").exists():
        return None
    vae = AutoencoderTiny.from_pretrained(folder, torch_dtype=torch.float32)
    vae.to(device, working_dtype(device), memory_format=torch.channels_last)
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def encode_images(vae: Any, images: torch.Tensor) -> torch.Tensor:
    """Encode images, (n, 3, s, s) from 0 to 255, to latents, (n, 16, s / 16, s / 16)."""
    given = (images / 127.5 - 1).to(vae.dtype).contiguous(memory_format=torch.channels_last)
    latents: torch.Tensor = vae.encode(given).latents
    return latents


@torch.no_grad()
def decode_images(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decode latents to images, (n, 3, s, s) float32 from about 0 to 255."""
    images: torch.Tensor = (vae.decode(latents).sample.float() + 1) * 127.5
    return images


def draw_between(low: float, high: float, num: int, device: torch.device) -> torch.Tensor:
    """Draw numbers, (num,), uniformly from a range."""
    return low + (high - low) * torch.rand(num, device=device)


def permute_channels(images: torch.Tensor) -> torch.Tensor:
    """Permute the colour channels of each image, (n, 3, h, w)."""
    order = torch.rand(len(images), 3, device=images.device).argsort(1)
    return images.gather(1, order[:, :, None, None].expand_as(images))


def blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur each image, (n, 3, h, w), with a Gaussian of its own sigma, (n,) in pixels."""
    n, channels, height, width = images.shape
    reach = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=images.device)
    kernels = torch.exp(-0.5 * (reach / sigma[:, None]) ** 2)
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0)  # (n * 3, 11)
    flat = images.reshape(1, n * channels, height, width)
    flat = functional.pad(flat, (BLUR_REACH,) * 4, mode="reflect")
    flat = functional.conv2d(flat, kernels[:, None, None, :], groups=n * channels)
    flat = functional.conv2d(flat, kernels[:, None, :, None], groups=n * channels)
    return flat.view(n, channels, height, width)


def coarsen(images: torch.Tensor) -> torch.Tensor:
    """Remove some details from images, (n, 3, h, w), as a decoder does."""
    coarse = functional.interpolate(functional.avg_pool2d(images, 4), scale_factor=4, mode="bilinear")
    share = draw_between(0.2, 0.7, len(images), images.device)[:, None, None, None]
    return images + share * (coarse - images)


def tint(images: torch.Tensor) -> torch.Tensor:
    """Tint images, (n, 3, h, w), differently from place to place."""
    n, channels, height, width = images.shape
    coarse = torch.randn(n, channels, TINT_CELLS, TINT_CELLS, device=images.device)
    tints = functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return images + draw_between(0, 9, n, images.device)[:, None, None, None] * tints
