"""`ai-pipeline images`, `regions`, `webhooks` and `models` against the real HTTP application."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cli import main, service
from graphs.http.app import build_http_app
from testing.harness import Bench
from tests.integration.clients import served
from tests.integration.graphs.http.test_images import a_png

pytestmark = pytest.mark.anyio


@pytest.fixture
async def url(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    async with served(build_http_app(bench.services)) as url:
        monkeypatch.setenv("AI_PIPELINE_URL", url)
        monkeypatch.delenv("PIPELINE_API_KEY", raising=False)
        yield url


async def run(*arguments: str | Path, stdin: str | bytes | None = None) -> Any:
    """Run a command that must succeed; return its result."""
    words = [str(argument) for argument in arguments]
    result = await asyncio.to_thread(CliRunner().invoke, main.app, words, input=stdin)
    assert result.exit_code == 0, result.output
    return result


async def ids(*arguments: str | Path) -> list[str]:
    return (await run(*arguments)).stdout.split()


async def test_images_are_generated_listed_and_read(url, tmp_path):
    made = await run("generate", "pear", "-n", "2", "-s", "7", "--tag", "fruit", "-o", tmp_path / "out", "--json")
    await run("generate", "cup", "-s", "1", "--metadata", "order=7", "-o", tmp_path / "out")

    second, first = (json.loads(line) for line in made.stdout.splitlines())
    assert [image["parameters"]["seed"] for image in (second, first)] == [7, 8]
    assert (Path(first["folder"]) / "cutouts" / "0.png").exists()
    assert {"content", "request"}.isdisjoint(first)
    listed = await ids("images", "list", "-q")
    assert listed[1:] == [first["image_id"], second["image_id"]]
    assert await ids("images", "list", "--metadata", "order=7", "-q") == listed[:1]
    table = (await run("images", "list", "--tag", "fruit")).stdout
    assert (first["image_id"] in table, listed[0] in table) == (True, False)
    lines = (await run("images", "list", "--limit", "0", "--json")).stdout.splitlines()
    assert [json.loads(line)["image_id"] for line in lines] == listed
    last = json.loads((await run("images", "get", "last")).stdout)
    assert (last["image_id"], last["metadata"]) == (listed[0], {"order": "7"})


async def test_prompts_are_read_from_stdin(url, tmp_path):
    made = await run("generate", "-", "--json", "-o", tmp_path / "out", stdin="pear\n\n cup \n")
    assert [json.loads(line)["parameters"]["prompt"] for line in made.stdout.splitlines()] == ["pear", "cup"]


async def test_the_running_service_is_used_before_one_is_started(url, tmp_path, monkeypatch):
    monkeypatch.delenv("AI_PIPELINE_URL")
    monkeypatch.setattr(service, "HERE", url)
    result = await run("generate", "pear", "-o", tmp_path / "out")
    assert f"Using the service at {url}" in result.stderr


async def test_an_image_is_uploaded_changed_saved_and_deleted(url, tmp_path):
    (tmp_path / "photo.png").write_bytes(a_png(96))
    (uploaded,) = await ids("images", "upload", tmp_path / "photo.png", "--tag", "mine")
    (piped,) = (await run("images", "upload", "-", stdin=a_png(64))).stdout.split()

    changed = json.loads((await run("images", "update", uploaded, "--tag", "red", "--metadata", "a=b")).stdout)
    assert (changed["tags"], changed["metadata"]) == (["red"], {"a": "b"})
    cleared = json.loads((await run("images", "update", uploaded, "--metadata", "a=")).stdout)
    assert (cleared["tags"], cleared["metadata"]) == (["red"], {})
    await run("images", "save", uploaded, "-o", tmp_path / "small.webp", "--max-side", "32")
    with Image.open(tmp_path / "small.webp") as small:
        assert (small.format, small.size) == ("WEBP", (32, 32))
    content = (await run("images", "save", piped, "-o", "-", "--format", "jpeg")).stdout_bytes
    assert Image.open(io.BytesIO(content)).format == "JPEG"
    await run("images", "delete", uploaded, "last")
    assert await ids("images", "list", "-q") == []


async def test_an_image_is_edited_and_varied(url, bench, tmp_path):
    image = (await bench.image(seed=3)).image_id
    (edited,) = await ids("images", "edit", image, "a pear", "--point", "19,19", "-o", tmp_path / "edited.png")
    varied = await ids("images", "vary", image, "-n", "2", "-s", "5", "-o", tmp_path / "varied")

    assert json.loads((await run("images", "get", edited)).stdout)["made_from"] == image
    assert {file.stem for file in (tmp_path / "varied").iterdir()} == set(varied)
    before, after = [np.array(Image.open(file)) for file in (await saved(image, tmp_path), tmp_path / "edited.png")]
    changed = (before != after).any(axis=2)
    assert changed[19, 19]
    assert not changed[60:, 60:].any()
    for wrong in (("--point", "19"), ("--box", "1,2,3"), ("--point", "1,1", "--text", "apple")):
        command = ["images", "edit", image, "a pear", *wrong]
        result = await asyncio.to_thread(CliRunner().invoke, main.app, command)
        assert result.exit_code == 1, result.output


async def saved(image: str, folder: Path) -> Path:
    await run("images", "save", image, "-o", folder / "saved.png")
    return folder / "saved.png"


async def test_regions_are_listed_and_their_pictures_saved(url, bench, tmp_path):
    image = (await bench.image(seed=3)).image_id
    masks, cutouts, coco = tmp_path / "masks", tmp_path / "cutouts", tmp_path / "coco.json"
    shown = await run("regions", "last", "--masks", masks, "--cutouts", cutouts, "--coco", coco)
    lines = (await run("regions", image, "--json")).stdout.splitlines()
    (point,) = (await run("regions", image, "--point", "19,19", "--json")).stdout.splitlines()

    assert "apple" in shown.stdout
    assert [json.loads(line)["region_id"] for line in lines] == [0, 1]
    assert json.loads(point)["region_id"] == 1_000_000
    assert {file.name for file in masks.iterdir()} == {file.name for file in cutouts.iterdir()} == {"0.png", "1.png"}
    with Image.open(masks / "0.png") as mask, Image.open(cutouts / "0.png") as cutout:
        assert (mask.size, cutout.mode) == ((64, 64), "RGBA")
    assert len(json.loads(coco.read_text())["annotations"]) == 2
    labels = json.loads((await run("images", "labels", image, "cat", "dog", "--json")).stdout)
    assert sorted(label["label"] for label in labels) == ["cat", "dog"]
    scores = json.loads((await run("images", "probe", image, "red", "--json")).stdout)
    assert [score["concept"] for score in scores] == ["red"]


async def test_webhooks_models_and_the_status_are_shown(url):
    created = json.loads((await run("webhooks", "create", "https://example.com/hook", "--type", "job.failed")).stdout)
    webhook = created["webhook_id"]
    assert created["secret"].startswith("whsec_")
    assert webhook in (await run("webhooks", "list")).stdout
    paused = json.loads((await run("webhooks", "update", webhook, "--disable")).stdout)
    assert (paused["enabled"], paused["types"]) == (False, ["job.failed"])
    rotated = json.loads((await run("webhooks", "rotate-secret", webhook)).stdout)
    assert rotated["secret"] != created["secret"]
    await run("webhooks", "update", webhook, "--enable")
    delivery = json.loads((await run("webhooks", "test", webhook)).stdout)["delivery_id"]
    (listed,) = (await run("webhooks", "deliveries", webhook, "--json")).stdout.splitlines()
    assert json.loads(listed)["delivery_id"] == delivery
    await run("webhooks", "delete", webhook)
    assert (await run("webhooks", "list", "--json")).stdout == ""
    names = (await run("models", "list")).stdout.split()
    assert "mini" in names
    assert json.loads((await run("models", "get", "mini")).stdout)["limits"]["max_steps"] > 0
    assert "ready, profile mini on cpu" in (await run("status", "--wait", "5")).stdout
