"""SAM3's architecture at a small size with random weights: only the mechanics are tested, not the masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import safetensors.torch
import torch

from pipeline.engines.sam3 import Sam3Engine, build_model
from pipeline.engines.weights import ModelUnavailable
from pipeline.imaging.masks import decode_mask
from pipeline.settings import ModelSource, Sam3Settings
from tests.unit.shapes import draw_shapes

SIDE = 336  # of the model's square input: one window of the backbone


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """Patch SAM3 to be built with few and narrow layers."""
    from ultralytics.models.sam import build_sam3

    vit, text = build_sam3.ViT, build_sam3.VETextEncoder
    narrow = {"embed_dim": 64, "depth": 4, "num_heads": 2, "global_att_blocks": (1, 3), "img_size": SIDE}
    with (
        mock.patch.object(build_sam3, "ViT", lambda **options: vit(**options | narrow)),
        mock.patch.object(build_sam3, "VETextEncoder", lambda **o: text(**o | {"width": 64, "heads": 2, "layers": 2})),
    ):
        yield


@pytest.fixture(scope="module")
def checkpoint(small: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights named as in Meta's checkpoints, beside those of the tracker."""
    torch.manual_seed(0)
    model = build_model()
    with torch.no_grad():
        for parameter in model.parameters():  # some are uninitialized
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
            elif not parameter.isfinite().all():
                parameter.zero_()
    state = {f"detector.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    path = tmp_path_factory.mktemp("sam3") / "sam3.safetensors"
    safetensors.torch.save_file(state | {"tracker.memory": torch.zeros(1)}, path)
    return path


@pytest.fixture(scope="module")
def settings(checkpoint: Path) -> Sam3Settings:
    return Sam3Settings(model=ModelSource(source=str(checkpoint)), image_size=SIDE, min_score=0.0)


@pytest.fixture(scope="module")
def engine(settings: Sam3Settings) -> Sam3Engine:
    return Sam3Engine(settings, "cpu")


def test_masks_have_the_size_of_the_image_and_are_sorted_by_score(engine: Sam3Engine, settings: Sam3Settings):
    found = engine.find(draw_shapes(100, 140), "red disc", settings)

    assert found.size == (100, 140)
    assert len(found) > 0
    assert (np.diff(found.predicted_iou) <= 0).all()
    for region in found:
        mask = decode_mask(region.rle, found.size)
        x0, y0, x1, y1 = region.box.astype(int)
        assert mask.any()
        assert mask.sum() == mask[y0:y1, x0:x1].sum()


def test_masks_below_the_threshold_are_dropped(engine: Sam3Engine, settings: Sam3Settings):
    found = engine.find(draw_shapes(100, 140), "red disc", settings.model_copy(update={"min_score": 1.0}))
    assert (len(found), found.size, found.boxes.shape) == (0, (100, 140), (0, 4))


def test_masks_depend_on_the_text(engine: Sam3Engine, settings: Sam3Settings):
    one, same, other = (engine.find(draw_shapes(), text, settings) for text in ("red disc", "red disc", "a castle"))
    assert np.array_equal(one.predicted_iou, same.predicted_iou)
    assert not np.array_equal(one.predicted_iou[:5], other.predicted_iou[:5])


def test_missing_and_mismatched_weights_raise(small: None, tmp_path: Path):
    other = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"detector.backbone": torch.zeros(1)}, other)
    for source, problem in (
        (str(tmp_path / "sam3.pt"), "does not exist"),
        (str(other), "lacks"),
        ("sam3.pt", "no file"),
    ):
        with pytest.raises(ModelUnavailable, match=problem):
            Sam3Engine(Sam3Settings(model=ModelSource(source=source)), "cpu")
