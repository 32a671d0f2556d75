"""The denoiser with its text encoder, from latents and tokens on the device.

The UNet is compiled while the autoencoder is trained; then the text encoder is warmed up, and both are trained together
by v-prediction (arXiv:2202.00512) until the time is over.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch.nn import functional
from transformers import CLIPTextModel

from training.diffusion.architecture import (
    LATENT_CHANNELS,
    LATENT_STRIDE,
    TEXT_WIDTH,
    build_scheduler,
    build_text_encoder,
    build_unet,
)
from training.diffusion.train import NO_PROMPT, TOKENS, save_part, save_rest, write_short_tokenizer
from training.timed.caption_tokens import TokenizedScenes
from training.timed.clock import Interval
from training.timed.compilation import Example, compile_unet
from training.timed.device import prepare_torch, working_dtype
from training.timed.latent_pool import LatentBatch, LatentPool
from training.timed.master_weights import MasterWeights
from training.timed.part import PartContext, open_part
from training.timed.saving import BackgroundWriter, staged
from training.timed.stage_log import StageLog
from training.timed.text_warm_up import warm_up_text

RATE, FINAL_RATE = 1.4e-3, 0.01
TEXT_RATE_SHARE = 0.3
BETAS, WEIGHT_DECAY = (0.9, 0.99), 1e-3
EARLY = 0.1  # of the stage, in which fewer scenes show pairs
TAKE_EVERY, TAKE = 40, 50  # steps, and chunks
MOST_FAILURES = 5  # of steps


class Denoiser:
    """The modules in training, and a step of it.

    Args:
        context: of the part.
        tokenizer: of the text encoder.
        device: to train on.
    """

    def __init__(self, context: PartContext, tokenizer: Any, device: torch.device) -> None:
        self._context, self._tokenizer, self._device = context, tokenizer, device
        self._dtype = working_dtype(device)
        self.unet: Any = build_unet() if not context.recipe.fine_tune else load_unet(context)
        self.unet.train().to(device, memory_format=torch.channels_last)
        if device.type == "cpu":  # there SDPA takes half as long again in training
            self.unet.set_attn_processor(AttnProcessor())
        self._forward = self.unet
        self.text_encoder: Any = None
        self.weights = MasterWeights(betas=BETAS, weight_decay=WEIGHT_DECAY)
        self.weights.add(prefixed("unet", self.unet), dtype=self._dtype)
        alphas = build_scheduler().alphas_cumprod.to(device)
        self._signal, self._noise = alphas.sqrt(), (1 - alphas).sqrt()  # (1000,) each

    def compile(self) -> None:
        """Compile the UNet for the training's batches."""
        scale, dtype = self._context.recipe.scale, self._dtype
        batch, side = scale.denoiser_batch, scale.side // LATENT_STRIDE
        latents = torch.randn(batch, LATENT_CHANNELS, side, side, device=self._device, dtype=dtype)
        example = Example(
            latents=latents.contiguous(memory_format=torch.channels_last),
            timesteps=torch.randint(len(self._signal), (batch,), device=self._device).float(),
            text=torch.randn(batch, TOKENS, TEXT_WIDTH, device=self._device, dtype=dtype),
        )
        end_s = self._context.time_of(self._context.recipe.timetable.compilation)
        self._forward = compile_unet(self._context, self.unet, example, end_s)

    def add_text_encoder(self, text_encoder: Any) -> None:
        """Train a text encoder too, at a lower rate."""
        self.text_encoder = text_encoder.train().requires_grad_(True)
        if self._device.type == "cpu":
            self.text_encoder.set_attn_implementation("eager")
        named = prefixed("text_encoder", self.text_encoder)
        self.weights.add(named, dtype=self._dtype, rate_share=TEXT_RATE_SHARE)

    def loss_of(self, batch: LatentBatch, scaling: float, empty_prompt: torch.Tensor) -> torch.Tensor:
        """Return the loss of v on a noised batch; some of the prompts are dropped, for classifier-free guidance.

        Timesteps are stratified: each of n equal parts of the range has one.
        """
        clean = batch.latents * scaling
        num, device = len(clean), self._device
        drawn = (torch.randperm(num, device=device) + torch.rand(num, device=device)) / num
        timesteps = (drawn * len(self._signal)).long().clamp(max=len(self._signal) - 1)
        noise = torch.randn_like(clean)
        signal, strength = self._signal[timesteps, None, None, None], self._noise[timesteps, None, None, None]
        noised = (signal * clean + strength * noise).to(self._dtype).contiguous(memory_format=torch.channels_last)
        dropped = torch.rand(num, 1, device=device) < NO_PROMPT
        text = self.text_encoder(torch.where(dropped, empty_prompt, batch.tokens)).last_hidden_state.contiguous()
        predicted = self._forward(noised, timesteps.float(), text, return_dict=False)[0]
        return functional.mse_loss(predicted.float(), signal * noise - strength * clean)

    def recover(self) -> None:
        """Continue without the compiled UNet after a failed step."""
        self._forward = self.unet
        self.weights.drop_gradients()

    def save(self, averaged: dict[str, torch.Tensor]) -> None:
        """Write averaged weights to the folder of the model; the autoencoder's part writes its own."""
        unet, text_encoder = build_unet(), build_text_encoder(self._tokenizer)
        for prefix, module in (("unet.", unet), ("text_encoder.", text_encoder)):
            state = {name.removeprefix(prefix): t for name, t in averaged.items() if name.startswith(prefix)}
            module.load_state_dict(state)
        with staged(self._context.recipe.out / "diffusion") as folder:
            save_part(unet, folder / "unet")
            save_part(text_encoder, folder / "text_encoder")
            save_rest(folder)


