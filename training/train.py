"""Train the miniature models: `python -m training.train {clip,diffusion,sam2,all}`.

What is broken off goes on where it stood when it is called again. Scenes and checkpoints are kept in `.training/`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.settings import PROJECT_ROOT
from training.dataset import Choice, load_scenes

WORK = PROJECT_ROOT / ".training"
MODELS = PROJECT_ROOT / "models" / "mini"
SCENES = 60_000
SIDE = 128  # pixels


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["clip", "diffusion", "sam2", "all"])
    parser.add_argument("--out", type=Path, default=MODELS, help="default: models/mini")
    parser.add_argument("--work", type=Path, default=WORK, help="scenes and checkpoints; default: .training")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--scenes", type=int, default=SCENES, help="drawn for training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    scenes = load_scenes(Choice(num=arguments.scenes, side=SIDE), arguments.work)
    if arguments.model in ("clip", "all"):
        from training.train_clip import FULL_RECIPE, save_clip, train_clip

        recipe = replace(FULL_RECIPE, steps=arguments.steps or FULL_RECIPE.steps)
        save_clip(train_clip(scenes, recipe, arguments.work / "clip.pt"), arguments.out / "clip")
    if arguments.model in ("diffusion", "all"):
        from training.train_diffusion import FULL_PLAN, save_diffusion, train_diffusion

        plan = FULL_PLAN.shortened(arguments.steps, arguments.scenes)
        save_diffusion(train_diffusion(plan, arguments.work), arguments.out / "diffusion")
    if arguments.model in ("sam2", "all"):
        from training.train_sam2 import FULL_STAGES, save_sam2, shorten, train_sam2

        stages = shorten(FULL_STAGES, arguments.steps)
        save_sam2(train_sam2(scenes, stages, arguments.work), arguments.out / "sam2")


if __name__ == "__main__":
    main()
