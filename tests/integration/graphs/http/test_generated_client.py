"""Clients generated from the OpenAPI document, without warnings, make, download and segment an image."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from docs.openapi import document
from graphs.http.app import build_http_app
from pipeline.settings import PROJECT_ROOT
from testing.debian import ensure
from testing.harness import Bench
from tests.integration.clients import served

TOOLS = PROJECT_ROOT / ".tools"
GENERATOR = TOOLS / "bin" / "openapi-python-client"
NODE_TOOLS = TOOLS / "node_modules"
TYPESCRIPT = Path(__file__).with_name("generated_client.ts")
PROGRAM = """
import sys

from ai_pipeline_api_client import Client
from ai_pipeline_api_client.api.analysis import list_regions
from ai_pipeline_api_client.api.images import create_images, delete_image, download_image, get_image, list_images
from ai_pipeline_api_client.models import CreateBody, Problem

client = Client(base_url=sys.argv[1], timeout=300)
body = CreateBody(prompt="pear", seed=3, width=64, height=96, steps=2)
(image,) = create_images.sync(client=client, body=body).data
assert (image.width, image.height, image.parameters.seed) == (64, 96, 3)
content = download_image.sync(client=client, image_id=image.image_id)
assert content.payload.read().startswith(b"\\x89PNG")
regions = list_regions.sync(client=client, image_id=image.image_id).data
assert [region.region_id for region in regions] == [0, 1]
assert [each.image_id for each in list_images.sync(client=client).data] == [image.image_id]
assert delete_image.sync_detailed(client=client, image_id=image.image_id).status_code == 204
problem = get_image.sync(client=client, image_id=image.image_id)
assert isinstance(problem, Problem) and problem.code == "image_not_found"
print("all done")
"""


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generated package."""
    generator = ensure("openapi-python-client", lambda: GENERATOR if GENERATOR.exists() else None)
    folder = tmp_path_factory.mktemp("generated")
    (folder / "openapi.json").write_text(json.dumps(document()))
    command = [generator, "generate", "--path", "openapi.json", "--meta", "none", "--output-path"]
    run = subprocess.run([*command, "ai_pipeline_api_client"], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "WARNING" not in (run.stdout + run.stderr), run.stdout
    return folder


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the TypeScript program, compiled with the generated types."""
    ensure("openapi-typescript", lambda: NODE_TOOLS if (NODE_TOOLS / "openapi-typescript").exists() else None)
    folder = tmp_path_factory.mktemp("typescript")
    (folder / "openapi.json").write_text(json.dumps(document()))
    (folder / "node_modules").symlink_to(NODE_TOOLS)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "program.ts").write_text(TYPESCRIPT.read_text().replace("./api.ts", "./api.js"))
    for command in (
        "openapi-typescript openapi.json --default-non-nullable=false --output api.ts",
        "tsc --strict --target es2022 --module nodenext --moduleResolution nodenext program.ts",
    ):
        name, *options = command.split()
        run = subprocess.run([NODE_TOOLS / ".bin" / name, *options], cwd=folder, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
        assert "warn" not in (run.stdout + run.stderr).lower(), run.stdout
    return folder


@pytest.mark.anyio
async def test_a_generated_python_client_makes_downloads_and_segments_an_image(bench: Bench, generated: Path):
    assert (await output_of(bench, generated, sys.executable, "-c", PROGRAM)).endswith("all done\n")


@pytest.mark.anyio
async def test_a_generated_typescript_client_makes_downloads_and_segments_an_image(bench: Bench, compiled: Path):
    assert (await output_of(bench, compiled, "node", "program.js")).endswith("all done\n")


async def output_of(bench: Bench, folder: Path, *command: str) -> str:
    """Run a program with the URL of the service; return what it prints."""
    async with served(build_http_app(bench.services)) as url:
        process = await asyncio.create_subprocess_exec(
            *command, url, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output = (await process.communicate())[0].decode()
    print(output)
    return output
