"""The libraries of the extra `images`, imported when they are first needed."""

from __future__ import annotations

import importlib
from typing import Any

EXTRA = 'pip install "ai-pipeline-client[images]"'


def require_numpy() -> Any:
    """Import numpy.

    Raises:
        ImportError: it isn't installed; says how to install it.
    """
    return _require("numpy", "numpy")


def require_pillow() -> Any:
    """Import `PIL.Image`.

    Raises:
        ImportError: pillow isn't installed; says how to install it.
    """
    return _require("PIL.Image", "pillow")


def _require(module: str, distribution: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"This needs {distribution}, which isn't installed: {EXTRA}", name=module) from error
