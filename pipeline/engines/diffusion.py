"""Text to image: Stable Diffusion's parts as diffusers stores them, and our own loop over them.

Knows one request at a time; who asked, what waits and where the picture goes is decided elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from pipeline.engines import weights
from pipeline.engines.previews import LatentPreview, predict_clean
from pipeline.engines.safety import SafetyChecker
from pipeline.engines.schedulers import make_scheduler, step_options
from pipeline.errors import ImageRefused
from pipeline.records import GenerationRequest, Pixels, StepProgress
from pipeline.settings import DiffusionSettings, ModelSource

# What the engine reads of a hub's repository; the same weights in other formats would triple the download.
HUB_FILES = ["*.json", "*.txt", *(f"{part}/*.safetensors" for part in ("unet", "vae", "text_encoder"))]
HUB_SAFETY_FILES = ["safety_checker/*.safetensors"]
HUB_VARIANTS = ["*.fp16.*", "*.non_ema.*"]

# Progress bars and advice for notebooks have no place in a service's log.
diffusers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

_AUTOENCODERS: dict[str, Any] = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


class DiffusionEngine:
    """Stable Diffusion on one device. Calls must not overlap in time, but may come from different threads.

    Raises:
        ModelUnavailable: the pipeline folder or a part of it is missing, or the hub can't be reached.
    """

    def __init__(self, settings: DiffusionSettings, device: str) -> None:
        folder = find_pipeline(settings.model, with_safety_checker=settings.safety_checker)
        self.device = device
        self.fingerprint = weights.fingerprint(folder)
        self._dtype: torch.dtype = getattr(torch, settings.model.dtype)
        try:
            self._scheduler_config = _read_json(folder / "scheduler" / "scheduler_config.json")
            self._tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
            self._text_encoder = self._load(CLIPTextModel, folder / "text_encoder")
            self._unet = self._load(UNet2DConditionModel, folder / "unet")
            autoencoder = _AUTOENCODERS[_read_json(folder / "vae" / "config.json")["_class_name"]]
            self._vae = self._load(autoencoder, folder / "vae")
            self._safety = SafetyChecker(folder, device) if settings.safety_checker else None
        except (OSError, ValueError, KeyError) as error:
            raise weights.unavailable(folder, f"is no complete diffusers pipeline ({error})") from error
        self._pixels_per_latent: int = 2 ** (len(self._vae.config.block_out_channels) - 1)
        self._preview = LatentPreview(
            lambda latents: self._decode(latents.to(device)), self._vae.config.latent_channels
        )

    def generate(self, request: GenerationRequest) -> Generator[StepProgress | Pixels, None, None]:
        """Make one image. Closing the iterator stops the work after the current step.

        The seed's noise is drawn on the CPU, so it is the same on every device.

        Yields:
            A `StepProgress` after each call of the UNet (PNDM makes one more than `request.steps`), then the image,
            (height, width, 3) uint8 RGB, read-only.

        Raises:
            ValueError: a side is no multiple of the pixels that one latent covers.
            ImageRefused: the safety checker refused the image.
        """
        scheduler = make_scheduler(request.scheduler, self._scheduler_config, request.steps, self.device)
        generator = torch.Generator("cpu").manual_seed(request.seed)
        options = step_options(request.scheduler, generator)
        latents = self._draw_noise(request, generator) * scheduler.init_noise_sigma  # (1, c, h / f, w / f) float32
        text = self._encode_text(request)  # (1 or 2, tokens, d)
        num_steps = len(scheduler.timesteps)
        for step, timestep in enumerate(scheduler.timesteps, start=1):
            scaled = scheduler.scale_model_input(latents, timestep)
            noise = self._predict(scaled, timestep, text, request.guidance)
            preview = self._preview.draw(predict_clean(scheduler, scaled, timestep, noise))
            latents = scheduler.step(noise, timestep, latents, **options).prev_sample
            yield StepProgress(step=step, num_steps=num_steps, preview=preview)
        pixels = self._decode(latents)
        if self._safety is not None and self._safety.flags(pixels):
            raise ImageRefused
        yield pixels

    def _load(self, part: Any, folder: Path) -> Any:
        # The dtype must be said: left out, a part takes the type of its file, and fp16 would meet fp32.
        loaded = part.from_pretrained(folder, dtype=self._dtype, use_safetensors=True, local_files_only=True)
        return loaded.to(self.device).eval().requires_grad_(False)

    def _draw_noise(self, request: GenerationRequest, generator: torch.Generator) -> torch.Tensor:
        per_latent = self._pixels_per_latent
        if request.height % per_latent or request.width % per_latent:
            raise ValueError(f"{request.width} × {request.height} pixels: sides must be multiples of {per_latent}")
        shape = (1, self._unet.config.in_channels, request.height // per_latent, request.width // per_latent)
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(self.device)

    @torch.inference_mode()
    def _encode_text(self, request: GenerationRequest) -> torch.Tensor:
        """Encode the prompt as (1, tokens, d), or with guidance the negative prompt and it as (2, tokens, d)."""
        guided = request.guidance > 1
        tokens = self._tokenizer(
            [request.negative_prompt, request.prompt] if guided else [request.prompt],
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        encoded: torch.Tensor = self._text_encoder(tokens.input_ids.to(self.device)).last_hidden_state
        return encoded

    @torch.inference_mode()
    def _predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor, guidance: float
    ) -> torch.Tensor:
        """Predict noise or v of `latents`, (1, c, h, w) float32, with classifier-free guidance (arXiv:2207.12598).

        A UNet with `addition_embed_type="text"` pools the text by itself.
        """
        batch = latents.expand(len(text), -1, -1, -1).to(self._dtype)
        predicted: torch.Tensor = self._unet(batch, timestep, encoder_hidden_states=text).sample.float()
        if len(text) == 1:
            return predicted
        without, guided = predicted[:1], predicted[1:]
        return without + guidance * (guided - without)

    @torch.inference_mode()
    def _decode(self, latents: torch.Tensor) -> Pixels:
        """Decode latents, (1, c, h / f, w / f) float32, to (h, w, 3) uint8, read-only."""
        unscaled = (latents / self._vae.config.scaling_factor).to(self._dtype)
        image = self._vae.decode(unscaled).sample[0].float()  # (3, h, w), -1 to 1
        levels = (image / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
        pixels: Pixels = levels.permute(1, 2, 0).contiguous().cpu().numpy()
        pixels.flags.writeable = False
        return pixels


def find_pipeline(source: ModelSource, *, with_safety_checker: bool) -> Path:
    """Find a diffusers pipeline folder: on this machine, in the hub's cache or on the hub.

    Raises:
        ModelUnavailable: there is no such folder, or its content isn't what `source.sha256` says.
    """
    local = weights.find(source)
    if local is not None:
        return local
    files = HUB_FILES + HUB_SAFETY_FILES if with_safety_checker else HUB_FILES
    try:
        folder = Path(
            snapshot_download(
                source.source, revision=source.revision, allow_patterns=files, ignore_patterns=HUB_VARIANTS
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise weights.unavailable(source.source, f"can't be had from the hub or its cache ({error})") from error
    weights.verify(folder, source.sha256)
    return folder


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content
