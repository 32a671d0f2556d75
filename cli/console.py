"""The commands' console, and their error messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from ai_pipeline_client import PipelineError as RemoteError
from cli.errors import LaunchError
from pipeline.errors import PipelineError

console = Console()


@contextmanager
def report_errors() -> Iterator[None]:
    """Print errors that a user can fix as one sentence and exit with code 1; end normally on an interrupt."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("Stopped.")
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        console.print(f"[red]{escape('; '.join(wrong))}")
        raise typer.Exit(1) from None
    except (LaunchError, PipelineError, RemoteError, FileNotFoundError, ValueError) as error:
        console.print(f"[red]{escape(str(error))}")
        raise typer.Exit(1) from None
