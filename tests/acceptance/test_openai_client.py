"""OpenAI's own Python client, unmodified, against the service."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator

import numpy as np
import openai
import pytest
from PIL import Image

from testing.service_process import RunningService

PROMPT = "a red apple on a white background"
STEPS = {"seed": 5, "steps": 8}


@pytest.fixture(scope="module")
def client(service: RunningService) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def opened(encoded: str | None) -> Image.Image:
    assert encoded
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def as_png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_two_images_at_once(client: openai.OpenAI):
    answer = client.images.generate(prompt=PROMPT, n=2, size="128x128", extra_body=STEPS)

    first, second = (opened(image.b64_json) for image in answer.data or ())
    assert first.size == second.size == (128, 128)
    assert not np.array_equal(np.array(first), np.array(second))
    assert "Seed: 5" in first.info["parameters"]
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.usage.output_tokens == 2 * 64


def test_a_stream_has_different_previews_and_the_final_image(client: openai.OpenAI):
    stream = client.images.generate(
        prompt=PROMPT, stream=True, partial_images=3, extra_body=STEPS | {"deterministic": True}
    )
    *partial, completed = stream
    again = client.images.generate(prompt=PROMPT, extra_body=STEPS | {"deterministic": True})

    assert [event.type for event in partial] == ["image_generation.partial_image"] * 3
    assert [event.partial_image_index for event in partial] == [0, 1, 2]
    pictures = [np.array(opened(event.b64_json)).astype(int) for event in (*partial, completed)]
    distances = [np.abs(picture - pictures[-1]).mean() for picture in pictures[:-1]]
    assert distances == sorted(distances, reverse=True)  # previews converge to the image
    assert distances[0] > distances[-1] > 0
    assert completed.type == "image_generation.completed"
    assert completed.usage.output_tokens == 256
    assert again.data
    assert np.array_equal(pictures[-1], np.array(opened(again.data[0].b64_json)))


def test_an_edit_changes_only_the_masked_area(client: openai.OpenAI):
    made = client.images.generate(prompt=PROMPT, extra_body=STEPS)
    assert made.data
    before = np.array(opened(made.data[0].b64_json))
    mask = np.full((256, 256, 4), 255, np.uint8)
    mask[60:200, 60:200, 3] = 0
    edited = client.images.edit(
        image=("apple.png", as_png(before), "image/png"),
        mask=("mask.png", as_png(mask), "image/png"),
        prompt="a green apple",
        extra_body=STEPS,
    )

    assert edited.data
    after = np.array(opened(edited.data[0].b64_json))
    is_open = mask[..., 3] == 0
    assert np.array_equal(after[~is_open], before[~is_open])
    assert (after[is_open] != before[is_open]).any(axis=1).mean() > 0.5


def test_an_edit_can_be_streamed(client: openai.OpenAI):
    picture = np.full((128, 128, 3), 200, np.uint8)
    stream = client.images.edit(
        image=("grey.png", as_png(picture), "image/png"), prompt=PROMPT, stream=True, partial_images=1, extra_body=STEPS
    )
    assert [event.type for event in stream] == ["image_edit.partial_image", "image_edit.completed"]


def test_the_asynchronous_client(service: RunningService):
    async def use() -> tuple[list[str], int, str]:
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
            both, models = await asyncio.gather(
                client.images.generate(prompt=PROMPT, n=2, size="64x64", extra_body=STEPS), client.models.list()
            )
            stream = await client.images.generate(
                prompt=PROMPT, size="64x64", stream=True, partial_images=2, extra_body=STEPS
            )
            types = [event.type async for event in stream]
            with pytest.raises(openai.BadRequestError):
                await client.images.generate(prompt="", extra_body=STEPS)
            return types, len(both.data or ()), models.data[0].id

    types, number, model = asyncio.run(use())
    assert types == [*["image_generation.partial_image"] * 2, "image_generation.completed"]
    assert (number, model) == (2, "mini")


@pytest.mark.parametrize(
    ("wanted", "error", "param"),
    [
        ({"size": "100x100"}, openai.BadRequestError, "size"),
        ({"model": "dall-e-9"}, openai.NotFoundError, "model"),
    ],
)
def test_refused_requests_raise_the_client_s_errors(client: openai.OpenAI, wanted: dict, error, param: str):
    with pytest.raises(error) as raised:
        client.images.generate(**({"prompt": PROMPT} | wanted))
    assert raised.value.param == param
    assert raised.value.type == "invalid_request_error"
    assert raised.value.message


def test_embeddings_of_texts(client: openai.OpenAI):
    answer = client.embeddings.create(model="mini-clip", input=["a red apple", "a red apple", "a blue castle"])
    one, same, other = (np.array(item.embedding) for item in answer.data)
    assert one @ one == pytest.approx(1, abs=1e-5)
    assert np.array_equal(one, same)
    assert one @ other < 0.9
