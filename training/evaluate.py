"""Measure the miniature models on scenes they never saw: `python -m training.evaluate [clip|diffusion|sam2 …]`.

Prints each figure beside its goal; with `--json PATH` writes them too. Contact sheets go beside the JSON.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from training.measures import Figure
from training.train import MODELS, SIDE, WORK


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["clip"], choices=["clip"])
    parser.add_argument("--folder", type=Path, default=MODELS, help="default: models/mini")
    parser.add_argument("--work", type=Path, default=WORK, help="where scenes are kept; default: .training")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures: list[Figure] = []
    if "clip" in arguments.models:
        from training.evaluate_clip import evaluate_clip

        figures += evaluate_clip(arguments.folder / "clip", arguments.work, SIDE)
    Console().print(tabulate(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")


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
