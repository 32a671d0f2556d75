"""The miniature models: those in `models/mini` where they have been made, else stand-ins made once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.settings import PROJECT_ROOT


@pytest.fixture(scope="session")
def mini_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with `diffusion`, `clip` and `sam2`."""
    from pipeline.engines.device import use_threads  # imports torch

    use_threads(1)  # small models gain nothing from more, and two test runs side by side would fight for the cores
    made = PROJECT_ROOT / "models" / "mini"
    if all((made / name / "README.md").is_file() for name in ("diffusion", "clip", "sam2")):
        return made
    from training.stand_ins import make_stand_ins  # imports every model library

    folder = tmp_path_factory.mktemp("mini")
    make_stand_ins(folder, seed=0)
    return folder
