"""Warm-up of the text encoder: it learns to recognize the objects in captions before the denoiser is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from training.diffusion.train_text import Reader, loss_of_reading
from training.timed.caption_tokens import TokenizedScenes
from training.timed.clock import Schedule
from training.timed.part import PartContext
from training.timed.stage_log import StageLog

RATE, FINAL_RATE = 3e-3, 0.05
SECONDS = 25.0  # at most
BETAS, WEIGHT_DECAY = (0.9, 0.98), 0.01
GRADIENT_NORM = 1.0


def warm_up_text(context: PartContext, captions: TokenizedScenes, tokenizer: Any, device: torch.device) -> Any:
    """Train a new text encoder and return it, in float32 on the device.

    It ends at the recipe's share of the time, after SECONDS or after the scale's steps, whichever is first.
    """
    recipe, scale = context.recipe, context.recipe.scale
    reader = Reader(tokenizer).to(device)
    optimizer = torch.optim.AdamW(reader.parameters(), RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)
    end_s = min(context.time_of(recipe.timetable.text), context.now() + SECONDS)
    schedule = Schedule(end_s, min(scale.min_steps, scale.text_steps), context.now)
    log = StageLog(context, "diffusion", "Text encoder", RATE, schedule)
    while not schedule.is_over and schedule.steps < scale.text_steps:
        batch = captions.sample(scale.text_batch, device)
        kind_logits, colour_logits = reader(batch.tokens)
        loss = loss_of_reading(kind_logits, colour_logits, batch.kinds, batch.colours)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(reader.parameters(), GRADIENT_NORM)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(RATE, max(1, scale.warmup // 2), FINAL_RATE)
        optimizer.step()
        log.add(loss, scale.text_batch)
        log.report()
    log.finish()
    return reader.text_encoder
