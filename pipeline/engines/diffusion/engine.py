"""Text to image: Stable Diffusion's modules as diffusers stores them, with a denoising loop of our own.

Each step denoises any number of images, each with its own prompt, seed, guidance, scheduler and number of steps.
`StepScheduler` decides which images take part in a step.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from pipeline.engines import weights
from pipeline.engines.diffusion.img2img import SourceImage
from pipeline.engines.diffusion.loading import SafetyChecker, find_pipeline
from pipeline.engines.diffusion.previews import LatentPreview, is_decoded, predict_clean
from pipeline.engines.diffusion.schedulers import make_scheduler, step_options
from pipeline.errors import ImageRefused
from pipeline.records import GenerationRequest, Pixels, StepProgress
from pipeline.settings import DiffusionSettings

# No progress bars and no advice for notebooks in a service's log.
diffusers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

_AUTOENCODERS: dict[str, Any] = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}

MAX_TEXTS = 256  # cached encoded prompts; 236 kB each for Stable Diffusion 1


class Denoising:
    """The state of an unfinished image, created by `DiffusionEngine.start`; not shared with other images."""

    def __init__(
        self,
        request: GenerationRequest,
        scheduler: Any,
        latents: torch.Tensor,
        text: tuple[torch.Tensor, ...],
        generator: torch.Generator,
        previews: bool,
    ) -> None:
        self.request = request
        self.previews = previews
        self.scheduler = scheduler
        self.timesteps: torch.Tensor = scheduler.timesteps
        self.latents = latents  # (1, c, h / f, w / f) float32
        self.text = text  # one (1, tokens, d), or with guidance those of negative prompt and prompt
        self.options = step_options(request.scheduler, generator)
        self.step = 0
        self.kept: Kept | None = None

    @property
    def rows(self) -> int:
        """Number of rows in a batch."""
        return len(self.text)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the latents: only images of one shape can share a batch."""
        return self.latents.shape[-2], self.latents.shape[-1]

    @property
    def is_done(self) -> bool:
        """Whether all steps are taken."""
        return self.step == len(self.timesteps)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """The part of a source picture that inpainting must keep."""

    origin: SourceImage
    clean: torch.Tensor  # (1, c, h / f, w / f), the picture's latents
    noise: torch.Tensor  # the same shape, the seed's
    changes: torch.Tensor  # (1, 1, h / f, w / f): 1 where anything may change


