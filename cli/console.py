"""The commands' console, their error messages, and their exit codes.

| code | meaning |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | wrong arguments |
| 3 | not found: no such image, job or key |
| 4 | refused: the request is invalid, not authorized, or at a limit |
| 5 | unreachable: there is no service at the URL, or it isn't ready |
| 130 | interrupted by Ctrl-C |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

import ai_pipeline_client
from cli.errors import LaunchError
from pipeline import errors

FAILED, NOT_FOUND, REFUSED, UNREACHABLE, INTERRUPTED = 1, 3, 4, 5, 130

console = Console()
error_console = Console(stderr=True, soft_wrap=True)


@contextmanager
def report_errors(interrupted: int = INTERRUPTED) -> Iterator[None]:
    """Print errors that a user can fix as one sentence on stderr, and exit with their code.

    Args:
        interrupted: exit code after Ctrl-C; 0 where that is how the command is ended.
    """
    try:
        yield
    except KeyboardInterrupt:
        error_console.print("Stopped.")
        raise typer.Exit(interrupted) from None
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        error_console.print(f"[red]{escape('; '.join(wrong))}")
        raise typer.Exit(FAILED) from None
    except (
        LaunchError,
        errors.PipelineError,
        ai_pipeline_client.PipelineError,
        FileNotFoundError,
        ValueError,
    ) as error:
        message = error.detail if isinstance(error, ai_pipeline_client.PipelineError) else str(error)
        error_console.print(f"[red]{escape(message)}")
        raise typer.Exit(exit_code(error)) from None


def exit_code(error: Exception) -> int:
    """Return the exit code for an error."""
    match error:
        case errors.NotFound() | ai_pipeline_client.NotFound():
            return NOT_FOUND
        case errors.InvalidRequest() | ai_pipeline_client.InvalidRequest() | ai_pipeline_client.Unauthorized():
            return REFUSED
        case ai_pipeline_client.Conflict() | ai_pipeline_client.Overloaded():
            return REFUSED
        case ai_pipeline_client.ConnectionFailed() | ai_pipeline_client.ServiceUnavailable():
            return UNREACHABLE
        case _:
            return FAILED
