"""The warnings of answers."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.answer_warnings import warnings_of
from pipeline.records import Description, GenerationRequest, LabelScore, Scheduler, WarningCode
from pipeline.settings import ServiceSettings

MINI, SD14 = (ServiceSettings(profile=name).load_profile() for name in ("mini", "sd14"))


def asked_for(prompt: str, negative_prompt: str = "") -> GenerationRequest:
    return GenerationRequest(
        prompt=prompt,
        negative_prompt=negative_prompt,
        width=64,
        height=64,
        steps=2,
        guidance=3.0,
        seed=1,
        scheduler=Scheduler.DDIM,
    )


def showing(unknown: float) -> Description:
    top = (LabelScore(label="apple", confidence=1 - unknown),)
    return Description(vector=np.ones(1, np.float32), top=top, unknown=unknown)


def test_an_image_of_a_background_alone_is_unknown_as_well():
    def showing_background(share: float) -> Description:
        top = (LabelScore(label="background", confidence=share), LabelScore(label="apple", confidence=0.8 - share))
        return Description(vector=np.ones(1, np.float32), top=top, unknown=0.2)

    assert [warning.code for warning in warnings_of(MINI, None, showing_background(0.4))] == [
        WarningCode.UNKNOWN_PICTURE
    ]
    assert warnings_of(MINI, None, showing_background(0.2)) == ()


@pytest.mark.parametrize(
    ("prompt", "negative_prompt", "words"),
    [
        ("a dog on a beach", "", ("dog", "beach")),
        ("a red apple", "a dog", ("dog",)),
        ("a dog", "no dog", ("dog", "no")),
        ("a red apple", "blue", None),
    ],
)
def test_unknown_words_of_both_prompts_are_one_warning(prompt, negative_prompt, words):
    warnings = warnings_of(MINI, asked_for(prompt, negative_prompt))
    assert [warning.words for warning in warnings] == ([words] if words else [])


def test_a_profile_of_open_language_warns_of_no_words():
    assert warnings_of(SD14, asked_for("a dog on a beach"), showing(0.0)) == ()


def test_a_sentence_stays_short_however_many_words_there_are():
    (warning,) = warnings_of(MINI, asked_for(" ".join(f"word{i}" for i in range(200))))
    assert len(warning.words) == 200
    assert "and 190 more" in warning.detail
    assert len(warning.detail) < 300


def test_a_sentence_names_the_words_and_the_singulars_that_are_known():
    (warning,) = warnings_of(MINI, asked_for("a dog, two apples and a beach"))
    assert warning.detail.startswith('The model does not know "dog", "apples" and "beach": ')
    assert warning.detail.endswith(' Try "apple" instead of "apples".')


@pytest.mark.parametrize(("unknown", "codes"), [(0.0, []), (0.5, []), (0.51, [WarningCode.UNKNOWN_PICTURE])])
def test_a_picture_is_unknown_above_the_bound(unknown, codes):
    assert [warning.code for warning in warnings_of(MINI, None, showing(unknown))] == codes


def test_nothing_is_said_of_what_nothing_is_known_of():
    assert warnings_of(MINI, None) == ()
