"""OpenAI's API over HTTP with fakes: requests are served or rejected, and every error has OpenAI's shape."""

from __future__ import annotations

import base64
import io
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from httpx_sse import ServerSentEvent, aconnect_sse
from PIL import Image

from graphs.http.app import build_http_app
from pipeline.imaging.codecs import encode_png
from pipeline.records import Scheduler
from pipeline.settings import AdmissionSettings, ModelSource, Sam3Settings, ZeroShotSettings
from testing.harness import Bench, make_bench, working
from tests.integration.clients import client_of

pytestmark = pytest.mark.anyio

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
SIDE = 64
SMALL = {"prompt": "pear", "size": "64x64", "steps": 6}


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(bench) as client:
        yield client


def decoded_image(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def is_rejected(response: httpx.Response, status: int, param: str | None, kind: str = "invalid_request_error") -> bool:
    error = response.json()["error"]
    return (
        response.status_code == status
        and response.headers["Content-Type"] == "application/json"
        and (error["type"], error["param"]) == (kind, param)
        and bool(error["message"] and error["code"])
    )


def a_png(transparent: bool = False) -> bytes:
    pixels = np.full((SIDE, SIDE, 4), 120, np.uint8)
    pixels[..., 3] = 255
    if transparent:
        pixels[8:40, 8:40, 3] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


async def streamed(client: httpx.AsyncClient, **body: object) -> list[ServerSentEvent]:
    async with aconnect_sse(client, "POST", GENERATIONS, json=SMALL | {"stream": True} | body) as source:
        return [event async for event in source.aiter_sse() if event.data]


async def test_several_images_with_their_usage(bench: Bench, client: httpx.AsyncClient):
    response = (await client.post(GENERATIONS, json=SMALL | {"n": 2, "seed": 7, "model": "mini"})).json()

    assert [decoded_image(image["b64_json"]).size for image in response["data"]] == [(SIDE, SIDE)] * 2
    assert [image["seed"] for image in response["data"]] == [7, 8]
    assert (response["size"], response["quality"], response["output_format"]) == ("64x64", "medium", "png")
    assert response["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"text_tokens": 3, "image_tokens": 0},
        "output_tokens": 32,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": 32},
        "total_tokens": 35,
    }
    assert bench.workers.calls["describe"] == 0  # no analysis was requested


@pytest.mark.parametrize("kind", ["jpeg", "webp", "png"])
async def test_output_formats_as_base64_and_url(client: httpx.AsyncClient, kind: str):
    requested = SMALL | {"output_format": kind, "seed": 3}
    by_value = (await client.post(GENERATIONS, json=requested)).json()["data"][0]
    by_url = (await client.post(GENERATIONS, json=requested | {"response_format": "url"})).json()["data"][0]

    assert decoded_image(by_value["b64_json"]).format == kind.upper()
    fetched = await client.get(by_url["url"])
    assert fetched.headers["Content-Type"] == f"image/{kind}"
    assert fetched.content == base64.b64decode(by_value["b64_json"])
    assert by_url["b64_json"] is None


async def test_image_urls_start_with_the_public_url(bench: Bench):
    settings = bench.settings.model_copy(update={"public_url": "https://images.example/"})
    transport = httpx.ASGITransport(build_http_app(replace(bench.services, settings=settings)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.post(GENERATIONS, json=SMALL | {"response_format": "url"})
    assert response.json()["data"][0]["url"].startswith("https://images.example/v1/images/")


@pytest.mark.parametrize("requested", [0, 1, 2, 3])
async def test_a_stream_has_distinct_previews_and_ends_with_the_image(client: httpx.AsyncClient, requested: int):
    events = await streamed(client, partial_images=requested, output_format="webp")

    *previews, last = [event.json() for event in events]
    assert [event.event for event in events] == [p["type"] for p in (*previews, last)]
    assert [p["type"] for p in previews] == ["image_generation.partial_image"] * requested
    assert [p["partial_image_index"] for p in previews] == list(range(requested))
    assert len({p["b64_json"] for p in previews}) == requested
    assert all(decoded_image(p["b64_json"]).size == (SIDE, SIDE) for p in (*previews, last))
    assert last["type"] == "image_generation.completed"
    assert decoded_image(last["b64_json"]).format == "WEBP"
    assert last["usage"]["total_tokens"] == 19


async def test_quality_sets_the_number_of_steps(bench: Bench, client: httpx.AsyncClient):
    default_steps = bench.services.profile.diffusion.defaults.steps
    steps = []
    for quality in ("low", "medium", "high", "auto"):
        bench.workers.steps = 0
        await client.post(GENERATIONS, json={"prompt": "pear", "size": "64x64", "quality": quality})
        steps.append(bench.workers.steps)
    assert steps == [round(default_steps / 2), default_steps, 2 * default_steps, default_steps]


async def test_only_transparent_pixels_of_the_mask_change(client: httpx.AsyncClient):
    files = {"image": ("a.png", a_png(), "image/png"), "mask": ("m.png", a_png(True), "image/png")}
    response = await client.post(EDITS, files=files, data={"prompt": "pear", "seed": "4", "n": "2"})
    own = {"image[]": ("a.png", a_png(True), "image/png")}
    by_itself = await client.post(EDITS, files=own, data={"prompt": "pear", "seed": "4"})

    edited = np.array(decoded_image(response.json()["data"][0]["b64_json"]))
    outside = np.ones((SIDE, SIDE), np.bool_)
    outside[8:40, 8:40] = False
    assert (edited[outside] == 120).all()
    assert (edited[~outside] != 120).any()
    assert len(response.json()["data"]) == 2
    assert response.json()["usage"]["input_tokens_details"]["image_tokens"] == 16
    by_itself = np.array(decoded_image(by_itself.json()["data"][0]["b64_json"]))
    assert (by_itself[outside] == 120).all()
    assert (by_itself[~outside] != 120).any()


async def test_the_edited_image_is_stored_and_the_edit_is_the_last_image(client: httpx.AsyncClient):
    files = {"image": ("a.png", a_png(), "image/png")}
    response = await client.post(EDITS, files=files, data={"prompt": "pear"})

    edit_id = response.json()["data"][0]["image_id"]
    newest, source = (await client.get("/v1/images")).json()["images"]
    assert newest["image_id"] == edit_id
    assert newest["request"]["source"] == {"image_id": source["image_id"], "strength": 0.8, "mask": None}
    assert (await client.post("/segment")).json()["image_id"] == edit_id


async def test_an_edit_is_idempotent(bench: Bench, client: httpx.AsyncClient):
    async def send(prompt: str) -> httpx.Response:
        files = {"image": ("a.png", a_png(), "image/png")}  # each form has its own boundary
        return await client.post(EDITS, files=files, data={"prompt": prompt}, headers={"Idempotency-Key": "e1"})

    first, again, other = await send("pear"), await send("pear"), await send("apple")

    assert again.json()["data"] == first.json()["data"]
    assert is_rejected(other, 400, None)
    assert len((await client.get("/v1/images")).json()["images"]) == 2  # the source image and the edit


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"size": "100x100"}, "size"),
        ({"size": "big"}, "size"),
        ({"size": "4096x4096"}, "size"),
        ({"n": 11}, "n"),
        ({"quality": "hd"}, "quality"),
        ({"style": "vivid"}, "style"),
        ({"background": "transparent"}, "background"),
        ({"moderation": "low"}, "moderation"),
        ({"output_format": "svg"}, "output_format"),
        ({"output_compression": 101}, "output_compression"),
        ({"output_compression": 50}, "body"),
        ({"partial_images": 1}, "body"),
        ({"stream": True, "n": 2}, "body"),
        ({"stream": True, "response_format": "url"}, "body"),
        ({"stream": True, "partial_images": 4}, "partial_images"),
        ({"steps": 5, "quality": "low"}, "body"),
        ({"steps": 1000}, None),
    ],
)
async def test_unsupported_parameters_are_rejected(client: httpx.AsyncClient, body: dict, param: str | None):
    assert is_rejected(await client.post(GENERATIONS, json={"prompt": "pear"} | body), 400, param)


