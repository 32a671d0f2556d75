"""Train the miniature models: `python -m training.train {clip,diffusion,sam2,all}`.

With `--minutes N` all models are trained concurrently within N minutes, by processes that share scenes: on one GPU
eight minutes are enough for all of them (see `docs/training.md`). They are not evaluated then.

Otherwise they are trained one after another, for a number of steps. Interrupted runs resume when the command is called
again: scenes and checkpoints are kept in `.training/`. Each model is then evaluated, and its card written with training
procedure and metrics. `--fine-tune` trains the models in `--out` further, in an order of scenes derived from their
weights; the result may be better or worse: compare the figures before you commit it.
"""

from __future__ import annotations

import argparse
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from rich.console import Console

from pipeline.engines import weights
from training.evaluate import MEASURES
from training.evaluation.cards import MODELS, StageFacts, append_stages, name_device, write_card, write_provenance
from training.evaluation.measures import tabulate
from training.loop import Recipe, Run
from training.scenes.dataset import SIDE, WORK, Choice, Scenes, load_scenes
from training.timed.recipe import CPU, GPU, Model, plan_recipe
from training.timed.results import StageResult
from training.timed.supervisor import FailedParts, Supervisor, print_results

SCENES = 60_000  # drawn for training without `--minutes`
FINE_TUNE_RATE = 0.6  # learning-rate factor for fine-tuning


@dataclass(frozen=True, kw_only=True)
class Order:
    """Options of the command line."""

    folder: Path  # of the model
    work: Path  # for scenes
    max_steps: int | None
    scenes: int
    fine_tune: bool

    @property
    def start(self) -> Path | None:
        """The folder with the initial weights, if fine-tuning."""
        return self.folder if self.fine_tune else None

    @cached_property
    def checkpoints(self) -> Path:
        """The folder for checkpoints; each fine-tuning has its own."""
        return self.work / f"fine-tune-{weights.fingerprint(self.folder)}" if self.fine_tune else self.work

    def adapt(self, recipe: Recipe) -> Recipe:
        """The recipe with at most the requested steps; with a lower rate and another seed for fine-tuning."""
        recipe = replace(recipe, steps=min(recipe.steps, self.max_steps or recipe.steps))
        if self.fine_tune:
            seed = zlib.crc32(self.checkpoints.name.encode())
            recipe = replace(recipe, learning_rate=recipe.learning_rate * FINE_TUNE_RATE, seed=seed)
        return recipe

    def note(self, stages: Mapping[str, tuple[Run, int]]) -> None:
        """Record how the model was trained."""
        write_provenance(self.folder, stages, append=self.fine_tune)

    def load_scenes(self) -> Scenes:
        """The scenes that CLIP and SAM2 learn from."""
        return load_scenes(Choice(num=self.scenes, side=SIDE), self.work, os.cpu_count() or 1)


