"""Train the miniature models: `python -m training.train {clip,diffusion,sam2,all}`.

What is broken off goes on where it stood when it is called again: scenes and checkpoints are kept in `.training/`. Each
model is then measured, and its card says how it was made and how good it is. `--fine-tune` trains the models in `--out`
further, in an order of scenes that follows from their weights; what comes of it is better or it isn't: compare the
figures before you commit it.
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
from training.cards import MODELS, write_card, write_provenance
from training.dataset import SIDE, WORK, Choice, Scenes, load_scenes
from training.evaluate import MEASURES
from training.loop import Recipe, Run
from training.measures import tabulate

SCENES = 60_000
FINE_TUNE_RATE = 0.6  # share of the learning rate when trained weights go on


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the command line asks for."""

    folder: Path  # of the model
    work: Path  # for scenes
    max_steps: int | None
    scenes: int
    fine_tune: bool

    @property
    def start(self) -> Path | None:
        """The folder whose weights are the start, if they are."""
        return self.folder if self.fine_tune else None

    @cached_property
    def checkpoints(self) -> Path:
        """The folder for them: trained weights that go on have one of their own."""
        return self.work / f"fine-tune-{weights.fingerprint(self.folder)}" if self.fine_tune else self.work

    def adapt(self, recipe: Recipe) -> Recipe:
        """The recipe with no more steps than were asked for; slower, and from another seed, where weights go on."""
        recipe = replace(recipe, steps=min(recipe.steps, self.max_steps or recipe.steps))
        if self.fine_tune:
            seed = zlib.crc32(self.checkpoints.name.encode())
            recipe = replace(recipe, learning_rate=recipe.learning_rate * FINE_TUNE_RATE, seed=seed)
        return recipe

    def note(self, stages: Mapping[str, tuple[Run, int]]) -> None:
        """Write down how the model was trained."""
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
    parser.add_argument("--scenes", type=int, default=SCENES, help="drawn for training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fine-tune", action="store_true", help="start from the weights in --out")
    parser.add_argument("--unmeasured", action="store_true", help="write no card")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in TRAINERS if arguments.model == "all" else [arguments.model]:
        TRAINERS[name](
            Order(
                folder=arguments.out / name,
                work=arguments.work,
                max_steps=arguments.max_steps,
                scenes=arguments.scenes,
                fine_tune=arguments.fine_tune,
            )
        )
        for file in (arguments.out / name).rglob("*.safetensors"):
            file.chmod(0o644)  # safetensors writes for the owner alone, and a service runs as somebody else
        if not arguments.unmeasured:
            figures = MEASURES[name](arguments.out, arguments.work)
            write_card(arguments.out / name, figures)
            Console().print(tabulate(figures))


def make_clip(order: Order) -> None:
    """Train CLIP and save it."""
    from training.train_clip import FULL_RECIPE, PICTURES, Material, save_clip, train_clip

    materials = [Material(scenes=order.load_scenes(), share=1.0)]
    run = train_clip(materials, order.adapt(FULL_RECIPE), order.checkpoints / "clip.pt", order.start)
    save_clip(run, order.folder)
    order.note({"CLIP": (run, PICTURES)})


def make_diffusion(order: Order) -> None:
    """Train the diffusion model and save it."""
    from training import train_text, train_vae
    from training.train_diffusion import BATCH, FULL_PLAN, save_diffusion, train_diffusion

    plan = FULL_PLAN.adapt(order.adapt, order.scenes)
    diffusion = train_diffusion(plan, order.work, order.checkpoints, order.start)
    save_diffusion(diffusion, order.folder)
    batches = {"Autoencoder": train_vae.BATCH, "Decoder": train_vae.BATCH, "Text encoder": train_text.BATCH}
    order.note({name: (run, batches.get(name, BATCH)) for name, run in diffusion.runs.items()})


def make_sam2(order: Order) -> None:
    """Train SAM2 and save it."""
    from training.train_sam2 import FULL_STAGES, PICTURES, save_sam2, train_sam2

    planned = FULL_STAGES[-1:] if order.fine_tune else FULL_STAGES
    stages = tuple(replace(stage, recipe=order.adapt(stage.recipe)) for stage in planned)
    runs = train_sam2(order.load_scenes(), stages, order.checkpoints, order.start)
    save_sam2(runs[-1], order.folder)
    order.note({f"{stage.side} px": (run, PICTURES) for stage, run in zip(stages, runs, strict=True)})


TRAINERS: dict[str, Callable[[Order], None]] = {"clip": make_clip, "diffusion": make_diffusion, "sam2": make_sam2}


if __name__ == "__main__":
    main()
