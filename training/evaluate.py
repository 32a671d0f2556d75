"""Evaluate the miniature models on held-out scenes and prompts: `python -m training.evaluate [MEASURE …]`.

Prints each figure with its goal; `--json PATH` also writes them. Contact sheets are written to `.training`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from pipeline.settings import ServiceSettings
from training.evaluation.cards import MODELS, TEXTS, write_card
from training.evaluation.measures import Figure, tabulate
from training.scenes.dataset import SIDE, WORK


def main() -> None:
    """Read the command line and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*", default=list(MEASURES), help=", ".join(MEASURES))
    parser.add_argument("--models", type=Path, default=MODELS, help="default: models/mini")
    parser.add_argument("--work", type=Path, default=WORK, help="for scenes and contact sheets; default: .training")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cards", action="store_true", help="write the figures to the models' cards")
    arguments = parser.parse_args()
    if unknown := set(arguments.measures) - set(MEASURES):
        parser.error(f"unknown: {', '.join(unknown)}")
    figures: list[Figure] = []
    for name in arguments.measures:
        found = MEASURES[name](arguments.models, arguments.work)
        figures += found
        if arguments.cards and name in TEXTS:
            write_card(arguments.models / name, found)
    Console().print(tabulate(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")


def measure_clip(models: Path, work: Path) -> list[Figure]:
    """Classification of objects, and colours of regions."""
    from training.evaluation.clip import evaluate_clip

    return evaluate_clip(models, work, SIDE, ServiceSettings().load_profile())


def measure_diffusion(models: Path, work: Path) -> list[Figure]:
    """Images of prompts, scored by a judge classifier."""
    from training.evaluation.diffusion import evaluate_diffusion

    return evaluate_diffusion(models / "diffusion", work, SIDE)


def measure_sam2(models: Path, work: Path) -> list[Figure]:
    """Automatic segmentation, with the thresholds of the profile in use."""
    from training.evaluation.sam2 import draw_masks_sheet, evaluate_sam2

    everything = ServiceSettings().load_profile().sam2.everything
    draw_masks_sheet(models / "sam2", work, SIDE, everything).save(work / "sam2.png")
    return evaluate_sam2(models / "sam2", work, SIDE, everything)


def measure_finding(models: Path, work: Path) -> list[Figure]:
    """Text search in scenes of two objects, with the settings of the profile in use."""
    from training.evaluation.text_search import evaluate_finding

    return evaluate_finding(models, work, SIDE, ServiceSettings().load_profile())


def measure_pipeline(models: Path, work: Path) -> list[Figure]:
    """Prompts end to end through all three models, with the settings of the profile in use."""
    from training.evaluation.pipeline import evaluate_pipeline

    return evaluate_pipeline(models, work, SIDE, ServiceSettings().load_profile())


def measure_cost(models: Path, _work: Path) -> list[Figure]:
    """Size and speed."""
    from training.evaluation.cost import evaluate_cost

    return evaluate_cost(models, SIDE, ServiceSettings().load_profile())


MEASURES: dict[str, Callable[[Path, Path], list[Figure]]] = {
    "clip": measure_clip,
    "diffusion": measure_diffusion,
    "sam2": measure_sam2,
    "finding": measure_finding,
    "pipeline": measure_pipeline,
    "cost": measure_cost,
}


if __name__ == "__main__":
    main()
