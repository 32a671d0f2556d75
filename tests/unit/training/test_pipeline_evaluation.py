"""What the joint evaluation of the three models counts as correct."""

from __future__ import annotations

import numpy as np
import pytest

from training.diffusion.generated_images import UNASSIGNED, assign_pixels
from training.diffusion.prompt_sets import (
    Prompt,
    pair_prompts,
    readme_prompts,
    single_prompts,
    training_prompts,
    unseen_prompts,
)
from training.evaluation.measures import calibration_error
from training.evaluation.pipeline import Outcome, stand_in
from training.scenes.dataset import KIND_NAMES
from training.scenes.objects.kinds import COLOURS
from training.scenes.splits import is_held_out

SIDE = 64
README = readme_prompts(1)[0]


def rectangle(left: int, top: int, right: int, bottom: int):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[top:bottom, left:right] = True
    return mask


APPLE, PLATE = rectangle(24, 24, 40, 36), rectangle(10, 30, 54, 50) & ~rectangle(24, 24, 40, 36)
BACKGROUND = ~(APPLE | PLATE)


def outcome(prompt: Prompt, **regions) -> Outcome:
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    return Outcome(prompt=prompt, image=image, masks=np.array(list(regions.values())), names=tuple(regions))


def test_the_requested_things_are_correct_with_or_without_a_background():
    assert outcome(README, apple=APPLE, plate=PLATE, background=BACKGROUND).is_right
    assert outcome(README, plate=PLATE, apple=APPLE).is_right


@pytest.mark.parametrize(
    "regions",
    [
        {"apple": APPLE, "background": BACKGROUND},
        {"apple": APPLE, "plate": PLATE, "cloud": BACKGROUND},
        {"apple": APPLE, "bowl": PLATE, "background": BACKGROUND},
        {"background": BACKGROUND},
    ],
)
def test_missing_extra_and_misnamed_things_are_wrong(regions):
    assert not outcome(README, **regions).is_right


def test_regions_are_counted_without_those_along_the_border():
    assert outcome(README, a=APPLE, b=PLATE, c=BACKGROUND).has_right_regions
    assert outcome(README, a=APPLE, b=PLATE, c=rectangle(0, 0, 64, 20), d=rectangle(0, 52, 64, 64)).has_right_regions
    assert not outcome(README, a=APPLE, b=BACKGROUND).has_right_regions


@pytest.mark.parametrize(
    ("relation", "first", "second", "is_so"),
    [
        ("in", APPLE, PLATE, True),
        ("in", PLATE, rectangle(0, 0, 8, 8), False),
        ("on", rectangle(24, 4, 40, 20), rectangle(10, 20, 54, 60), True),
        ("on", rectangle(24, 50, 40, 64), rectangle(10, 10, 54, 40), False),
        ("left of", rectangle(0, 20, 20, 40), rectangle(40, 24, 60, 44), True),
        ("right of", rectangle(0, 0, 20, 20), rectangle(4, 40, 24, 60), False),
    ],
)
def test_relations_are_derived_from_masks(relation, first, second, is_so):
    assert stand_in(relation, first, second) == is_so


def test_regions_of_a_generated_image_are_assigned_by_colour():
    image = np.full((SIDE, SIDE, 3), COLOURS["blue"], np.uint8)
    image[APPLE], image[PLATE] = COLOURS["red"], COLOURS["white"]
    speck = rectangle(60, 0, 62, 2)
    owners = assign_pixels(image, np.array([PLATE, BACKGROUND & ~speck, speck, APPLE]), README)
    assert (owners[APPLE] == 1).all()
    assert (owners[PLATE] == 2).all()
    assert (owners[BACKGROUND & ~speck] == 0).all()
    assert (owners[speck] == UNASSIGNED).all()

    missing = assign_pixels(image, np.array([BACKGROUND]), README)
    assert set(np.unique(missing)) == {0, UNASSIGNED}


def test_confidence_equal_to_accuracy_is_calibrated():
    confidences = np.full(100, 0.8, np.float32)
    assert calibration_error(confidences, [True] * 80 + [False] * 20) == pytest.approx(0, abs=1e-6)
    assert calibration_error(confidences, [True] * 100) == pytest.approx(0.2, abs=1e-6)
    assert calibration_error(np.ones(10, np.float32), [False] * 10) == pytest.approx(1)


def test_training_and_evaluation_prompts_have_disjoint_seeds_and_combinations():
    evaluated = [*single_prompts(2), *unseen_prompts(), *pair_prompts(50), *readme_prompts(100)]
    trained = training_prompts(200, 1_000_000)
    assert len({prompt.seed for prompt in [*evaluated, *trained]}) == len(evaluated) + len(trained)
    assert not any(is_held_out(*thing) for prompt in trained for thing in prompt.things)
    assert {kind for prompt in single_prompts(2) for kind, _ in prompt.things} == set(KIND_NAMES)
    assert trained[10:20] == training_prompts(10, 1_000_010)
    assert {prompt.relation for prompt in trained} == {None, "in", "on", "left of", "right of"}