class DiffusionEngine:
    """Stable Diffusion on one device. Calls must not overlap in time, but may come from different threads.

    Raises:
        ModelUnavailable: the pipeline folder or a part of it is missing, or the hub is unreachable.
    """

    def __init__(self, settings: DiffusionSettings, device: str) -> None:
        folder = find_pipeline(settings.model, with_safety_checker=settings.safety_checker)
        self.device = device
        self.fingerprint = weights.fingerprint(folder)
        self._dtype: torch.dtype = getattr(torch, settings.model.dtype)
        try:
            self._scheduler_config = _read_json(folder / "scheduler" / "scheduler_config.json")
            self._tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
            self.text_encoder = self._load(CLIPTextModel, folder / "text_encoder")
            self.unet = self._load(UNet2DConditionModel, folder / "unet")
            autoencoder = _AUTOENCODERS[_read_json(folder / "vae" / "config.json")["_class_name"]]
            self._vae = self._load(autoencoder, folder / "vae")
            self._safety = SafetyChecker(folder, device) if settings.safety_checker else None
        except (OSError, ValueError, KeyError) as error:
            raise weights.unavailable(folder, f"is no complete diffusers pipeline ({error})") from error
        self.defaults = settings.defaults
        self._decoded_previews = settings.decoded_previews
        if device != "cpu":  # convolutions are faster in this format on a GPU
            self.unet.to(memory_format=torch.channels_last)
            self._vae.to(memory_format=torch.channels_last)
        self.compiled_unet = (
            torch.compile(self.unet, mode="reduce-overhead", dynamic=False) if settings.compiled else None
        )
        self._compiled_for: set[tuple[int, ...]] = set()  # shapes; compiling others would block all requests
        self._texts: LRUCache[str, torch.Tensor] = LRUCache(MAX_TEXTS)
        self.pixels_per_latent: int = 2 ** (len(self._vae.config.block_out_channels) - 1)
        self._preview = LatentPreview(
            lambda latents: self._decode(latents.to(device)), self._vae.config.latent_channels
        )

    def warm_up(self, buckets: Sequence[int]) -> None:
        """Run a step with each batch size at the default image size, and decode the image.

        Compilation happens here, for these sizes only; compiled code belongs to the calling thread.
        """
        request = GenerationRequest(
            prompt="",
            negative_prompt="",
            width=self.defaults.width,
            height=self.defaults.height,
            steps=self.defaults.steps,
            guidance=1.0,
            seed=0,
            scheduler=self.defaults.scheduler,
        )
        if self.compiled_unet is not None:
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, len(buckets))
        for rows in buckets:
            image = self.start(request)
            self._compiled_for.add((rows, *image.shape))
            self.advance([image], rows)
            self._decode(image.latents)

    def generate(
        self, request: GenerationRequest, origin: SourceImage | None = None
    ) -> Generator[StepProgress | Pixels, None, None]:
        """Generate one image in batches of its own. Closing the iterator stops after the current step.

        Yields:
            A `StepProgress` after each call of the UNet (PNDM has one more than `request.steps`), then the image,
            (height, width, 3) uint8 RGB, read-only.

        Raises:
            ValueError: a side is no multiple of the number of pixels per latent.
            ImageRefused: the safety checker refused the image.
        """
        image = self.start(request, origin)
        while not image.is_done:
            yield from self.advance([image])
        yield self.finish(image)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of texts, each with its start and end token, after truncation to the model's length."""
        encoded = self._tokenizer(list(texts), truncation=True, max_length=self._tokenizer.model_max_length)
        return [len(ids) for ids in encoded.input_ids]

    def start(
        self, request: GenerationRequest, origin: SourceImage | None = None, *, previews: bool = True
    ) -> Denoising:
        """Start an image. The seed's noise is drawn on the CPU, so it is the same on every device.

        Args:
            previews: whether the client wants previews.

        Raises:
            ValueError: a side is no multiple of the number of pixels per latent.
        """
        scheduler = make_scheduler(request.scheduler, self._scheduler_config, request.steps, self.device)
        generator = torch.Generator("cpu").manual_seed(request.seed)
        noise = self._draw_noise(request, generator)
        prompts = (request.negative_prompt, request.prompt) if request.guidance > 1 else (request.prompt,)
        text = tuple(self._encode_text(prompt) for prompt in prompts)
        if origin is None:
            return Denoising(request, scheduler, noise * scheduler.init_noise_sigma, text, generator, previews)
        return self._start_from(origin, Denoising(request, scheduler, noise, text, generator, previews))

    def advance(self, images: Sequence[Denoising], rows: int | None = None) -> list[StepProgress]:
        """Advance several images of one shape by one step, in one call of the UNet.

        Args:
            images: at least one, none of which is done.
            rows: of the batch, at least as many as the images have together; the rest is padding. An image's bits
                depend on the batch size, but not on the other images.

        Returns:
            The progress of each.
        """
        scaled = [image.scheduler.scale_model_input(image.latents, image.timesteps[image.step]) for image in images]
        predicted = self._predict(images, scaled, rows or sum(image.rows for image in images))
        return [self._step(*each) for each in zip(images, scaled, predicted, strict=True)]

    def finish(self, image: Denoising) -> Pixels:
        """Decode an image that is done, (height, width, 3) uint8, read-only.

        Raises:
            ImageRefused: the safety checker refused it.
        """
        pixels = self._decode(image.latents)
        if image.kept is not None and image.kept.origin.mask is not None:
            pixels = np.where(image.kept.origin.mask[..., None], pixels, image.kept.origin.pixels)
            pixels.flags.writeable = False
        if self._safety is not None and self._safety.flags(pixels):
            raise ImageRefused
        return pixels

    def _step(self, image: Denoising, scaled: torch.Tensor, predicted: torch.Tensor) -> StepProgress:
        timestep = image.timesteps[image.step]
        preview = self._show(image, scaled, predicted) if image.previews else None
        image.latents = image.scheduler.step(predicted, timestep, image.latents, **image.options).prev_sample
        image.step += 1
        if image.kept is not None:
            image.latents = _keep(image, image.kept)
        return StepProgress(step=image.step, num_steps=len(image.timesteps), preview=preview)

    def _show(self, image: Denoising, scaled: torch.Tensor, predicted: torch.Tensor) -> Pixels | None:
        """Return a preview of the final image: decoded at a few steps, or a linear approximation at each step."""
        step, num_steps = image.step + 1, len(image.timesteps)
        if self._decoded_previews and not is_decoded(step, num_steps, self._decoded_previews):
            return None
        clean = predict_clean(image.scheduler, scaled, image.timesteps[image.step], predicted)
        return self._decode(clean) if self._decoded_previews else self._preview.draw(clean)

    def _start_from(self, origin: SourceImage, image: Denoising) -> Denoising:
        """Make an image of noise start from a picture instead, with the first steps skipped."""
        order: int = image.scheduler.order
        skipped = image.request.steps - min(int(image.request.steps * origin.strength), image.request.steps)
        if hasattr(image.scheduler, "set_begin_index"):  # DDIM derives its position from the timestep
            image.scheduler.set_begin_index(skipped * order)
        image.timesteps = image.timesteps[skipped * order :]
        if len(image.timesteps) == 0:
            raise ValueError(f"strength {origin.strength} of {image.request.steps} steps leaves no step to take")
        noise, clean = image.latents, self._encode_pixels(origin.pixels)
        image.latents = image.scheduler.add_noise(clean, noise, image.timesteps[:1])
        if origin.mask is not None:
            cells = torch.from_numpy(origin.mask)[None, None].float()
            changes = functional.max_pool2d(cells, self.pixels_per_latent).to(self.device)
            image.kept = Kept(origin=origin, clean=clean, noise=noise, changes=changes)
        return image

    def _load(self, part: Any, folder: Path) -> Any:
        # The dtype must be explicit: by default a module takes that of its file, and fp16 would meet fp32.
        loaded = part.from_pretrained(folder, dtype=self._dtype, use_safetensors=True, local_files_only=True)
        return loaded.to(self.device).eval().requires_grad_(False)

    def _draw_noise(self, request: GenerationRequest, generator: torch.Generator) -> torch.Tensor:
        per_latent = self.pixels_per_latent
        if request.height % per_latent or request.width % per_latent:
            raise ValueError(f"{request.width} × {request.height} pixels: sides must be multiples of {per_latent}")
        shape = (1, self.unet.config.in_channels, request.height // per_latent, request.width // per_latent)
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(self.device)

    @torch.inference_mode()
    def _encode_text(self, prompt: str) -> torch.Tensor:
        """Encode a prompt as (1, tokens, d), unbatched, so that the result is independent of other requests."""
        known = self._texts.get(prompt)
        if known is not None:
            return known
        tokens = self._tokenizer(
            [prompt],
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        encoded: torch.Tensor = self.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state
        self._texts[prompt] = encoded
        return encoded

    @torch.inference_mode()
    def _encode_pixels(self, pixels: Pixels) -> torch.Tensor:
        """Encode (h, w, 3) uint8 to latents, (1, c, h / f, w / f) float32: the distribution's mode, not a sample."""
        image = torch.from_numpy(np.array(pixels)).to(self.device, self._dtype).permute(2, 0, 1)[None] / 127.5 - 1
        encoded = self._vae.encode(image)
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return latents.float() * self._vae.config.scaling_factor  # type: ignore[no-any-return]

    @torch.inference_mode()
    def _predict(self, images: Sequence[Denoising], scaled: Sequence[torch.Tensor], rows: int) -> list[torch.Tensor]:
        """Predict noise or v of each image, (1, c, h, w) float32, with classifier-free guidance (arXiv:2207.12598).

        A UNet with `addition_embed_type="text"` pools the text itself.
        """
        latents = [one for image, one in zip(images, scaled, strict=True) for _ in image.text]
        timesteps = [image.timesteps[image.step] for image in images for _ in image.text]
        text = [one for image in images for one in image.text]
        for parts in (latents, timesteps, text):
            parts += parts[:1] * (rows - len(parts))  # padding: anything of the right shape
        is_compiled = self.compiled_unet is not None and (rows, *images[0].shape) in self._compiled_for
        denoise: Any = self.compiled_unet if is_compiled else self.unet
        predicted: torch.Tensor = denoise(
            torch.cat(latents).to(self._dtype),
            torch.stack(timesteps).float(),
            encoder_hidden_states=torch.cat(text),
        ).sample.float()
        guided = []
        for image in images:
            own, predicted = predicted[: image.rows], predicted[image.rows :]
            guided.append(own[:1] + image.request.guidance * (own[1:] - own[:1]) if image.rows == 2 else own)
        return guided

    @torch.inference_mode()
    def _decode(self, latents: torch.Tensor) -> Pixels:
        """Decode latents, (1, c, h / f, w / f) float32, to (h, w, 3) uint8, read-only."""
        unscaled = (latents / self._vae.config.scaling_factor).to(self._dtype)
        image = self._vae.decode(unscaled).sample[0].float()  # (3, h, w), -1 to 1
        levels = (image / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        pixels: Pixels = levels.permute(1, 2, 0).contiguous().cpu().numpy()
        pixels.flags.writeable = False
        return pixels


def _keep(image: Denoising, kept: Kept) -> torch.Tensor:
    """Restore the picture where nothing may change, at the noise level of the current step."""
    there = kept.clean
    if not image.is_done:
        there = image.scheduler.add_noise(kept.clean, kept.noise, image.timesteps[image.step : image.step + 1])
    return kept.changes * image.latents + (1 - kept.changes) * there


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content
