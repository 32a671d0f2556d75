"""The autoencoder: trained on whole images, then all scenes are encoded as they are drawn, then the decoder alone.

The latent space is fixed once the encoder is trained, so the denoiser can start; the decoder is trained further with a
low share of the GPU.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny

from training.diffusion.architecture import build_vae
from training.diffusion.train import save_part
from training.diffusion.train_vae import add_noise, loss_of_latents, loss_of_reconstruction, to_tensor
from training.precision import mixed_precision
from training.timed.device import prepare_torch
from training.timed.master_weights import MasterWeights
from training.timed.part import PartContext, open_part
from training.timed.saving import BackgroundWriter, staged
from training.timed.shared_scenes import NewChunks
from training.timed.stage_log import StageLog

RATE, DECODER_RATE, FINAL_RATE = 1.0e-3, 4e-4, 0.02
BETAS = (0.9, 0.98)
WARMUP_SHARE = 0.5  # of the scale's warm-up
CHUNKS_AT_ONCE = 5  # encoded in a batch
CHUNKS_LATER = 10  # taken every few steps
TAKE_EVERY = 20  # steps
PAUSE = 2.5  # ratio of the decoder's pauses to its compute time


class ImagePool:
    """Images on the device, (n, s, s, 3) uint8, up to a capacity."""

    def __init__(self, context: PartContext, device: torch.device) -> None:
        scale, self._scenes = context.recipe.scale, context.scenes
        room = min(scale.autoencoder_images // scale.chunk, len(self._scenes.drawn)) * scale.chunk
        self._pixels = torch.empty((room, scale.side, scale.side, 3), dtype=torch.uint8, device=device)
        self._new = NewChunks(self._scenes.drawn)
        self.num = 0

    def pull(self, chunks: int) -> None:
        """Take at most so many new chunks of scenes."""
        size = self._scenes.layout.chunk
        for chunk in self._new.take(min(chunks, (len(self._pixels) - self.num) // size)):
            pixels = np.array(self._scenes.pixels[self._scenes.rows(chunk)])
            self._pixels[self.num : self.num + size] = torch.from_numpy(pixels).to(self._pixels.device)
            self.num += size

    def sample(self, num: int) -> torch.Tensor:
        """Sample images as input of the autoencoder, (num, 3, s, s) from -1 to 1."""
        chosen = self._pixels[torch.randint(self.num, (num,), device=self._pixels.device)]
        images = chosen.permute(0, 3, 1, 2).float() / 127.5 - 1
        return images.contiguous(memory_format=torch.channels_last)


class Encoder:
    """Encodes scenes as they are drawn, with a trained autoencoder."""

    def __init__(self, context: PartContext, vae: Any, device: torch.device) -> None:
        self._scenes, self._vae, self._device = context.scenes, vae, device
        self._new = NewChunks(self._scenes.drawn)

    def encode_new(self, most: int | None = None) -> int:
        """Encode at most so many new chunks, None for all, and return how many there were."""
        scenes, total = self._scenes, 0
        while chunks := list(self._new.take(min(CHUNKS_AT_ONCE, (most or len(scenes.drawn)) - total))):
            pixels = np.concatenate([scenes.pixels[scenes.rows(chunk)] for chunk in chunks])
            with torch.no_grad(), mixed_precision(self._device):
                latents = self._vae.encode(to_tensor(pixels, str(self._device))).latents
            for chunk, encoded in zip(chunks, latents.half().cpu().split(scenes.layout.chunk), strict=True):
                scenes.latents[scenes.rows(chunk)] = encoded.numpy()
                scenes.encoded[chunk] = 1
            total += len(chunks)
            if most is not None and total >= most:
                break
        return total


def main() -> None:
    """Train the autoencoder, or load the one to fine-tune; encode all scenes; train the decoder further."""
    context = open_part("autoencoder")
    context.wait_for_start()
    device = prepare_torch(context)
    context.wait_for_scenes()
    images = ImagePool(context, device)
    images.pull(context.recipe.first_chunks)
    if context.recipe.fine_tune:
        vae = load_vae(context, device)
        scaling = float(vae.config.scaling_factor)
    else:
        vae = train_autoencoder(context, images, device)
        scaling = None
    encoder = Encoder(context, vae, device)
    encoder.encode_new(context.recipe.first_chunks)
    scaling = scaling or measure_scaling(context)
    save_vae(context, vae, scaling)
    context.scenes.scaling = scaling
    context.log(f"scaling {scaling:.4f}; the latents' meaning is settled")
    encoder.encode_new()
    train_decoder(context, vae, encoder, images, device)


def load_vae(context: PartContext, device: torch.device) -> Any:
    """Load the autoencoder to fine-tune."""
    vae = AutoencoderTiny.from_pretrained(context.recipe.out / "diffusion" / "vae", torch_dtype=torch.float32)
    return vae.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def train_autoencoder(context: PartContext, images: ImagePool, device: torch.device) -> Any:
    """Train an autoencoder from scratch and return it with its averaged weights."""
    recipe, scale = context.recipe, context.recipe.scale
    vae: Any = build_vae().train().to(device, memory_format=torch.channels_last)
    weights = MasterWeights(betas=BETAS, weight_decay=0.0)
    weights.add(vae.named_parameters(), dtype=torch.float32)
    schedule = context.schedule(recipe.timetable.autoencoder)
    log = StageLog(context, "diffusion", "Autoencoder", RATE * recipe.rate_share, schedule)
    while not schedule.is_over:
        batch = scale.autoencoder_batches[schedule.progress >= 0.5]
        shown = images.sample(batch)
        with mixed_precision(device):
            latents = vae.encode(shown).latents.float()
            made = vae.decode(add_noise(latents)).sample.float()
        loss = loss_of_reconstruction(made, shown) + loss_of_latents(latents)
        loss.backward()  # type: ignore[no-untyped-call]
        weights.step(schedule.rate(RATE * recipe.rate_share, warmup_of(context), FINAL_RATE))
        log.add(loss, batch)
        log.report()
        if schedule.steps % TAKE_EVERY == 0:
            images.pull(CHUNKS_LATER)
    log.finish()
    vae.load_state_dict(weights.averaged(), strict=False)
    return vae.eval().requires_grad_(False)


def train_decoder(context: PartContext, vae: Any, encoder: Encoder, images: ImagePool, device: torch.device) -> None:
    """Train the decoder further during the other parts' training, encode new scenes, and write both."""
    recipe, scale = context.recipe, context.recipe.scale
    batch = scale.autoencoder_batches[1]
    vae.train().decoder.requires_grad_(True)
    weights = MasterWeights(betas=BETAS, weight_decay=0.0)
    weights.add(vae.decoder.named_parameters(prefix="decoder"), dtype=torch.float32)
    schedule = context.schedule(recipe.timetable.decoder)
    log = StageLog(context, "diffusion", "Decoder", DECODER_RATE * recipe.rate_share, schedule)
    writer = BackgroundWriter(context)
    while not schedule.is_over:
        started = time.monotonic()
        shown = images.sample(batch)
        with mixed_precision(device):
            with torch.no_grad():
                latents = vae.encode(shown).latents.float()
            made = vae.decode(add_noise(latents)).sample.float()
        loss = loss_of_reconstruction(made, shown)
        loss.backward()  # type: ignore[no-untyped-call]
        weights.step(schedule.rate(DECODER_RATE * recipe.rate_share, warmup_of(context), FINAL_RATE))
        log.add(loss, batch)
        if log.report():
            writer.submit(save_averaged, context, vae, weights.averaged())
        if not encoder.encode_new(CHUNKS_LATER) and schedule.steps % TAKE_EVERY == 0:
            images.pull(CHUNKS_LATER)
        if device.type == "cuda":
            yield_device(started)
    writer.wait()
    save_averaged(context, vae, weights.averaged())
    log.finish()
    encoder.encode_new()


