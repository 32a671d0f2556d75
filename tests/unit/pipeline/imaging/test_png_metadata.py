from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.imaging.codecs import encode_png
from pipeline.imaging.png_metadata import PARAMETERS, read_parameters, with_text, write_parameters
from pipeline.records import GenerationRequest, Scheduler, Source

PICTURE = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
REQUEST = GenerationRequest(
    prompt="red apple",
    negative_prompt="",
    width=128,
    height=96,
    steps=15,
    guidance=3.5,
    seed=2**32 - 1,
    scheduler=Scheduler.DPMPP_2M,
)
WORDS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp", "Co", "Cn", "Cf", "Zs")), min_size=1)


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    return image


@pytest.mark.parametrize("text", ["a red apple\nSteps: 15", "röd", "\N{RED APPLE} 苹果"])
def test_other_tools_read_the_text_and_the_same_pixels(text: str):
    image = opened(with_text(encode_png(PICTURE), PARAMETERS, text))
    assert image.info[PARAMETERS] == text
    assert np.array_equal(np.array(image), PICTURE)


def test_the_text_has_the_conventional_format():
    written = write_parameters(replace(REQUEST, negative_prompt="blurry"), "0123456789abcdef")
    assert written == (
        "red apple\n"
        "Negative prompt: blurry\n"
        "Steps: 15, Sampler: DPM++ 2M, CFG scale: 3.5, Seed: 4294967295, Size: 128x96, "
        "Model hash: 0123456789, Version: ai-pipeline 0.1.0"
    )


def test_the_strength_is_written():
    request = replace(REQUEST, source=Source(image_id="i", strength=0.75))
    written = write_parameters(request, "m")
    assert "Denoising strength: 0.75" in written
    assert read_parameters(written) is None  # the source image isn't known


@given(
    prompt=WORDS,
    negative=WORDS | st.just(""),
    scheduler=st.sampled_from(Scheduler),
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 100),
    guidance=st.sampled_from([0.0, 1.0, 3.25, 7.5, 30.0]),
)
def test_written_parameters_are_read(prompt, negative, scheduler, seed, steps, guidance):
    request = replace(
        REQUEST,
        prompt=prompt,
        negative_prompt=negative,
        scheduler=scheduler,
        seed=seed,
        steps=steps,
        guidance=guidance,
    )
    assert read_parameters(write_parameters(request, "model")) == request


def test_parameters_of_other_tools_are_read():
    request = read_parameters(
        "masterpiece, (red apple:1.2),\nsecond line\nNegative prompt: worst quality, blurry\n"
        'Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 512x768, Model hash: 6ce0161689, Lora: "a: 1, b: 2"'
    )
    assert request is not None
    assert request.prompt == "masterpiece, (red apple:1.2),\nsecond line"
    assert (request.negative_prompt, request.scheduler) == ("worst quality, blurry", Scheduler.EULER_A)
    assert (request.steps, request.seed, request.width, request.height) == (20, 42, 512, 768)


@pytest.mark.parametrize(
    "last", ["a" + " " * 5000 + "!", "a" * 5900, "a b " * 1400, ", " * 2900, 'a: "' + "\\\\" * 2900, "a: b, " * 900]
)
def test_hostile_text_is_read_in_linear_time(last: str):
    assert read_parameters(f"p\n{last}") is None  # with a backtracking pattern this takes minutes


GOOD = "p\nSteps: 2, Sampler: DDIM, CFG scale: 3, Seed: 7, Size: 64x64"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a prompt alone",
        GOOD.replace("DDIM", "Heun++"),
        GOOD.replace("Seed: 7", "Seed: -1"),
        GOOD.replace("Seed: 7", "Seed: 99999999999"),
        GOOD.replace("Steps: 2", "Steps: many"),
        GOOD.replace("Steps: 2", "Steps: 0"),
        GOOD.replace("CFG scale: 3", "CFG scale: nan"),
        GOOD.replace("64x64", "64"),
        GOOD.replace("64x64", "0x64"),
        GOOD.replace("p\n", "\x1b[31m\n"),
        "x" * 3000 + GOOD,
        "x\n" * 3000 + GOOD,
        GOOD.removeprefix("p"),
        GOOD.replace(", Size: 64x64", ""),
    ],
)
def test_incomplete_parameters_are_ignored(text: str):
    assert read_parameters(GOOD) is not None
    assert read_parameters(text) is None