@pytest.mark.parametrize(
    ("files", "data", "param"),
    [
        ({}, {"prompt": "pear"}, "image"),
        ({"image": b"no picture"}, {"prompt": "pear"}, None),
        ({"image": a_png()}, {}, "prompt"),
        ({"image": a_png(), "mask": a_png()}, {"prompt": "pear"}, "mask"),
        ({"image": a_png(), "markup": a_png()}, {"prompt": "pear"}, None),
        ({"image": a_png()}, {"prompt": "pear", "input_fidelity": "high"}, "input_fidelity"),
        ({"image": a_png()}, {"prompt": "pear", "n": "many"}, "n"),
    ],
)
async def test_invalid_forms_are_rejected(client: httpx.AsyncClient, files: dict, data: dict, param):
    sent = {name: (f"{name}.png", content, "image/png") for name, content in files.items()} or {"x": ("x", b"")}
    response = await client.post(EDITS, files=sent, data=data)
    assert is_rejected(response, 400, param if files else None)


async def test_a_rejected_edit_stores_nothing(client: httpx.AsyncClient, tmp_path: Path):
    files = {"image": ("a.png", a_png(), "image/png")}
    small = {"mask": ("m.png", encode_png(np.zeros((32, 32, 3), np.uint8)), "image/png")}
    for sent, data in ((files, {"steps": "99999"}), (files, {"strength": "0.001"}), (files | small, {})):
        assert (await client.post(EDITS, files=sent, data={"prompt": "pear"} | data)).status_code == 400
    assert (await client.get("/v1/images")).json()["images"] == []

    full = make_bench(tmp_path / "full", AdmissionSettings(max_generations=0))
    async with working(full), client_of(full) as client:
        assert (await client.post(EDITS, files=files, data={"prompt": "pear"})).status_code == 429
        assert (await client.get("/v1/images")).json()["images"] == []


