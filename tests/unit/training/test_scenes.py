"""Scenes drawn by code: masks are exact, captions true, splits disjoint."""

from __future__ import annotations

import subprocess
import sys
import zlib
from functools import cache
from random import Random

import numpy as np
import pytest

from pipeline.cifar100 import CIFAR100
from training.scenes.backgrounds import stands_out
from training.scenes.captions import Facts, name_thing, write_caption
from training.scenes.casting import cast_scene
from training.scenes.layout import RELATIONS
from training.scenes.objects.kinds import COLOURS, KINDS, draw_thing
from training.scenes.render import Scene, compose, draw_scene
from training.scenes.splits import is_held_out

SIDE = 64
SEEDS = range(150)


@cache
def scenes() -> list[Scene]:
    return [draw_scene(seed, SIDE, split="test" if seed % 2 else "train", num_things=1 + seed % 3) for seed in SEEDS]


def test_same_arguments_give_the_same_bytes_in_any_process():
    script = """
import zlib
from training.scenes.render import draw_scene
scene = draw_scene(7, 96)
print(zlib.crc32(scene.pixels), scene.caption)
"""
    runs = {
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": h}
        ).stdout
        for h in ("1", "2")
    }
    scene = draw_scene(7, 96)
    assert runs == {f"{zlib.crc32(scene.pixels)} {scene.caption}\n"}


def test_seeds_and_splits_differ():
    assert len({s.pixels.tobytes() for s in scenes()}) == len(SEEDS)
    assert draw_scene(3, SIDE, split="train").pixels.tobytes() != draw_scene(3, SIDE, split="test").pixels.tobytes()


def test_pixels_and_masks_are_read_only():
    scene = draw_scene(1, SIDE)
    with pytest.raises(ValueError, match="read-only"):
        scene.pixels[0, 0] = 0
    with pytest.raises(ValueError, match="read-only"):
        scene.things[0].mask[0, 0] = True


def test_masks_are_disjoint_boxed_and_never_larger_than_the_whole_thing():
    for scene in scenes():
        assert scene.pixels.shape == (SIDE, SIDE, 3)
        assert sum(thing.mask.astype(int) for thing in scene.things).max() == 1
        for thing in scene.things:
            assert thing.mask.shape == (SIDE, SIDE)
            rows, columns = np.nonzero(thing.mask)
            assert thing.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert 0.3 * thing.full_area < thing.area <= thing.full_area


def test_things_in_front_are_not_occluded():
    for scene in scenes():
        if scene.relation != "in":
            assert scene.things[0].area == scene.things[0].full_area


@pytest.mark.parametrize("relation", RELATIONS)
def test_recolouring_changes_only_the_pixels_of_the_mask(relation):
    kinds = {"in": ("pear", "bowl"), "on": ("clock", "table"), "under": ("cup", "table")}.get(
        relation, ("bus", "house")
    )
    red = compose([(kinds[0], "red"), (kinds[1], "blue")], relation, seed=5, side=SIDE)
    green = compose([(kinds[0], "red"), (kinds[1], "yellow")], relation, seed=5, side=SIDE, background=red.background)
    for before, after in zip(red.things, green.things, strict=True):
        assert np.array_equal(before.mask, after.mask)
    changed = (red.pixels != green.pixels).any(-1)
    mask = red.things[1].mask
    assert not (changed & ~grow(grow(mask))).any()  # its own soft edge, and that of things in front of it
    assert changed[mask].mean() > 0.3  # except parts of a fixed colour


def grow(mask):
    grown = np.pad(mask, 1)
    return grown[1:-1, 1:-1] | grown[:-2, 1:-1] | grown[2:, 1:-1] | grown[1:-1, :-2] | grown[1:-1, 2:] | corners(grown)


def corners(padded):
    return padded[:-2, :-2] | padded[2:, 2:] | padded[:-2, 2:] | padded[2:, :-2]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_draws_in_every_colour_with_one_shape(kind):
    shapes = set()
    for colour in COLOURS:
        drawing = draw_thing(kind, colour, 24, Random(3))
        shapes.add(drawing.back[..., 3].tobytes())
        left, top, right, bottom = drawing.bounds
        size = drawing.back.shape[0]
        assert min(left, top) > 0, "drawn over the tile's border"
        assert max(right, bottom) < size, "drawn over the tile's border"
        assert colour in nearest_colours(drawing), f"{colour} can't be seen"
    assert len(shapes) == 1


def nearest_colours(drawing):
    """Return the names of the colours nearest to many of a drawing's pixels, shading allowed for."""
    tiles = [tile for tile in (drawing.back, drawing.front) if tile is not None]
    pixels = np.concatenate([tile[tile[..., 3] == 255][:, :3] for tile in tiles]).astype(float)
    shades = np.array([np.array(rgb) * shade for rgb in COLOURS.values() for shade in (1.0, 0.9, 0.8)])
    nearest = np.argmin(((pixels[:, None] - shades) ** 2).sum(-1), axis=1) // 3
    counts = np.bincount(nearest, minlength=len(COLOURS))
    return {name for name, count in zip(COLOURS, counts, strict=True) if count > 0.12 * len(pixels)}


