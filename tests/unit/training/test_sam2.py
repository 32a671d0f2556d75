from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.settings import AutomaticMaskSettings
from training.evaluation.sam2 import pairwise_iou, tally_up
from training.loop import Recipe, Run
from training.sam2.model import TrainableSam2
from training.sam2.prompts import draw_prompts
from training.sam2.serving import masks_of, open_engine, segment
from training.sam2.train import Stage, save_sam2, train_sam2
from training.scenes.dataset import Choice, load_scenes

STAGE = Stage(side=64, loss_side=32, recipe=Recipe(steps=24, learning_rate=1e-3, warmup=4, ema=0.9))


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.sam2.train.PICTURES", 2)
        patch.setattr("training.sam2.train.POINTS", 3)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return load_scenes(Choice(num=8, side=64), tmp_path_factory.mktemp("scenes"), workers=1)


@pytest.fixture(scope="module")
def trained(scenes):
    return train_sam2(scenes, (STAGE,), None)[-1]


def test_training_lowers_the_loss(trained):
    first, last = np.mean(trained.losses[:4]), np.mean(trained.losses[-4:])
    assert last < 0.8 * first


def test_an_interrupted_run_resumes_to_the_same_weights(scenes, tmp_path, monkeypatch):
    stages = tuple(
        Stage(side=side, loss_side=32, recipe=Recipe(steps=4, learning_rate=1e-3, warmup=2, ema=0.9, seed=side))
        for side in (64, 128)
    )
    whole = train_sam2(scenes, stages, tmp_path / "whole")[-1]

    advance, steps_left = Run.advance, 6  # into the second stage

    def advance_or_break(run, loss_of):
        nonlocal steps_left
        if steps_left == 0:
            run.save()
            raise KeyboardInterrupt
        steps_left -= 1
        return advance(run, loss_of)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", advance_or_break)
        with pytest.raises(KeyboardInterrupt):
            train_sam2(scenes, stages, tmp_path / "broken")
    resumed = train_sam2(scenes, stages, tmp_path / "broken")[-1]

    assert len(resumed.losses) == 2
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_saved_weights_load_in_the_engine(trained, scenes, tmp_path):
    save_sam2(trained, tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 16_000_000
    engine = open_engine(tmp_path)
    with trained.averaged():
        expected = trained.model.sam2.no_mem_embed.detach().clone()
    assert torch.allclose(engine.model.no_mem_embed, expected, atol=1e-3)
    lenient = AutomaticMaskSettings(
        image_size=64, points_per_side=4, min_predicted_iou=0.0, min_stability=0.0, max_box_iou=0.95, min_area=0.0
    )
    found = segment(engine, scenes.pixels[0], lenient)
    assert len(found) > 0
    assert masks_of(found).any(axis=(1, 2)).all()


def test_points_lie_on_their_target(scenes):
    prompts = draw_prompts(scenes, 20, 6, 128, np.random.default_rng(0))
    assert prompts.pictures.shape == (20, 128, 128, 3)
    columns, rows = (prompts.points // 2).astype(int).transpose(2, 0, 1)
    n, p = np.indices(rows.shape)
    assert prompts.truth[n, p, rows, columns].all()
    behind = (prompts.truth & (prompts.owners == 0)[:, None]).any((2, 3))
    assert 0.1 < behind.mean() < 0.5  # some targets are backgrounds, most are things


def test_boxes_enclose_their_target(scenes):
    prompts = draw_prompts(scenes, 20, 6, 128, np.random.default_rng(0))
    for boxes, masks in zip(prompts.boxes, prompts.truth, strict=True):
        for (x0, y0, x1, y1), mask in zip(boxes / 2, masks, strict=True):
            rows, columns = np.nonzero(mask)
            inside = (rows >= y0 - 1) & (rows <= y1 + 1) & (columns >= x0 - 1) & (columns <= x1 + 1)
            assert inside.mean() > 0.6
            assert (x1 - x0) * (y1 - y0) < 1.6 * (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def test_a_tally_counts_things_and_regions():
    truth = np.zeros((3, 4, 4), bool)
    truth[0, :2], truth[1, 2], truth[2, 3] = True, True, True
    found = np.stack([truth[0], truth[1], truth[1]])
    tally = tally_up([(truth, found), (truth[:2], np.zeros((0, 4, 4), bool))])
    assert tally.found == [True, False, False]
    assert tally.regions_each == 3 / 5
    assert pairwise_iou(truth[:1], truth[:1] | truth[1:2]).item() == pytest.approx(2 / 3)


def test_an_untrained_model_attends_to_the_point():
    torch.manual_seed(0)
    model = TrainableSam2().eval()
    attention = model.sam2.sam_mask_decoder.transformer.layers[0].cross_attn_token_to_image
    prompts = model.sam2.sam_prompt_encoder
    model.sam2.set_imgsz([128, 128])
    with torch.inference_mode():
        sparse, _ = prompts((torch.tensor([[[100.0, 20.0]]]), torch.ones(1, 1, dtype=torch.int32)), None, None)
        places = prompts.get_dense_pe().flatten(2).transpose(1, 2)  # (1, 64, 256)
        nearness = attention.q_proj(sparse[:, :1]) @ attention.k_proj(places).transpose(1, 2)
    assert divmod(int(nearness.argmax()), 8) == (1, 6)  # row and column of the cell that holds the point


def test_training_continues_from_saved_weights(trained, scenes, tmp_path):
    save_sam2(trained, tmp_path)
    still = replace(STAGE, recipe=replace(STAGE.recipe, steps=0))
    fine_tuned = train_sam2(scenes, (still,), None, start=tmp_path)[-1]
    for name, value in trained.result().sam2.sam_mask_decoder.state_dict().items():
        assert torch.allclose(value, fine_tuned.model.sam2.sam_mask_decoder.state_dict()[name], atol=2e-3), name
