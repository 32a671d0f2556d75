"""A small Stable Diffusion for drawn scenes: an autoencoder, a text encoder and a denoiser, in diffusers' format.

Four resumable stages: the autoencoder, the latents of all scenes, a warm-up of the text encoder, and the denoiser,
which takes most of the time. It learns backgrounds first, then colours, then shapes, and pairs of objects last.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from torch.nn import functional
from transformers import CLIPTextModel

from pipeline.engines.device import pick_device
from training.diffusion import train_text, train_vae
from training.diffusion.architecture import MODEL_INDEX, build_scheduler, build_unet, write_tokenizer
from training.diffusion.train_text import draw_captions, tokenize
from training.diffusion.train_vae import Latents, load_latents
from training.loop import Recipe, Run
from training.precision import mixed_precision
from training.scenes.dataset import SIDE, Choice, Scenes, load_scenes

TOKENS = 32  # the longest captions; 77, mostly padding, would take a quarter of the time
BATCH = 128
NO_PROMPT = 0.1  # share of pictures without their caption, for guidance
PAIRS_FROM = 0.25  # of the steps: earlier, pairs slow training down; much later, they are not learned
PAIRS = 0.45  # share of pictures with two things from then on


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Data and recipes of a training."""

    singles: Choice
    pairs: Choice
    vae: Recipe
    text: Recipe
    denoiser: Recipe

    def adapt(self, change: Callable[[Recipe], Recipe], scenes: int) -> Self:
        """The plan with changed recipes and at most so many scenes of each set."""
        return replace(
            self,
            singles=replace(self.singles, num=min(scenes, self.singles.num)),
            pairs=replace(self.pairs, num=min(scenes, self.pairs.num)),
            vae=change(self.vae),
            text=change(self.text),
            denoiser=change(self.denoiser),
        )


FULL_PLAN = Plan(
    singles=Choice(num=40_000, side=SIDE, num_things=1, min_length=0.6),
    pairs=Choice(num=40_000, side=SIDE, num_things=2, first=1_000_000),
    vae=train_vae.RECIPE,
    text=train_text.RECIPE,
    denoiser=Recipe(
        steps=7000,
        learning_rate=1e-3,
        final_rate=0.01,
        weight_decay=1e-3,
        betas=(0.9, 0.99),
        ema=0.998,
        slower={"text_encoder.": 0.2},
    ),
)


