from __future__ import annotations

import json
import shutil

import numpy as np
import open_clip
import pytest
import torch
from cachetools import LRUCache
from PIL import Image

from pipeline.cifar100 import CIFAR100
from pipeline.engines.clip import MAX_TEXTS, ClipEngine, Preprocessing
from pipeline.engines.weights import ModelUnavailable, fingerprint
from pipeline.settings import ClipSettings, ModelSource, ZeroShotSettings
from tests.unit.shapes import draw_held_out, draw_shapes


@pytest.fixture(scope="module")
def engine(mini_models):
    return ClipEngine(ClipSettings(model=ModelSource(source=str(mini_models / "clip"))), "cpu")


@pytest.fixture
def encoded(engine, monkeypatch):
    """Sizes of the batches that the text tower encoded, in order."""
    batches = []
    encode = engine.model.encode_text
    monkeypatch.setattr(engine.model, "encode_text", lambda tokens: batches.append(len(tokens)) or encode(tokens))
    return batches


def test_confidences_of_all_labels_sum_to_one_best_first(engine):
    described = engine.describe([draw_shapes(), draw_held_out(1)], ZeroShotSettings(top_k=200))
    assert described.confidences.shape == (2, 100)
    assert np.allclose(described.confidences.sum(axis=1), 1, atol=1e-5)
    assert (np.diff(described.confidences, axis=1) <= 0).all()
    assert all(sorted(row) == sorted(CIFAR100) for row in described.labels)


def test_the_unknown_label_takes_its_share_and_is_not_listed(engine):
    labels = ("apple", "plate", "castle")
    plain = engine.describe([draw_shapes(), draw_held_out(1)], ZeroShotSettings(labels=labels))
    with_unknown = engine.describe(
        [draw_shapes(), draw_held_out(1)], ZeroShotSettings(labels=labels, unknown="something unknown")
    )

    assert plain.unknown.tolist() == [0, 0]
    assert (with_unknown.unknown > 0).all()
    assert with_unknown.confidences.sum(axis=1) + with_unknown.unknown == pytest.approx(np.ones(2), abs=1e-5)
    assert with_unknown.labels == plain.labels
    shares = plain.confidences * (1 - with_unknown.unknown[:, None])  # relative confidences don't change
    assert with_unknown.confidences == pytest.approx(shares, abs=1e-5)
    assert [description.unknown for description in with_unknown] == pytest.approx(with_unknown.unknown.tolist())
    assert with_unknown.part(1, 2).unknown.tolist() == with_unknown.unknown[1:].tolist()


def test_the_top_labels_have_the_profile_s_spelling(engine):
    labelling = ZeroShotSettings(labels=("maple_tree", "apple", "plate"), top_k=2)
    described = engine.describe([draw_shapes()], labelling)
    assert described.confidences.shape == (1, 2)
    assert set(described.labels[0]) < {"maple_tree", "apple", "plate"}


def test_scores_equal_those_of_open_clip(engine, mini_models):
    name = f"local-dir:{mini_models / 'clip'}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    labels = ("apple", "maple_tree", "road")
    with torch.no_grad():
        image = model.eval().encode_image(preprocess(Image.fromarray(draw_shapes()))[None], normalize=True)
        prompts = [f"a photo of a {label}" for label in ("apple", "maple tree", "road")]
        texts = model.encode_text(open_clip.get_tokenizer(name)(prompts), normalize=True)
        theirs = dict(zip(labels, (100 * image @ texts.T).softmax(dim=1)[0].tolist(), strict=True))
    described = engine.describe([draw_shapes()], ZeroShotSettings(labels=labels))
    ours = dict(zip(described.labels[0], described.confidences[0].tolist(), strict=True))
    assert max(ours, key=ours.get) == max(theirs, key=theirs.get)
    assert ours == pytest.approx(theirs, abs=0.02)
    assert described.vectors[0] @ image[0].numpy() > 0.999


def test_vectors_do_not_depend_on_the_batch(engine):
    pictures = [draw_shapes(), draw_held_out(2)[:3, :50], draw_held_out(3)[:, :70]]
    together = engine.describe(pictures, ZeroShotSettings())
    alone = np.concatenate([engine.describe([picture], ZeroShotSettings()).vectors for picture in pictures])
    assert together.vectors == pytest.approx(alone, abs=1e-5)


