from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.engines.clip import ClipEngine
from pipeline.imaging.masks import masked_crops
from pipeline.settings import ServiceSettings, TextSearchSettings
from pipeline.text_scoring import Found, rank
from training.evaluation.sam2 import pairwise_iou
from training.sam2.serving import masks_of, open_engine, segment
from training.scenes.render import compose

FINDING = TextSearchSettings(min_cosine=0.5, logit_scale=10.0)
UNLIKE = np.array([0, 0, 1], np.float32)
APPLE, CUP = np.array([1, 0, 0], np.float32), np.array([0, 1, 0], np.float32)


def vector(apple: float, cup: float = 0.0) -> np.ndarray:
    """Return a vector with these cosines to the two texts."""
    return np.array([apple, cup, np.sqrt(1 - apple**2 - cup**2)], np.float32)


def test_regions_above_the_threshold_are_found_best_first():
    regions = np.stack([vector(0.6), vector(0.1), vector(0.9), vector(0.49)])
    found = rank(regions, UNLIKE, APPLE, FINDING)
    assert found.region_ids == (2, 0)
    assert found.scores == pytest.approx([1 / (1 + np.exp(-4)), 1 / (1 + np.exp(-1))], rel=1e-5)
    assert found.presence == found.scores[0]


def test_without_a_region_above_the_threshold_nothing_is_found():
    found = rank(np.stack([vector(0.4), vector(0.2)]), vector(0.3), APPLE, FINDING)
    assert (found.region_ids, found.scores) == ((), ())
    assert found.presence == pytest.approx(1 / (1 + np.exp(1)), rel=1e-5)
    assert len(found) == 0


def test_if_only_the_whole_image_matches_the_best_region_is_found():
    found = rank(np.stack([vector(0.2), vector(0.4), vector(0.3)]), vector(0.7), APPLE, FINDING)
    assert found.region_ids == (1,)
    assert found.scores[0] < 0.5 < found.presence


def test_each_text_finds_its_own_regions():
    regions = np.stack([vector(0.1, 0.9), vector(0.8, 0.2), vector(0.6, 0.6), vector(0.1, 0.1)])
    texts = {"apple": APPLE, "cup": CUP, "something else": UNLIKE}
    found = {
        name: rank(regions, vector(0, 0.1), text, TextSearchSettings(min_cosine=0.58)) for name, text in texts.items()
    }
    assert {name: each.region_ids for name, each in found.items()} == {
        "apple": (1, 2),
        "cup": (0, 2),
        "something else": (3,),
    }


def test_equal_scores_keep_the_segmenter_s_order():
    assert rank(np.stack([vector(0.6)] * 5), UNLIKE, APPLE, FINDING).region_ids == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("picture", [UNLIKE, APPLE], ids=["doesn't match", "matches"])
def test_an_image_without_regions_has_no_matches(picture):
    found = rank(np.zeros((0, 3), np.float32), picture, APPLE, FINDING)
    assert found.region_ids == ()
    assert (found.presence > 0.5) == (picture is APPLE)


def unit_vectors(rows: int) -> st.SearchStrategy[np.ndarray]:
    components = st.floats(-1, 1, width=32).filter(lambda x: abs(x) > 1e-3)
    return arrays(np.float32, (rows, 4), elements=components).map(
        lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)
    )


@given(st.integers(0, 8).flatmap(lambda n: unit_vectors(n + 2)), st.floats(-1, 1), st.floats(1, 1000))
def test_found_regions_are_the_best_and_a_stricter_threshold_finds_no_more(vectors, bound, scale):
    picture, text, regions = vectors[0], vectors[1], vectors[2:]
    lenient = TextSearchSettings(min_cosine=bound, logit_scale=scale)
    found = rank(regions, picture, text, lenient)

    cosines = regions @ text
    others = np.delete(cosines, found.region_ids)
    assert list(found.scores) == sorted(found.scores, reverse=True)
    assert all(0 <= score <= 1 for score in (*found.scores, found.presence))
    assert not len(found) or (cosines[list(found.region_ids)].min() >= others.max(initial=-2))

    strict = rank(regions, picture, text, lenient.model_copy(update={"min_cosine": min(1.0, bound + 0.1)}))
    assert strict.region_ids == found.region_ids[: len(strict)]


SCENES = {
    "red apple": ("apple", "red", "chair", "blue"),
    "clock": ("clock", "white", "tractor", "green"),
}
ABSENT = ("whale", "green castle", "spider")


@pytest.fixture(scope="module")
def find(mini_models):
    """Return a function that finds texts in an image with the default profile: its masks, and each text's matches."""
    profile = ServiceSettings().load_profile()
    segmenter, engine = open_engine(mini_models / "sam2"), ClipEngine(profile.clip, "cpu")

    def find_texts(pixels: np.ndarray, *texts: str) -> tuple[np.ndarray, list[Found]]:
        regions = segment(segmenter, pixels, profile.sam2.everything)
        crops = masked_crops(pixels, regions, engine.fill)
        vectors = engine.describe([pixels, *crops], profile.clip.labelling).vectors
        encoded = engine.encode_texts([profile.clip.finding.template.format(text=text) for text in texts])
        return masks_of(regions), [rank(vectors[1:], vectors[0], text, profile.clip.finding) for text in encoded]

    return find_texts


@pytest.mark.parametrize("text", SCENES)
def test_the_miniature_models_find_the_named_thing_and_nothing_else(find, text):
    kind, colour, other, others_colour = SCENES[text]
    scene = compose([(kind, colour), (other, others_colour)], seed=1, side=128)

    masks, (named, *absent) = find(scene.pixels, text, *ABSENT)

    iou = pairwise_iou(np.stack([thing.mask for thing in scene.things]), masks)[:, named.region_ids[0]]
    assert iou[0] >= 0.5
    assert [found.region_ids for found in absent] == [(), (), ()]