def yield_device(started_s: float) -> None:
    """Pause in proportion to the step's duration, so that the denoiser and SAM2 get the GPU."""
    torch.cuda.synchronize()
    time.sleep(min(1.0, PAUSE * (time.monotonic() - started_s)))


def warmup_of(context: PartContext) -> int:
    """Number of warm-up steps of the learning rate."""
    return max(1, round(WARMUP_SHARE * context.recipe.scale.warmup))


def measure_scaling(context: PartContext) -> float:
    """The scale that gives the latents so far a deviation of 1."""
    scenes = context.scenes
    known = np.flatnonzero(np.repeat(scenes.encoded, scenes.layout.chunk))
    return 1 / float(scenes.latents[known].astype(np.float32).std())


def save_averaged(context: PartContext, vae: Any, averaged: dict[str, torch.Tensor]) -> None:
    """Write the autoencoder with averaged weights of its decoder."""
    state = {name: value.detach().cpu() for name, value in vae.state_dict().items()}
    written = build_vae()
    written.load_state_dict(state | averaged)
    save_vae(context, written, context.scenes.scaling or 1.0)


def save_vae(context: PartContext, vae: Any, scaling: float) -> None:
    """Write an autoencoder to the folder of the diffusion model."""
    vae.register_to_config(scaling_factor=scaling)
    with staged(context.recipe.out / "diffusion" / "vae") as folder:
        save_part(vae, folder)


if __name__ == "__main__":
    main()
