from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.engines.clip import ClipEngine
from pipeline.settings import ClipSettings, Labelling, ModelSource
from training import train_clip
from training.dataset import KIND_NAMES, NONE, Choice, Scenes, load_scenes
from training.train_clip import FULL_RECIPE, judge, judge_captions, save_clip

RECIPE = replace(FULL_RECIPE, steps=6, learning_rate=1e-3, warmup=2)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Scenes:
    return load_scenes(Choice(num=40, side=64), tmp_path_factory.mktemp("scenes"), workers=1)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    for name, size in (("SCENES", 8), ("CROPS", 8), ("BACKGROUNDS", 2)):
        monkeypatch.setattr(train_clip, name, size)


def weights_of(run):
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def test_training_lowers_the_loss_and_the_service_reads_what_it_saves(scenes, tmp_path):
    fixed = train_clip.draw_batch(scenes, np.random.default_rng(0))

    def loss(run):
        run.model.eval()
        with torch.no_grad(), run.averaged():
            tokens = train_clip.open_clip.SimpleTokenizer(context_length=32)(fixed.texts)
            cosines = run.model.cosines(train_clip.prepare(fixed.pictures), tokens)
            return train_clip.loss_of_cosines(run.model, cosines, fixed).item()

    before = train_clip.train_clip(scenes, replace(RECIPE, steps=1), None)
    after = train_clip.train_clip(scenes, replace(RECIPE, steps=30), None)

    assert loss(after) < loss(before) - 0.3
    save_clip(after, tmp_path / "clip")
    engine = ClipEngine(ClipSettings(model=ModelSource(source=str(tmp_path / "clip"))), "cpu")
    found = engine.describe([scenes.pixels[0]], Labelling(labels=KIND_NAMES, top_k=5))
    assert np.isfinite(found.vectors).all()


def test_a_run_that_was_broken_off_ends_with_the_same_weights(scenes, tmp_path, monkeypatch):
    whole = train_clip.train_clip(scenes, RECIPE, None)
    real, calls = train_clip.draw_batch, []

    def broken(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr("training.loop.CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(train_clip, "draw_batch", broken)
    with pytest.raises(KeyboardInterrupt):
        train_clip.train_clip(scenes, RECIPE, tmp_path / "clip.pt")
    resumed = train_clip.train_clip(scenes, RECIPE, tmp_path / "clip.pt")

    assert len(calls) == 4 + 3
    assert torch.equal(weights_of(whole), weights_of(resumed))


def test_texts_are_judged_by_what_is_shown():
    kinds = np.array([[3, 5, NONE], [5, NONE, NONE]])
    colours = np.array([[0, 1, NONE], [2, NONE, NONE]])
    wanted = np.array([[5, NONE], [NONE, 0], [5, 1], [3, 1]])

    truth = judge(kinds, colours, unsure=np.array([NONE, 0]), wanted=wanted)

    assert truth.tolist() == [[1, 1, 1, 0], [1, NONE, 0, 0]]


def test_a_caption_is_false_only_of_pictures_that_lack_one_of_its_kinds():
    kinds = np.array([[3, 5, NONE], [5, NONE, NONE], [5, 3, 1]])

    assert judge_captions(kinds, 2).tolist() == [[1, NONE], [0, 1], [NONE, NONE]]


def test_training_goes_on_from_saved_weights(scenes, tmp_path):
    first = train_clip.train_clip(scenes, replace(RECIPE, steps=2), None)
    save_clip(first, tmp_path)
    fine_tuned = train_clip.train_clip(scenes, replace(RECIPE, steps=0), None, start=tmp_path)
    for name, value in first.result().clip.state_dict().items():
        assert torch.allclose(value, fine_tuned.model.clip.state_dict()[name], atol=2e-3), name