def main() -> None:
    """Read the command line, train, measure and write cards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=[*TRAINERS, "all"])
    parser.add_argument("--out", type=Path, default=MODELS, help="default: models/mini")
    parser.add_argument("--work", type=Path, default=WORK, help="scenes and checkpoints; default: .training")
    parser.add_argument("--max-steps", type=int, help="of each stage")
    parser.add_argument("--minutes", type=float, help="of training, all models at once")
    parser.add_argument("--scenes", type=int, help="drawn for training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fine-tune", action="store_true", help="start from the weights in --out")
    parser.add_argument("--unmeasured", action="store_true", help="write no card")
    arguments = parser.parse_args()
    names: tuple[Model, ...] = tuple(TRAINERS) if arguments.model == "all" else (arguments.model,)
    if arguments.minutes is not None:
        if arguments.max_steps is not None:
            parser.error("--minutes and --max-steps exclude each other")
        train_timed(arguments, names)
        return
    torch.set_num_threads(arguments.threads)
    for name in names:
        TRAINERS[name](
            Order(
                folder=arguments.out / name,
                work=arguments.work,
                max_steps=arguments.max_steps,
                scenes=arguments.scenes or SCENES,
                fine_tune=arguments.fine_tune,
            )
        )
        for file in (arguments.out / name).rglob("*.safetensors"):
            file.chmod(0o644)  # safetensors writes with mode 600, and a service runs as another user
        if not arguments.unmeasured:
            figures = MEASURES[name](arguments.out, arguments.work)
            write_card(arguments.out / name, figures)
            Console().print(tabulate(figures))


def train_timed(arguments: argparse.Namespace, names: tuple[Model, ...]) -> None:
    """Train models within so many minutes, and record how."""
    scale = GPU if torch.cuda.is_available() else CPU
    recipe = plan_recipe(
        minutes=arguments.minutes,
        models=names,
        out=arguments.out.absolute(),
        work=arguments.work.absolute() / "timed",
        scale=scale,
        num_scenes=arguments.scenes,
        start_checksum=checksum(arguments.out, names) if arguments.fine_tune else None,
    )
    try:
        results = Supervisor(recipe).run()
    except FailedParts as error:
        raise SystemExit(f"failed: {error}; see {recipe.work}") from error
    print_results(results)
    for name in names:
        stages = [result for result in results if result.model == name]
        append_stages(arguments.out / name, [describe_stage(result) for result in stages], append=arguments.fine_tune)


def checksum(models: Path, names: tuple[Model, ...]) -> int:
    """A checksum of the models' weights."""
    return zlib.crc32(" ".join(weights.fingerprint(models / name) for name in names).encode())


def describe_stage(result: StageResult) -> StageFacts:
    """A stage in the form of the model's card."""
    return StageFacts(
        stage=result.stage,
        steps=result.steps,
        batch=result.batch,
        learning_rate=result.learning_rate,
        seed=result.seed,
        minutes=round(result.seconds / 60, 1),
        device=name_device(),
        remark="by the clock, beside the other models",
    )


def make_clip(order: Order) -> None:
    """Train CLIP and save it."""
    from training.clip.data import load_material
    from training.clip.train import FULL_RECIPE, PICTURES, save_clip, train_clip

    materials = load_material(order.load_scenes(), order.folder.parent, order.work)
    run = train_clip(materials, order.adapt(FULL_RECIPE), order.checkpoints / "clip.pt", order.start)
    save_clip(run, order.folder)
    order.note({"CLIP": (run, PICTURES)})


def make_diffusion(order: Order) -> None:
    """Train the diffusion model and save it."""
    from training.diffusion import train_text, train_vae
    from training.diffusion.train import BATCH, FULL_PLAN, save_diffusion, train_diffusion

    plan = FULL_PLAN.adapt(order.adapt, order.scenes)
    diffusion = train_diffusion(plan, order.work, order.checkpoints, order.start)
    save_diffusion(diffusion, order.folder)
    batches = {"Autoencoder": train_vae.BATCH, "Decoder": train_vae.BATCH, "Text encoder": train_text.BATCH}
    order.note({name: (run, batches.get(name, BATCH)) for name, run in diffusion.runs.items()})


def make_sam2(order: Order) -> None:
    """Train SAM2 and save it."""
    from training.sam2.train import FULL_STAGES, PICTURES, save_sam2, train_sam2

    planned = FULL_STAGES[-1:] if order.fine_tune else FULL_STAGES
    stages = tuple(replace(stage, recipe=order.adapt(stage.recipe)) for stage in planned)
    runs = train_sam2(order.load_scenes(), stages, order.checkpoints, order.start)
    save_sam2(runs[-1], order.folder)
    order.note({f"{stage.side} px": (run, PICTURES) for stage, run in zip(stages, runs, strict=True)})


TRAINERS: dict[Model, Callable[[Order], None]] = {"clip": make_clip, "diffusion": make_diffusion, "sam2": make_sam2}


if __name__ == "__main__":
    main()