def test_kinds_are_cifar_100_classes():
    assert len(KINDS) >= 32
    assert set(KINDS) <= set(CIFAR100)


def test_a_single_thing_is_drawn_large():
    for scene in scenes():
        if len(scene.things) == 1:
            left, top, right, bottom = scene.things[0].box
            assert 0.38 <= max(right - left, bottom - top) / SIDE <= 0.87


def test_things_contrast_with_the_background():
    for scene in scenes():
        for thing in scene.things:
            assert stands_out(thing.rgb, scene.background.upper)
            assert stands_out(thing.rgb, scene.background.lower)


def test_every_set_of_three_colours_finds_a_background():
    for a, first in enumerate(COLOURS):
        for second in list(COLOURS)[:a]:
            for third in list(COLOURS)[:3]:
                scene = compose([("can", first), ("cup", second), ("bus", third)], seed=a, side=32)
                assert all(stands_out(thing.rgb, scene.background.upper) for thing in scene.things), (
                    first,
                    second,
                    third,
                )


def test_captions_name_exactly_the_things_in_the_scene():
    for scene in scenes():
        caption = scene.caption.replace("background", "")
        for thing in scene.things:
            assert KINDS[thing.kind].word in caption
        for kind, known in KINDS.items():
            if f" {known.word} " in f" {caption} " and kind != "orange":
                assert any(known.word == KINDS[thing.kind].word for thing in scene.things), caption
        spoken = {colour for colour in COLOURS if f" {colour}" in f" {caption}"} - {"orange"}
        assert spoken <= {t.colour for t in scene.things} | {scene.background.colour}, caption


def test_relations_hold_in_the_image():
    for scene in scenes():
        if scene.relation is None:
            continue
        (left, top, right, bottom), (left_2, top_2, right_2, bottom_2) = scene.things[0].box, scene.things[1].box
        x, x_2 = (left + right) / 2, (left_2 + right_2) / 2
        if scene.relation in ("left of", "right of"):
            assert (x < x_2) == (scene.relation == "left of"), scene.caption
        elif scene.relation in ("in", "on"):
            assert left_2 - 3 <= x <= right_2 + 3, scene.caption
            assert top < bottom_2, scene.caption
            assert bottom <= bottom_2, scene.caption
        elif scene.relation == "under":
            assert top > top_2, scene.caption
            assert left_2 - 3 <= x <= right_2 + 3, scene.caption


def test_captions_vary_and_any_number_can_be_drawn():
    scene = compose([("apple", "red"), ("plate", "white")], "in", seed=1, side=SIDE)
    rng = Random(0)
    captions = {write_caption(rng, scene.facts, scene.relation, scene.background) for _ in range(200)}
    assert len(captions) > 40
    assert "a red apple in a white plate" in captions


def test_articles():
    names = {name_thing(Random(i), Facts("orange", "orange", None, None), article=True) for i in range(50)}
    assert names == {"an orange", "an orange orange"}


def test_a_tenth_of_the_combinations_is_held_out_of_every_kind():
    for kind in KINDS:
        assert sum(is_held_out(kind, colour) for colour in COLOURS) == 1
    for colour in COLOURS:
        assert 1 <= sum(is_held_out(kind, colour) for kind in KINDS) <= len(KINDS) / 6
    assert not is_held_out("apple", "red")


def test_training_never_shows_what_is_held_out():
    for seed in range(1500):
        pairs, _ = cast_scene(Random(seed), 1 + seed % 3, tuple(KINDS), "train", "any")
        assert not any(is_held_out(*pair) for pair in pairs)


def test_the_test_split_shows_the_requested_combinations():
    for seed in range(20):
        seen = draw_scene(seed, 32, split="test", combination="seen")
        unseen = draw_scene(seed, 32, split="test", combination="unseen")
        assert not any(is_held_out(t.kind, t.colour) for t in seen.things)
        assert all(is_held_out(t.kind, t.colour) for t in unseen.things)
    with pytest.raises(ValueError, match="unseen"):
        draw_scene(0, 32, split="train", combination="unseen")


def test_kinds_can_be_chosen():
    for seed in range(30):
        scene = draw_scene(seed, 32, kinds=("apple", "bowl", "table"))
        assert {t.kind for t in scene.things} <= {"apple", "bowl", "table"}
    with pytest.raises(ValueError, match="2 things of 1 kind"):
        draw_scene(0, 32, kinds=("apple",), num_things=2)


def test_impossible_choices_raise():
    with pytest.raises(ValueError, match="nothing can be put on a butterfly"):
        compose([("apple", "red"), ("butterfly", "blue")], "on", seed=0, side=32)
    with pytest.raises(ValueError, match="unicorn"):
        compose([("unicorn", "red")], seed=0, side=32)