async def test_several_source_images_are_rejected(client: httpx.AsyncClient):
    files = [("image[]", ("a.png", a_png(), "image/png"))] * 2
    assert is_rejected(await client.post(EDITS, files=files, data={"prompt": "pear"}), 400, "image")


async def test_every_error_has_openai_s_shape(bench: Bench, client: httpx.AsyncClient):
    assert is_rejected(await client.post(GENERATIONS, json={"prompt": "x", "model": "dall-e-9"}), 404, "model")
    broken = await client.post(GENERATIONS, content=b"{", headers={"Content-Type": "application/json"})
    assert is_rejected(broken, 400, None)
    assert is_rejected(await client.get("/v1/models/gpt-9"), 404, "model")
    assert is_rejected(await client.put(EDITS), 405, None)
    bench.workers.deaths["count_tokens"] = 2
    assert is_rejected(await client.post(GENERATIONS, json=SMALL), 503, None, "server_error")
    assert (await client.get("/v1/images")).json()["images"] == []  # the failed request stored nothing


async def test_a_stream_that_fails_ends_with_an_error(bench: Bench, client: httpx.AsyncClient):
    bench.workers.deaths["encode"] = 99
    last = (await streamed(client, partial_images=1))[-1]
    assert last.event == "error"
    assert last.json()["error"]["type"] == "server_error"


