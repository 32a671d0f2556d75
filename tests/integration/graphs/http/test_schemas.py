"""The validation of requests, and the format of shares."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from graphs.generation.requests import nearest_size
from graphs.http.schemas.common import ProbeBody, percent
from graphs.http.schemas.generation import MAX_PROMPT_CHARS, GenerateBody
from pipeline.errors import InvalidRequest
from pipeline.records import GenerationRequest, Scheduler
from pipeline.settings import GenerationLimits, ServiceSettings

DIFFUSION = ServiceSettings(profile="mini").load_profile().diffusion


def resolved(**sent) -> GenerationRequest:
    return GenerateBody(prompt="pear", **sent).resolve(DIFFUSION)


def test_omitted_fields_have_the_defaults_of_the_profile():
    request = resolved(seed=7)
    assert request == GenerationRequest(
        prompt="pear",
        negative_prompt="",
        width=256,
        height=256,
        steps=15,
        guidance=3.0,
        seed=7,
        scheduler=Scheduler.DDIM,
    )


def test_sent_values_are_used_even_if_they_are_zero():
    request = resolved(guidance=0, seed=0, steps=1, width=96, height=256, scheduler="lcm")
    assert (request.guidance, request.seed, request.steps) == (0, 0, 1)
    assert (request.width, request.height, request.scheduler) == (96, 256, Scheduler.LCM)


def test_requests_without_a_seed_have_random_seeds():
    assert len({resolved().seed for _ in range(20)}) > 1


@pytest.mark.parametrize("sent", [{"width": 64, "height": 384}, {"steps": 100}, {"guidance": 30}, {"seed": 2**32 - 1}])
def test_the_limits_themselves_are_valid(sent):
    assert resolved(**sent)


@pytest.mark.parametrize(
    ("sent", "advice"),
    [
        ({"width": 32}, "width is 32: send a multiple of 32 from 64 to 384"),
        ({"height": 416}, "height is 416: send a multiple of 32 from 64 to 384"),
        ({"width": 65}, "width is 65: send a multiple of 32 from 64 to 384"),
        ({"steps": 101}, "steps is 101: send 1 to 100"),
        ({"guidance": 30.5}, "guidance is 30.5: send 0 to 30"),
    ],
)
def test_values_outside_the_limits_are_rejected_with_the_valid_range(sent, advice):
    with pytest.raises(InvalidRequest, match=advice):
        resolved(**sent)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", -1),
        ("seed", 2**32),
        ("steps", 0),
        ("guidance", -0.1),
        ("guidance", float("nan")),
        ("guidance", float("inf")),
        ("width", 0),
        ("height", 1.5),
        ("scheduler", "heun"),
        ("negative_prompt", "x" * (MAX_PROMPT_CHARS + 1)),
        ("negative_prompt", "bell \a"),
    ],
)
def test_invalid_values_are_rejected_with_their_field(field, value):
    with pytest.raises(ValidationError) as rejected:
        GenerateBody.model_validate({"prompt": "pear", field: value})
    assert [error["loc"] for error in rejected.value.errors()] == [(field,)]


@pytest.mark.parametrize("prompt", ["", " \n\t", "x" * (MAX_PROMPT_CHARS + 1), "nul\0", "esc\x1b[31m", "\ud800", None])
@pytest.mark.parametrize("body", [GenerateBody, ProbeBody])
def test_an_empty_or_unprintable_prompt_is_rejected(body, prompt):
    with pytest.raises(ValidationError):
        body.model_validate({"prompt": prompt})


@pytest.mark.parametrize("prompt", ["pear", "röd \N{RED APPLE}", "two\nlines", "x" * MAX_PROMPT_CHARS, "{braces} %s"])
def test_a_prompt_of_any_language_is_unchanged(prompt):
    assert GenerateBody(prompt=prompt).prompt == prompt
    assert ProbeBody(prompt=prompt).prompt == prompt


def test_space_around_a_prompt_is_stripped():
    assert GenerateBody(prompt="  pear\n").prompt == "pear"


@pytest.mark.parametrize(
    ("share", "written"), [(0, "0.00%"), (1, "100.00%"), (0.60641, "60.64%"), (0.15649, "15.65%"), (1e-9, "0.00%")]
)
def test_a_share_is_formatted_as_in_the_legacy_api(share, written):
    assert percent(share) == written


LIMITS = GenerationLimits(min_side=64, max_side=256, side_multiple=32)


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((128, 96), (128, 96)),
        ((100, 75), (96, 64)),
        ((1000, 1000), (256, 256)),
        ((4000, 1000), (256, 64)),
        ((10, 10), (64, 64)),
        ((10, 400), (64, 256)),
        ((257, 255), (256, 256)),
    ],
)
def test_the_nearest_allowed_size(size, nearest):
    assert nearest_size(*size, LIMITS) == nearest


@given(width=st.integers(16, 4096), height=st.integers(16, 4096))
def test_the_nearest_size_is_always_allowed(width, height):
    for side in nearest_size(width, height, LIMITS):
        assert 64 <= side <= 256
        assert side % 32 == 0
