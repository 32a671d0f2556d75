"""Where a request goes, whatever prefix the application is mounted at."""

from __future__ import annotations

from starlette.types import Scope


def path_of(scope: Scope) -> str:
    """The path as routes name it."""
    path: str = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
    return path
