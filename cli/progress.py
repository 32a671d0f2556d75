"""Progress bars on stderr, on a terminal only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ai_pipeline_client import OnProgress
from ai_pipeline_client import Progress as Step
from cli.console import error_console


def progress_bars() -> Progress:
    """Return progress bars that count steps."""
    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=error_console, disable=not error_console.is_terminal)


@contextmanager
def step_bars() -> Iterator[OnProgress]:
    """Show a bar of denoising steps for each image; yield what is called with each step."""
    tasks: dict[int, TaskID] = {}  # by number of the image
    with progress_bars() as bars:

        def report(step: Step) -> None:
            if step.number not in tasks:
                tasks[step.number] = bars.add_task("Denoising", total=step.num_steps)
            bars.update(tasks[step.number], completed=step.step, total=step.num_steps)

        yield report
