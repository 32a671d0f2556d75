"""CLIP, with its own trainer, on the scenes drawn before its start, some of them reconstructed by the autoencoder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from training.clip.train import FULL_RECIPE, PICTURES, Material, save_clip, train_clip
from training.scenes.dataset import Scenes
from training.timed.device import prepare_torch
from training.timed.part import MissingScenes, PartContext, open_part
from training.timed.recipe import Timetable
from training.timed.results import StageResult, average_ends
from training.timed.saving import staged
from training.timed.softening import decode_images, encode_images, load_trained_autoencoder

RECONSTRUCTED = 0.3  # share of reconstructed images
AT_ONCE = 16  # images


def main() -> None:
    """Wait until most scenes are drawn, train for the rest of the time, and write the weights."""
    context = open_part("clip")
    context.wait_for_start()
    device = prepare_torch(context)
    context.wait_for_scenes()
    wait_for_most_scenes(context, context.recipe.timetable)
    materials = collect_material(context, device)
    recipe = context.recipe
    left_s = max(0.0, context.time_of(1.0) - context.now())
    plan = replace(
        FULL_RECIPE,
        steps=recipe.scale.min_steps,
        minutes=left_s / 60,
        warmup=recipe.scale.warmup,
        learning_rate=FULL_RECIPE.learning_rate * recipe.rate_share,
        seed=recipe.seed,
    )
    start = recipe.out / "clip" if recipe.fine_tune else None
    run = train_clip(materials, plan, None, start)
    with staged(recipe.out / "clip") as folder:
        save_clip(run, folder)
    first, last = average_ends(run.losses)
    context.write_result(
        StageResult(
            model="clip",
            stage="CLIP",
            steps=run.step,
            batch=PICTURES,
            learning_rate=plan.learning_rate,
            seed=plan.seed,
            seconds=run.seconds,
            first_loss=first,
            last_loss=last,
        )
    )


def collect_material(context: PartContext, device: torch.device) -> list[Material]:
    """All scenes, and reconstructions of some of them if the autoencoder is trained by now.

    Raises:
        MissingScenes: the first ones were never drawn.
    """
    drawn = context.scenes.view_drawn()
    if not len(drawn):
        raise MissingScenes("the first scenes weren't drawn")
    vae = load_trained_autoencoder(context, device)
    if vae is None:
        return [Material(scenes=drawn, share=1.0)]
    num = min(context.recipe.scale.classifier_reconstructed, len(drawn))
    context.log(f"{num} of {len(drawn)} scenes go through the autoencoder")
    reconstructed = [
        decode_images(vae, encode_images(vae, torch.from_numpy(np.array(part)).to(device).permute(0, 3, 1, 2).float()))
        for part in np.array_split(drawn.pixels[:num], -(-num // AT_ONCE))
    ]
    levels = torch.cat([images.round().clamp(0, 255).byte().cpu() for images in reconstructed])
    seen = Scenes(
        pixels=levels.permute(0, 2, 3, 1).contiguous().numpy(),
        owners=drawn.owners[:num],
        kinds=drawn.kinds[:num],
        colours=drawn.colours[:num],
        backgrounds=drawn.backgrounds[:num],
        captions=drawn.captions[:num],
    )
    return [Material(scenes=drawn, share=1 - RECONSTRUCTED), Material(scenes=seen, share=RECONSTRUCTED)]


def wait_for_most_scenes(context: PartContext, timetable: Timetable) -> None:
    """Wait for the end of the drawing and for the autoencoder, at most until the end of the text encoder's warm-up."""
    end_s, scenes = context.time_of(timetable.text), context.scenes
    has_autoencoder = "autoencoder" in context.recipe.parts and not context.recipe.fine_tune

    def is_ready() -> bool:
        is_settled = not has_autoencoder or scenes.scaling is not None or scenes.is_ended("autoencoder")
        return (scenes.is_ended("drawing") and is_settled) or context.now() >= end_s

    context.wait_until(is_ready)


if __name__ == "__main__":
    main()
