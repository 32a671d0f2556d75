"""The HTTP application over fakes: the contract, sessions, and every kind of invalid input."""

from __future__ import annotations

import asyncio
import base64
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from pipeline.events import RequestFinished
from pipeline.settings import AdmissionSettings
from testing.harness import Bench, make_bench
from testing.waiting import pass_time, until
from tests.integration.clients import client_of, is_problem

pytestmark = pytest.mark.anyio

PERCENT = re.compile(r"\d{1,3}\.\d\d%")


@pytest.fixture
async def client(bench: Bench) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(bench) as client:
        yield client


def png_size(encoded: str) -> tuple[int, int]:
    image = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR)
    return image.shape[:2]


async def test_the_five_calls_in_order(client: httpx.AsyncClient):
    generated = (await client.post("/generate", json={"prompt": "red apple in white plate"})).json()
    analysis = (await client.post("/analyze")).json()
    probe = (await client.post("/probe", json={"prompt": "metal"})).json()
    segments = (await client.post("/segment")).json()
    visualization = (await client.post("/visualize")).json()

    assert uuid.UUID(generated["request_id"])
    assert png_size(generated["generated_image"]) == (256, 256)
    assert len(generated["clip_analysis"]) == 5
    assert all(PERCENT.fullmatch(score["confidence"]) for score in analysis["clip_scores"])
    assert analysis["segmentation"]["masks"] == ["region_0", "region_1"]
    assert len(analysis["segmentation"]["polygons"]) == 2
    assert probe["probe_text"] == "metal"
    assert probe["global_match_score"] == "27.78%"
    assert probe["regional_matches"][0] == {"region_id": 0, "class_label": "apple", "similarity_to_prompt": "27.78%"}
    assert segments["segmented_regions"][0]["sam_confidence"] == "0.99"
    assert all(len(contour) >= 3 for region in segments["segmented_regions"] for contour in region["polygon"])
    assert visualization["status"] == "success"
    assert visualization["total_regions"] == 2
    assert png_size(visualization["master_overlay"]) == (256, 256)
    assert [s["top_class"] for s in visualization["individual_spotlights"]] == ["apple", "plate"]


async def test_the_root_returns_the_status_and_the_limits(client: httpx.AsyncClient):
    about = (await client.get("/")).json()
    assert (about["status"], about["device"]) == ("online", "cpu")
    assert about["limits"]["min_side"] <= about["defaults"]["width"] <= about["limits"]["max_side"]


async def test_generate_accepts_every_parameter_and_returns_it(client: httpx.AsyncClient):
    request = {
        "prompt": "pear",
        "negative_prompt": "blurry",
        "seed": 7,
        "steps": 4,
        "guidance": 2.5,
        "width": 96,
        "height": 64,
        "scheduler": "euler_a",
    }

    response = (await client.post("/generate", json=request)).json()

    assert {name: response[name] for name in request} == request
    assert png_size(response["generated_image"]) == (64, 96)


async def test_unknown_fields_are_ignored_as_in_the_legacy_api(client: httpx.AsyncClient):
    assert (await client.post("/generate", json={"prompt": "pear", "mood": "happy"})).status_code == 200


@pytest.mark.parametrize("source", ["header", "cookie"])
async def test_sessions_are_isolated(bench: Bench, source: str):
    ids = {}
    for name in ("a", "b"):
        async with client_of(bench) as client:
            if source == "header":
                client.headers["X-Session-ID"] = name
            ids[name] = (await client.post("/generate", json={"prompt": name})).json()["image_id"]
            ids[name, "found"] = (await client.post("/segment")).json()["image_id"]

    assert ids["a", "found"] == ids["a"] != ids["b"] == ids["b", "found"]


async def test_a_client_without_a_session_finds_its_image_with_and_without_the_cookie(bench: Bench):
    async with client_of(bench) as without_cookie, client_of(bench) as with_cookie:
        generated = await without_cookie.post("/generate", json={"prompt": "pear"})
        without_cookie.cookies.clear()
        with_cookie.cookies.update(generated.cookies)

        assert (await without_cookie.post("/segment")).json()["image_id"] == generated.json()["image_id"]
        assert (await with_cookie.post("/segment")).json()["image_id"] == generated.json()["image_id"]


