from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.engines.clip import ClipEngine
from pipeline.settings import ClipSettings, ModelSource, ZeroShotSettings
from training.clip import train as train_clip
from training.clip.train import CLASSES, FULL_RECIPE, Material, judge, judge_captions, save_clip
from training.clip.unknown_images import draw_unknown
from training.scenes.dataset import COLOUR_NAMES, KIND_NAMES, NONE, Choice, Scenes, load_scenes

RECIPE = replace(FULL_RECIPE, steps=6, learning_rate=1e-3, warmup=2)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Scenes:
    return load_scenes(Choice(num=40, side=64), tmp_path_factory.mktemp("scenes"), workers=1)


@pytest.fixture(scope="module")
def material(scenes) -> list[Material]:
    return [Material(scenes=scenes, share=1.0)]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    for name, size in (("WHOLE", 8), ("CROPS", 8), ("BACKGROUNDS", 4), ("UNKNOWN", 4)):
        monkeypatch.setattr(train_clip, name, size)


def weights_of(run):
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def test_training_lowers_the_loss_and_the_engine_loads_the_weights(scenes, material, tmp_path):
    fixed = train_clip.draw_batch(material, np.random.default_rng(0))

    def loss(run):
        run.model.eval()
        with torch.no_grad(), run.averaged():
            tokens = train_clip.open_clip.SimpleTokenizer(context_length=32)(fixed.texts)
            cosines = run.model.cosines(train_clip.prepare(fixed.pictures), tokens)
            return train_clip.loss_of_cosines(run.model, cosines, fixed).item()

    before = train_clip.train_clip(material, replace(RECIPE, steps=1), None)
    after = train_clip.train_clip(material, replace(RECIPE, steps=30), None)

    assert loss(after) < loss(before) - 0.3
    save_clip(after, tmp_path / "clip")
    engine = ClipEngine(ClipSettings(model=ModelSource(source=str(tmp_path / "clip"))), "cpu")
    found = engine.describe([scenes.pixels[0]], ZeroShotSettings(labels=KIND_NAMES, top_k=5))
    assert np.isfinite(found.vectors).all()


def test_an_interrupted_run_resumes_to_the_same_weights(material, tmp_path, monkeypatch):
    whole = train_clip.train_clip(material, RECIPE, None)
    real, calls = train_clip.draw_batch, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr("training.loop.CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(train_clip, "draw_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_clip.train_clip(material, RECIPE, tmp_path / "clip.pt")
    resumed = train_clip.train_clip(material, RECIPE, tmp_path / "clip.pt")

    assert len(calls) == 4 + 3
    assert torch.equal(weights_of(whole), weights_of(resumed))


def test_targets_are_the_kinds_in_each_image(scenes, material):
    batch = train_clip.draw_batch(material, np.random.default_rng(1))
    whole, crops, backgrounds, unknown = np.split(batch.targets, [8, 16, 20])
    assert np.allclose(batch.targets.sum(1), 1)
    shown = {frozenset(row[row != NONE].tolist()) for row in scenes.kinds}
    assert all(frozenset(np.flatnonzero(row).tolist()) in shown for row in whole)
    assert (crops.max(1) == 1).all()
    assert (backgrounds[:, CLASSES.index("background")] == 1).all()
    assert (unknown[:, CLASSES.index("unknown")] == 1).all()
    # The background label is true for backgrounds, false for things and unknown content, undefined for whole scenes.
    truth = batch.truth[:, CLASSES.index("background")]
    assert [set(part.tolist()) for part in np.split(truth, [8, 16, 20])] == [{NONE}, {0}, {1}, {0}]


def test_unknown_images_differ_and_are_reproducible_from_their_seed(scenes):
    def draw(seed):
        return [draw_unknown(scenes, train_clip.FILL, np.random.default_rng((seed, i))) for i in range(24)]

    first = draw(0)
    assert all(np.array_equal(a, b) for a, b in zip(first, draw(0), strict=True))
    assert len({picture.tobytes() for picture in [*first, *draw(1)]}) == 48
    assert all(picture.dtype == np.uint8 and picture.ndim == 3 and min(picture.shape[:2]) >= 5 for picture in first)


def test_texts_are_true_or_false_by_kinds_and_colours():
    kinds = np.array([[3, 5, NONE], [5, NONE, NONE]])
    colours = np.array([[0, 1, NONE], [2, NONE, NONE]])
    wanted = np.array([[5, NONE], [NONE, 0], [5, 1], [3, 1]])
    unsure = np.zeros((2, len(COLOUR_NAMES)), bool)
    unsure[1, 0] = True

    truth = judge(kinds, colours, unsure=unsure, wanted=wanted)

    assert truth.tolist() == [[1, 1, 1, 0], [1, NONE, 0, 0]]


def test_a_caption_is_false_only_for_images_that_lack_one_of_its_kinds():
    kinds = np.array([[3, 5, NONE], [5, NONE, NONE], [5, 3, 1]])

    assert judge_captions(kinds, 2).tolist() == [[1, NONE], [0, 1], [NONE, NONE]]


def test_training_continues_from_saved_weights(material, tmp_path):
    first = train_clip.train_clip(material, replace(RECIPE, steps=2), None)
    save_clip(first, tmp_path)
    fine_tuned = train_clip.train_clip(material, replace(RECIPE, steps=0), None, start=tmp_path)
    for name, value in first.result().clip.state_dict().items():
        assert torch.allclose(value, fine_tuned.model.clip.state_dict()[name], atol=2e-3), name