async def test_models_have_names_and_aliases(bench: Bench):
    settings = bench.settings.model_copy(update={"model_aliases": ("gpt-image-2",)})
    transport = httpx.ASGITransport(build_http_app(replace(bench.services, settings=settings)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        listed = (await client.get("/v1/models")).json()
        one = (await client.get("/v1/models/mini-clip")).json()
        response = await client.post(GENERATIONS, json=SMALL | {"model": "gpt-image-2"})

    assert [model["id"] for model in listed["data"]] == ["mini", "gpt-image-2", "mini-clip"]
    assert (one["object"], one["id"]) == ("model", "mini-clip")
    assert response.status_code == 200


async def test_a_model_describes_what_it_can_do(bench: Bench, client: httpx.AsyncClient):
    listed = {model["id"]: model for model in (await client.get("/v1/models")).json()["data"]}
    model = (await client.get("/v1/models/mini")).json()
    assert list(model)[:4] == ["id", "object", "created", "owned_by"]
    assert {name: model[name] for name in listed["mini"]} == listed["mini"]
    profile, admission = bench.services.profile, bench.settings.admission
    assert model["capabilities"] == [
        "generation",
        "variations",
        "edits",
        "segmentation",
        "text_search",
        "classification",
    ]
    assert model["defaults"] == profile.diffusion.defaults.model_dump()
    assert profile.diffusion.limits.model_dump().items() <= model["limits"].items()
    assert model["schedulers"] == [each.value for each in Scheduler]
    assert model["labels"] == list(profile.clip.labelling.names)
    assert model["num_labels"] == len(model["labels"])
    assert model["fingerprint"] == bench.workers.model
    assert model["limits"]["max_prompt_tokens"] == 77
    assert model["limits"]["max_upload_bytes"] == admission.max_upload_bytes
    assert None not in model["limits"].values()

    vectors = (await client.get("/v1/models/mini-clip")).json()
    assert vectors["capabilities"] == ["embeddings", "classification"]
    assert (vectors["defaults"], vectors["schedulers"], vectors["limits"]["max_steps"]) == (None, [], None)
    assert vectors["labels"] == model["labels"]


async def test_the_limits_of_a_model_are_those_that_are_enforced(client: httpx.AsyncClient):
    limits = (await client.get("/v1/models/mini")).json()["limits"]

    async def is_accepted(body: dict) -> bool:
        response = await client.post(
            "/v1/images", json={"prompt": "pear", "steps": 2, "width": 64, "height": 64} | body
        )
        return response.status_code == 201

    assert limits["max_body_bytes"] == 10_000
    assert await is_accepted({"width": limits["min_side"], "height": limits["min_side"]})
    assert not await is_accepted({"width": limits["max_side"] + limits["side_multiple"]})
    assert not await is_accepted({"steps": limits["max_steps"] + 1})
    assert not await is_accepted({"guidance": limits["max_guidance"] + 1})
    assert not await is_accepted({"n": limits["max_images"] + 1})
    assert await is_accepted({"prompt": "x" * limits["max_prompt_chars"]})
    assert not await is_accepted({"prompt": "x" * (limits["max_prompt_chars"] + 1)})
    page = await client.get("/v1/images", params={"limit": limits["max_page"] + 1})
    assert page.status_code == 422


async def test_a_model_that_is_not_ready_has_no_fingerprint(bench: Bench, client: httpx.AsyncClient):
    bench.workers.reason = "still loading"
    model = (await client.get("/v1/models/mini")).json()
    assert (model["fingerprint"], model["limits"]["max_prompt_tokens"]) == (None, None)


async def test_a_profile_s_models_add_capabilities_and_many_labels_are_only_counted(bench: Bench):
    profile = bench.services.profile
    labels = tuple(f"label {number}" for number in range(1001))
    profile = profile.model_copy(
        update={
            "sam3": Sam3Settings(model=ModelSource(source="/weights/sam3.pt")),
            "diffusion": profile.diffusion.model_copy(update={"safety_checker": True}),
            "clip": profile.clip.model_copy(update={"labelling": ZeroShotSettings(labels=labels)}),
        }
    )
    transport = httpx.ASGITransport(build_http_app(replace(bench.services, profile=profile)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        model = (await client.get("/v1/models/mini")).json()
    assert {"safety_checker", "text_segmentation"} < set(model["capabilities"])
    assert (model["labels"], model["num_labels"]) == (None, 1001)


async def test_embeddings_of_texts_and_images(bench: Bench, client: httpx.AsyncClient):
    image = (await bench.image()).image_id
    body = {"input": ["metal", {"image_id": image}, "red apple"], "model": "mini-clip"}
    numbers = (await client.post("/v1/embeddings", json=body)).json()
    encoded = (await client.post("/v1/embeddings", json=body | {"encoding_format": "base64"})).json()
    single = (await client.post("/v1/embeddings", json={"input": "metal"})).json()

    vectors = [item["embedding"] for item in numbers["data"]]
    assert [vector[0] for vector in vectors] == [0.125, 1.0, 0.125]
    assert [item["index"] for item in numbers["data"]] == [0, 1, 2]
    assert numbers["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    decoded = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4").tolist() for item in encoded["data"]]
    assert decoded == vectors
    assert single["data"][0]["embedding"] == vectors[0]


@pytest.mark.parametrize(
    "body",
    [{"input": []}, {"input": ""}, {"input": [1, 2]}, {"input": "x", "dimensions": 3}, {"input": ["x"] * 257}],
)
async def test_invalid_embedding_inputs_are_rejected(client: httpx.AsyncClient, body: dict):
    assert (await client.post("/v1/embeddings", json=body)).status_code == 400


async def test_embeddings_of_unknown_images_and_models_are_rejected(client: httpx.AsyncClient):
    missing = {"image_id": str(uuid.uuid4())}
    assert is_rejected(await client.post("/v1/embeddings", json={"input": missing}), 404, None)
    assert (await client.post("/v1/embeddings", json={"input": {"image_id": ""}})).status_code == 400
    assert is_rejected(await client.post("/v1/embeddings", json={"input": "x", "model": "ada"}), 404, "model")
