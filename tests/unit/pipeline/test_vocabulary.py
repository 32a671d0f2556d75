"""Detection of words that a model doesn't know."""

from __future__ import annotations

from random import Random

import pytest

from pipeline.settings import ServiceSettings
from pipeline.vocabulary import known_singular, split_words, unknown_words
from training.diffusion.vocabulary import draw_caption, list_words
from training.scenes.objects.kinds import COLOURS, KINDS
from training.scenes.render import draw_scene

KNOWN = ("a", "apple", "Bus", "in", "on", "photo", "of", "pear", "plate", "white")
MINI = ServiceSettings(profile="mini").load_profile().diffusion.vocabulary or ()


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("a photo of a dog on a beach", ("dog", "beach")),
        ("A PHOTO of an Apple, in a white-plate.", ("an",)),
        ("Dog, dog; DOG and beach: dog", ("dog", "and", "beach")),
        ("2 apples on a bus", ("2", "apples")),
        ("the dog's pear", ("the", "dog's")),
        ("the dog’s pear", ("the", "dog's")),
        ("'apple' «pear» (plate:1.3)", ("1", "3")),
        ("cafe\u0301 белый 苹果", ("café", "белый", "苹果")),
        ("🍎🍐 in a plate", ("🍎", "🍐")),
        ("", ()),
        ("… — !?", ()),
    ],
)
def test_words_that_are_not_in_the_vocabulary_are_listed_in_order_and_once(text, unknown):
    assert unknown_words(text, KNOWN) == unknown


def test_a_model_without_a_vocabulary_knows_every_word():
    assert unknown_words("a photo of a dog on a beach", None) == ()


@pytest.mark.parametrize(
    ("word", "singular"),
    [("apples", "apple"), ("buses", "bus"), ("cherries", "cherry"), ("dogs", None), ("apple", None)],
)
def test_a_known_singular_is_suggested_for_a_plural(word, singular):
    assert known_singular(word, ("apple", "bus", "cherry")) == singular


def test_the_mini_profile_has_the_words_of_training():
    assert list_words() == MINI, "run `python -m training.diffusion.vocabulary` and put its list into configs/mini.yaml"


def test_captions_contain_only_known_words():
    rng = Random("other captions")
    captions = [draw_caption(rng) for _ in range(2_000)]
    captions += [draw_scene(seed, 32, split="test").caption for seed in range(200)]
    assert {word for caption in captions for word in unknown_words(caption, MINI)} == set()


def test_every_kind_and_colour_is_in_the_vocabulary():
    texts = [f"a photo of a {colour} {kind.word}" for kind in KINDS.values() for colour in COLOURS]
    assert {word for text in texts for word in split_words(text)} <= set(MINI)
