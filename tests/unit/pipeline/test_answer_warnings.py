"""Warnings in answers about unknown words and unknown content."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.answer_warnings import warnings_of
from pipeline.records import Description, GenerationRequest, LabelScore, Scheduler, WarningCode
from pipeline.settings import ServiceSettings

MINI, SD14 = (ServiceSettings(profile=name).load_profile() for name in ("mini", "sd14"))


def request_for(prompt: str, negative_prompt: str = "") -> GenerationRequest:
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


def description_with(unknown: float) -> Description:
    top = (LabelScore(label="apple", confidence=1 - unknown),)
    return Description(vector=np.ones(1, np.float32), top=top, unknown=unknown)


def test_an_image_of_only_a_background_is_unknown():
    def description_of_background(share: float) -> Description:
        top = (LabelScore(label="background", confidence=share), LabelScore(label="apple", confidence=0.8 - share))
        return Description(vector=np.ones(1, np.float32), top=top, unknown=0.2)

    assert [warning.code for warning in warnings_of(MINI, None, description_of_background(0.4))] == [
        WarningCode.UNKNOWN_PICTURE
    ]
    assert warnings_of(MINI, None, description_of_background(0.2)) == ()


@pytest.mark.parametrize(
    ("prompt", "negative_prompt", "words"),
    [
        ("a dog on a beach", "", ("dog", "beach")),
        ("a red apple", "a dog", ("dog",)),
        ("a dog", "no dog", ("dog", "no")),
        ("a red apple", "blue", None),
    ],
)
def test_unknown_words_of_both_prompts_give_one_warning(prompt, negative_prompt, words):
    warnings = warnings_of(MINI, request_for(prompt, negative_prompt))
    assert [warning.words for warning in warnings] == ([words] if words else [])


def test_a_profile_without_a_vocabulary_never_warns_of_words():
    assert warnings_of(SD14, request_for("a dog on a beach"), description_with(0.0)) == ()


def test_the_list_of_words_in_a_warning_is_truncated():
    (warning,) = warnings_of(MINI, request_for(" ".join(f"word{i}" for i in range(200))))
    assert len(warning.words) == 200
    assert "and 190 more" in warning.detail
    assert len(warning.detail) < 300


def test_a_warning_names_the_words_and_suggests_known_singulars():
    (warning,) = warnings_of(MINI, request_for("a dog, two apples and a beach"))
    assert warning.detail.startswith('The model does not know "dog", "apples" and "beach": ')
    assert warning.detail.endswith(' Try "apple" instead of "apples".')


@pytest.mark.parametrize(("unknown", "codes"), [(0.0, []), (0.5, []), (0.51, [WarningCode.UNKNOWN_PICTURE])])
def test_an_image_is_unknown_above_the_threshold(unknown, codes):
    assert [warning.code for warning in warnings_of(MINI, None, description_with(unknown))] == codes


def test_without_request_and_description_there_are_no_warnings():
    assert warnings_of(MINI, None) == ()