def test_different_images_get_different_labels(engine):
    described = engine.describe([draw_held_out(i) for i in range(20, 30)], ZeroShotSettings())
    assert len({row[0] for row in described.labels}) >= 3


def test_vectors_have_unit_norm_and_are_read_only(engine):
    described = engine.describe([draw_shapes()], ZeroShotSettings())
    texts = engine.encode_texts(["metal", "wood"])
    for vectors in (described.vectors, texts):
        assert vectors.dtype == np.float32
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(vectors)), abs=1e-5)
        assert not vectors.flags.writeable


def test_empty_batches_give_empty_arrays_of_the_right_shapes(engine):
    described = engine.describe([], ZeroShotSettings())
    assert (len(described), described.vectors.shape, described.confidences.shape) == (0, (0, 256), (0, 5))
    assert list(described) == []
    assert engine.encode_texts([]).shape == (0, 256)


def test_texts_are_encoded_once(engine, encoded):
    first = engine.encode_texts(["a new text", "another new text", "a new text"])
    assert encoded == [2]
    again = engine.encode_texts(["another new text", "a new text"])
    assert encoded == [2]
    assert np.array_equal(first[[1, 0]], again)
    assert np.array_equal(first[0], first[2])


def test_the_least_recently_used_texts_are_evicted(engine, encoded, monkeypatch):
    monkeypatch.setattr(engine, "texts", LRUCache(2))
    engine.encode_texts(["one", "two"])
    engine.encode_texts(["one"])
    engine.encode_texts(["three"])
    engine.encode_texts(["one", "three"])
    assert encoded == [2, 1]
    engine.encode_texts(["two"])
    assert encoded == [2, 1, 1]
    assert MAX_TEXTS == 1024


def test_more_texts_than_the_cache_holds_are_all_encoded(engine, monkeypatch):
    monkeypatch.setattr(engine, "texts", LRUCache(2))
    assert len(engine.encode_texts(["one", "two", "three", "four"])) == 4


def test_labels_are_encoded_once_for_each_template(engine, encoded):
    labels = ("first label", "second label")
    for template in ("a {label}", "a {label}", "the {label}", "a {label}"):
        engine.describe([draw_shapes()], ZeroShotSettings(labels=labels, template=template))
    assert encoded == [2, 2]


def test_the_fill_normalises_to_about_zero(engine):
    filled = np.full((64, 64, 3), engine.fill, dtype=np.uint8)
    assert np.abs(engine.preprocess([filled]).numpy()).max() < 0.01


def test_the_fingerprint_is_that_of_the_weights(engine, mini_models):
    assert engine.fingerprint == fingerprint(mini_models / "clip")


@pytest.mark.parametrize("source", ["./models/gone", "no-architecture-of-this-name"])
def test_missing_weights_are_named(source):
    with pytest.raises(ModelUnavailable, match=source.lstrip("./")):
        ClipEngine(ClipSettings(model=ModelSource(source=source), pretrained="openai"), "cpu")


def test_a_folder_without_weights_raises(tmp_path, mini_models):
    folder = tmp_path / "clip"
    shutil.copytree(mini_models / "clip", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    assert json.loads((folder / "open_clip_config.json").read_text())
    with pytest.raises(ModelUnavailable, match=str(folder)):
        ClipEngine(ClipSettings(model=ModelSource(source=str(folder))), "cpu")


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [64, (48, 80)])
@pytest.mark.parametrize(("height", "width"), [(128, 128), (37, 120), (200, 51), (9, 3)])
def test_preprocessing_equals_open_clip_s_within_two_levels(mode, size, height, width):
    config = open_clip.transform.PreprocessCfg(size=size, resize_mode=mode, fill_color=(122, 116, 104))
    rng = np.random.default_rng(0)
    picture = np.asarray(
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
    )
    theirs = open_clip.transform.image_transform_v2(config, is_train=False)(Image.fromarray(picture))
    (ours,) = Preprocessing(vars(config), "cpu")([picture])
    levels = (ours - theirs).abs() * torch.tensor(config.std).view(3, 1, 1) * 255
    assert levels.max() <= 2.01
