"""Our engines against a naive baseline, on the same weights and inputs: `python -m benchmarks engines [suite …]`.

Each suite interleaves the two in one process and checks that their results agree. `--quick` takes a few
rounds of each and at most ten minutes on two cores; `--json PATH` writes the figures.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from rich.console import Console

from benchmarks.harness import Result, as_json, tabulate

SUITES = ("everything", "prompts", "crops", "probe", "visualize", "diffusion", "arrivals")
THREADS = 2


def main() -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", default=list(SUITES), help=", ".join(SUITES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=THREADS)
    arguments = parser.parse_args()
    if unknown := set(arguments.suites) - set(SUITES):
        parser.error(f"unknown: {', '.join(unknown)}")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the launcher does; read when torch is loaded
    from pipeline.engines.device import use_cpu

    use_cpu(arguments.threads)
    results: list[Result] = []
    for name in arguments.suites:
        measure: Callable[[bool], list[Result]] = import_module(f"benchmarks.engines.{name}").measure
        results += measure(arguments.quick)
        Console(width=160).print(tabulate(results))
        if arguments.json:
            arguments.json.write_text(json.dumps(as_json(results), indent=2) + "\n")