class TrainableDiffusion(nn.Module):
    """The modules trained together in the last stage."""

    def __init__(self, unet: Any, text_encoder: Any) -> None:
        super().__init__()
        self.unet: Any = unet
        self.text_encoder: Any = text_encoder

    def forward(self, noised: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Predict v of latents, (n, c, h, w), at timesteps, (n,), after prompts, (n, tokens)."""
        text = self.text_encoder(tokens).last_hidden_state
        predicted: torch.Tensor = self.unet(noised, timesteps, text).sample
        return predicted


@dataclass(frozen=True, kw_only=True)
class Material:
    """Scenes with their unscaled latents."""

    scenes: Scenes
    latents: Latents


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """A trained model: everything a pipeline folder needs."""

    vae: Any
    scaling: float  # of the latents, to a deviation of 1
    model: Any  # TrainableDiffusion with averaged weights
    runs: dict[str, Run]  # of the stages that were trained, by name


def train_diffusion(plan: Plan, work: Path, checkpoints: Path, start: Path | None = None) -> Diffusion:
    """Train all stages, from scratch or from their checkpoints; with `start`, fine-tune decoder and denoiser.

    Args:
        plan: what to train on, and for how long.
        work: where scenes and latents are kept.
        checkpoints: the folder for them.
        start: a pipeline folder to fine-tune.
    """
    device = pick_device("auto")
    choices = (plan.singles, plan.pairs)
    sets = [load_scenes(choice, work, os.cpu_count() or 1) for choice in choices]
    tokenizer = write_short_tokenizer(work / "diffusion-tokenizer")
    runs: dict[str, Run] = {}
    if start is None:
        runs["Autoencoder"] = train_vae.train_vae(sets, plan.vae, checkpoints / "diffusion-vae.pt", device)
        vae = runs["Autoencoder"].result()
        runs["Text encoder"] = train_text.train_text(
            sets, tokenizer, plan.text, checkpoints / "diffusion-text.pt", device
        )
        text_encoder = runs["Text encoder"].result().text_encoder.requires_grad_(True)
        unet = None
    else:
        vae = AutoencoderTiny.from_pretrained(start / "vae", torch_dtype=torch.float32)
        text_encoder = CLIPTextModel.from_pretrained(start / "text_encoder", torch_dtype=torch.float32).to(device)
        unet = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
        runs["Decoder"] = train_vae.train_decoder(vae, sets, plan.vae, checkpoints / "diffusion-decoder.pt", device)
        vae = runs["Decoder"].result()
    print(f"Autoencoder: {train_vae.measure_psnr(vae, sets[0].pixels[:64], device):.1f} dB on single things")
    material = [
        Material(scenes=scenes, latents=load_latents(vae, scenes, choice.name, work, device))
        for choice, scenes in zip(choices, sets, strict=True)
    ]
    scaling = 1 / float(material[0].latents.astype(np.float32).std())
    runs["Denoiser"] = run = train_denoiser(
        text_encoder, tokenizer, material, scaling, plan.denoiser, checkpoints / "diffusion.pt", device, unet
    )
    return Diffusion(vae=vae, scaling=scaling, model=run.result(), runs=runs)


def train_denoiser(
    text_encoder: Any,
    tokenizer: Any,
    material: list[Material],  # single things, pairs
    scaling: float,
    recipe: Recipe,
    checkpoint: Path | None,
    device: str,
    unet: Any = None,
) -> Run:
    """Train the denoiser, a new one unless `unet` is given, along with the text encoder.

    It predicts v (arXiv:2202.00512).
    """
    torch.manual_seed(recipe.seed)
    pairs_from = PAIRS_FROM if unet is None else 0.0
    model = TrainableDiffusion(unet or build_unet(), text_encoder).to(device)
    if device == "cpu":  # there SDPA takes half as long again in training
        model.unet.set_attn_processor(AttnProcessor())
        model.text_encoder.set_attn_implementation("eager")
    run = Run(model, recipe, checkpoint)
    scheduler = build_scheduler()
    num_timesteps = scheduler.config.num_train_timesteps

    def loss_of(step: int, rng: np.random.Generator) -> torch.Tensor:
        num_pairs = round(PAIRS * BATCH) if step >= pairs_from * recipe.steps else 0
        clean, captions = draw_batch(material, (BATCH - num_pairs, num_pairs), rng)
        clean = clean * scaling
        noise = torch.randn(clean.shape)
        timesteps = torch.from_numpy(rng.integers(num_timesteps, size=BATCH))
        noised = scheduler.add_noise(clean, noise, timesteps).to(device)
        wanted = scheduler.get_velocity(clean, noise, timesteps).to(device)
        with mixed_precision(noised.device):
            predicted = model(noised, timesteps.to(device), tokenize(tokenizer, captions, device))
        return functional.mse_loss(predicted.float(), wanted)

    run.train(loss_of, "Denoiser")
    return run


def draw_batch(
    material: list[Material], nums: tuple[int, ...], rng: np.random.Generator
) -> tuple[torch.Tensor, list[str]]:
    """Draw so many latents of each material, (n, c, h, w), with captions, some of which are dropped."""
    latents: list[Latents] = []
    captions: list[str] = []
    for one, num in zip(material, nums, strict=True):
        chosen = rng.integers(len(one.scenes), size=num)
        latents.append(one.latents[chosen])
        captions += draw_captions(one.scenes, chosen, rng)
    dropped = rng.random(len(captions)) < NO_PROMPT
    prompts = ["" if drop else caption for drop, caption in zip(dropped, captions, strict=True)]
    return torch.from_numpy(np.concatenate(latents)).float(), prompts


def write_short_tokenizer(folder: Path) -> Any:
    """Write the tokenizer with the token limit of the training."""
    tokenizer = write_tokenizer(folder)
    tokenizer.model_max_length = TOKENS
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_diffusion(diffusion: Diffusion, folder: Path) -> None:
    """Write the averaged weights as a StableDiffusionPipeline folder, in half precision."""
    vae = diffusion.vae
    vae.register_to_config(scaling_factor=diffusion.scaling)
    save_part(vae, folder / "vae")
    save_part(diffusion.model.unet, folder / "unet")
    save_part(diffusion.model.text_encoder, folder / "text_encoder")
    save_rest(folder)


def save_part(part: Any, folder: Path) -> None:
    """Write a model of diffusers or transformers in half precision."""
    halved = copy.deepcopy(part).to(torch.half, memory_format=torch.contiguous_format)
    halved.save_pretrained(folder, safe_serialization=True)
    config = folder / "config.json"  # which would contain the path that the weights were loaded from
    facts = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
    config.write_text(json.dumps(facts, indent=2) + "\n")


def save_rest(folder: Path) -> None:
    """Write the rest of a pipeline folder: tokenizer, scheduler and index."""
    write_short_tokenizer(folder / "tokenizer")
    build_scheduler().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")
