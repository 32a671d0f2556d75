"""Measure the miniature models on scenes they never saw: `python -m training.evaluate [clip|diffusion|sam2 …]`.

Prints each figure beside its goal; with `--json PATH` writes them too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.settings import ServiceSettings
from training.measures import Figure
from training.train import MODELS, SIDE, WORK


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MEASURES), help=", ".join(MEASURES))
    parser.add_argument("--folder", type=Path, default=MODELS, help="default: models/mini")
    parser.add_argument("--work", type=Path, default=WORK, help="where scenes are kept; default: .training")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if unknown := set(arguments.models) - set(MEASURES):
        parser.error(f"unknown: {', '.join(unknown)}")
    figures = [
        figure for model in arguments.models for figure in MEASURES[model](arguments.folder / model, arguments.work)
    ]
    Console().print(tabulate(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")


def _measure_clip(folder: Path, work: Path) -> list[Figure]:
    from training.evaluate_clip import evaluate_clip

    return evaluate_clip(folder, work, SIDE)


def _measure_diffusion(folder: Path, work: Path) -> list[Figure]:
    from training.evaluate_diffusion import evaluate_diffusion

    return evaluate_diffusion(folder, work, SIDE)


def _measure_sam2(folder: Path, work: Path) -> list[Figure]:
    from training.evaluate_sam2 import evaluate_sam2

    return evaluate_sam2(folder, work, SIDE, ServiceSettings().load_profile().sam2.everything)


MEASURES: dict[str, Callable[[Path, Path], list[Figure]]] = {
    "clip": _measure_clip,
    "diffusion": _measure_diffusion,
    "sam2": _measure_sam2,
}


def tabulate(figures: list[Figure]) -> Table:
    """List figures beside their goals."""
    table = Table("measure", "figure", "goal", "samples", "")
    for figure in figures:
        form = f"{{:.2f}} {figure.unit}" if figure.unit else "{:.1%}"
        value, goal = form.format(figure.value), form.format(figure.goal)
        table.add_row(figure.what, value, goal, str(figure.samples), "" if figure.is_reached else "short")
    return table


if __name__ == "__main__":
    main()