def main() -> None:
    """Prepare during the autoencoder's training, and train once there are latents."""
    context = open_part("denoiser")
    tokenizer = write_short_tokenizer(context.recipe.work / "tokenizer")
    context.wait_for_start()
    device = prepare_torch(context)
    denoiser = Denoiser(context, tokenizer, device)
    captions = TokenizedScenes(context, tokenizer)
    captions.start()
    if context.recipe.scale.compile and device.type == "cuda":
        denoiser.compile()
    context.wait_for_scenes()
    captions.tokenize_drawn()
    if context.recipe.fine_tune:
        denoiser.add_text_encoder(load_text_encoder(context).to(device))
    else:
        denoiser.add_text_encoder(warm_up_text(context, captions, tokenizer, device))
    train(context, denoiser, captions, device)


def train(context: PartContext, denoiser: Denoiser, captions: TokenizedScenes, device: torch.device) -> None:
    """Train to the end of the recipe, and write the weights periodically and at the end."""
    recipe, scale, mix = context.recipe, context.recipe.scale, context.recipe.mix
    scaling = context.wait_for_latents()
    pool = LatentPool(context, captions, device)
    pool.pull()
    context.log(f"latents by number of things: {pool.nums}")
    empty_prompt = captions.empty_prompt().to(device)
    schedule = context.schedule(1.0)
    rate = RATE * recipe.rate_share
    log = StageLog(context, "diffusion", "Denoiser", rate, schedule)
    writer, writing = BackgroundWriter(context), Interval(scale.write_every_s, context.now)
    failures = 0
    while not schedule.is_over:
        early = schedule.progress < EARLY
        pairs, triples = (mix.early_pairs, mix.early_triples) if early else (mix.sampled_pairs, mix.sampled_triples)
        try:
            loss = denoiser.loss_of(pool.sample(scale.denoiser_batch, pairs, triples), scaling, empty_prompt)
            loss.backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:  # out of memory, or the compiled graph doesn't fit
            failures += 1
            if failures > MOST_FAILURES:
                raise
            context.log(f"a step failed, the UNet runs eagerly: {str(error)[:400]}")
            denoiser.recover()
            continue
        denoiser.weights.step(schedule.rate(rate, scale.warmup, FINAL_RATE))
        log.add(loss, scale.denoiser_batch)
        log.report()
        if schedule.steps % TAKE_EVERY == 0:
            pool.pull(TAKE)
        if writing.has_passed():
            writer.submit(denoiser.save, denoiser.weights.averaged())
    writer.wait()
    denoiser.save(denoiser.weights.averaged())
    log.finish()


def prefixed(prefix: str, module: Any) -> list[tuple[str, torch.nn.Parameter]]:
    """The module's parameters by their names, which start with a prefix."""
    return list(module.named_parameters(prefix=prefix))


def load_unet(context: PartContext) -> Any:
    """Load the UNet to fine-tune."""
    return UNet2DConditionModel.from_pretrained(context.recipe.out / "diffusion" / "unet", torch_dtype=torch.float32)


def load_text_encoder(context: PartContext) -> Any:
    """Load the text encoder to fine-tune."""
    folder = context.recipe.out / "diffusion" / "text_encoder"
    return CLIPTextModel.from_pretrained(folder, torch_dtype=torch.float32)


if __name__ == "__main__":
    main()