@pytest.mark.parametrize("call", ["/analyze", "/segment", "/visualize", "/probe"])
async def test_every_call_accepts_an_image_id(bench: Bench, client: httpx.AsyncClient, call: str):
    image = await bench.image(sessions=("other",))

    by_body = await client.post(call, json={"prompt": "metal", "image_id": image.image_id})

    assert by_body.json()["image_id"] == image.image_id
    if call != "/probe":
        assert (await client.post(call, params={"image_id": image.image_id})).json()["image_id"] == image.image_id


@pytest.mark.parametrize("call", ["/analyze", "/segment", "/visualize", "/probe"])
async def test_the_detail_of_no_image_yet_says_what_to_do(client: httpx.AsyncClient, call: str):
    response = await client.post(call, json={"prompt": "metal"})

    assert is_problem(response, 400, "no_image_yet")
    assert "/generate first" in response.json()["detail"]


BAD_BODIES = [
    pytest.param(b"{", 400, "malformed_body", id="broken JSON"),
    pytest.param(b'{"prompt": "\xff"}', 400, "malformed_body", id="not UTF-8"),
    pytest.param(b'{"prompt": "x", "guidance": NaN}', 400, "malformed_body", id="NaN"),
    pytest.param(b'{"prompt": ' * 3000, 413, "body_too_large", id="too large"),
    pytest.param(b"[" * 5000, 400, "malformed_body", id="deeply nested"),
    pytest.param(b"[]", 422, "invalid_request", id="a list"),
    pytest.param(b"", 422, "invalid_request", id="nothing"),
    pytest.param(b"{}", 422, "invalid_request", id="no prompt"),
    pytest.param(b'{"prompt": 5}', 422, "invalid_request", id="prompt is a number"),
    pytest.param(b'{"prompt": "  "}', 422, "invalid_request", id="empty prompt"),
    pytest.param(b'{"prompt": "%s"}' % (b"x" * 5000), 422, "invalid_request", id="5000 characters"),
    pytest.param(b'{"prompt": "a\\u0000b"}', 422, "invalid_request", id="control character"),
    pytest.param(b'{"prompt": "a\\ud800b"}', 400, "malformed_body", id="lone surrogate"),
    pytest.param(b'{"prompt": "x", "steps": 10000}', 422, "invalid_request", id="10000 steps"),
    pytest.param(b'{"prompt": "x", "steps": 0}', 422, "invalid_request", id="no steps"),
    pytest.param(b'{"prompt": "x", "width": 7}', 422, "invalid_request", id="width 7"),
    pytest.param(b'{"prompt": "x", "width": 0}', 422, "invalid_request", id="width 0"),
    pytest.param(b'{"prompt": "x", "guidance": 1e9}', 422, "invalid_request", id="huge guidance"),
    pytest.param(b'{"prompt": "x", "guidance": "1e999"}', 422, "invalid_request", id="infinite guidance"),
    pytest.param(b'{"prompt": "x", "seed": -1}', 422, "invalid_request", id="negative seed"),
    pytest.param(b'{"prompt": "x", "scheduler": "magic"}', 422, "invalid_request", id="unknown scheduler"),
]


@pytest.mark.parametrize(("body", "status", "code"), BAD_BODIES)
async def test_bad_bodies(client: httpx.AsyncClient, body: bytes, status: int, code: str):
    response = await client.post("/generate", content=body, headers={"content-type": "application/json"})

    assert is_problem(response, status, code)


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        pytest.param(("GET", "/generate", {}), 405, "method_not_allowed", id="wrong method"),
        pytest.param(("GET", "/nowhere", {}), 404, "route_not_found", id="no such route"),
        pytest.param(
            ("POST", "/segment", {"params": {"image_id": str(uuid.uuid4())}}), 404, "image_not_found", id="unknown id"
        ),
        pytest.param(("POST", "/segment", {"params": {"image_id": "../x"}}), 422, "invalid_request", id="malformed id"),
        pytest.param(
            ("POST", "/segment", {"headers": {"X-Session-ID": "a b"}}), 422, "invalid_request", id="malformed session"
        ),
        pytest.param(
            ("POST", "/generate", {"content": (b"x" * 5000 for _ in range(3))}), 413, "body_too_large", id="streamed"
        ),
    ],
)
async def test_bad_requests(bench: Bench, request_: tuple, status: int, code: str):
    method, path, options = request_
    if "content" in options:

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x" * 5000

        options = {"content": chunks()}
    async with client_of(bench) as client:
        assert is_problem(await client.request(method, path, **options), status, code)


