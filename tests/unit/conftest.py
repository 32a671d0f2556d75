"""The miniature models that the project carries."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.settings import PROJECT_ROOT


@pytest.fixture(scope="session")
def mini_models() -> Path:
    """The folder with `diffusion`, `clip` and `sam2`."""
    from pipeline.engines.device import use_cpu  # imports torch

    use_cpu(1)  # small models gain nothing from more, and two test runs side by side would fight for the cores
    return PROJECT_ROOT / "models" / "mini"
