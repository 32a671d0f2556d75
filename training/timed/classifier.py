"""CLIP, by its own trainer, from the scenes that were drawn when it begins."""

from __future__ import annotations

from dataclasses import replace

from training.timed.device import prepare_torch
from training.timed.part import PartContext, open_part
from training.timed.recipe import Timetable
from training.timed.results import StageResult, average_ends
from training.timed.saving import staged
from training.train_clip import FULL_RECIPE, PICTURES, Material, save_clip, train_clip


def main() -> None:
    """Wait until most scenes are drawn, train for the rest of the time, and write the weights."""
    context = open_part("clip")
    context.wait_for_start()
    prepare_torch(context)
    context.wait_for_scenes()
    wait_for_most_scenes(context, context.recipe.timetable)
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
    run = train_clip([Material(scenes=context.scenes.view_drawn(), share=1.0)], plan, None, start)
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


def wait_for_most_scenes(context: PartContext, timetable: Timetable) -> None:
    """Wait until drawing has ended, but for no longer than the text encoder's share of the time."""
    end_s, scenes = context.time_of(timetable.text), context.scenes
    context.wait_until(lambda: scenes.is_ended("drawing") or (context.now() >= end_s and bool(scenes.drawn[0])))


if __name__ == "__main__":
    main()