async def test_the_request_id_is_the_client_s_if_it_sends_one(bench: Bench, client: httpx.AsyncClient):
    response = await client.post("/generate", json={"prompt": "pear"}, headers={"X-Request-ID": "abc-1"})

    assert response.json()["request_id"] == "abc-1"
    assert bench.of(RequestFinished)[-1].request_id == "abc-1"


async def test_every_request_is_reported_by_its_route_template(bench: Bench, client: httpx.AsyncClient):
    await client.get("/nowhere/at/all")
    await client.post("/generate", json={"prompt": "  "})

    finished = [(e.route, e.status, e.code) for e in bench.of(RequestFinished)]
    assert finished == [("unmatched", 404, "route_not_found"), ("/generate", 422, "invalid_request")]


async def test_a_request_over_the_deadline_is_cancelled(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.workers.gate.clear()
    async with client_of(bench, AdmissionSettings(deadline_s=600)) as client:
        pending = asyncio.create_task(client.post("/generate", json={"prompt": "pear"}))
        await until(lambda: len(bench.services.generation.admission) == 1)
        pass_time(monkeypatch, seconds=601)
        response = await pending

    assert is_problem(response, 504, "deadline_exceeded")
    assert len(bench.services.generation.admission) == 0


async def test_a_shared_request_id_does_not_bypass_admission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bench = make_bench(tmp_path, AdmissionSettings(max_generations=1))
    bench.workers.gate.clear()
    async with client_of(bench, AdmissionSettings(deadline_s=600)) as client:
        calls = [
            asyncio.create_task(client.post("/generate", json={"prompt": "pear"}, headers={"X-Request-ID": "one"}))
            for _ in range(4)
        ]
        await until(lambda: sum(call.done() for call in calls) == 3)
        pass_time(monkeypatch, seconds=601)
        responses = await asyncio.gather(*calls)

    assert sorted(response.status_code for response in responses) == [429, 429, 429, 504]
    assert len({response.json()["request_id"] for response in responses}) == 4


async def test_an_overloaded_service_returns_retry_after(tmp_path: Path):
    bench = make_bench(tmp_path, AdmissionSettings(max_generations=0))
    async with client_of(bench) as client:
        response = await client.post("/generate", json={"prompt": "pear"})

    assert is_problem(response, 429, "overloaded")
    assert int(response.headers["retry-after"]) >= 1


async def test_an_unexpected_error_is_returned_without_its_message(bench: Bench, client: httpx.AsyncClient, caplog):
    async def broken(*_: object) -> bytes:
        raise RuntimeError("the password is 1234")

    bench.workers.encode = broken

    response = await client.post("/generate", json={"prompt": "pear"})

    assert is_problem(response, 500, "internal_error")
    assert "1234" not in response.text
    assert "1234" in caplog.text


async def test_readiness_names_the_model_that_is_not_ready(bench: Bench, client: httpx.AsyncClient):
    bench.workers.reason = "sam2.1_b.pt is missing"

    response = await client.get("/readyz")

    assert response.status_code == 503
    assert response.json()["models"]["Segmenter"]["reason"] == "sam2.1_b.pt is missing"
    assert is_problem(await client.post("/generate", json={"prompt": "pear"}), 503, "model_not_ready")
    assert (await client.get("/healthz")).status_code == 200
    bench.workers.reason = ""
    assert (await client.get("/readyz")).json()["ready"] is True


async def test_the_documentation_loads_no_external_assets(client: httpx.AsyncClient):
    page = (await client.get("/docs")).text
    document = (await client.get("/openapi.json")).json()

    assets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert assets
    for asset in assets:
        assert (await client.get(asset)).status_code == 200, asset
    assert not [url for url in re.findall(r"https?://[^\"' ]+", page) if "test" not in url]
    for path in ("/generate", "/analyze", "/probe", "/segment", "/visualize"):
        responses = document["paths"][path]["post"]["responses"]
        assert {"200", "400", "413", "422", "429", "500", "503", "504"} <= responses.keys()
        assert "application/problem+json" in responses["429"]["content"]
    assert document["components"]["schemas"]["GenerateBody"]["examples"]
