"""Where a request goes, whatever prefix the application is mounted at."""

from __future__ import annotations

from starlette.types import Scope

QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})  # asked every few seconds by machines


def path_of(scope: Scope) -> str:
    """The path as routes name it."""
    path: str = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
    return path
