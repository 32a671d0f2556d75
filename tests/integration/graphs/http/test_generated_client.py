"""A client generated from the OpenAPI document, without warnings, makes, downloads and segments an image."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from docs.write_api import document
from graphs.http.app import build_http_app
from pipeline.settings import PROJECT_ROOT
from testing.debian import ensure
from testing.harness import Bench
from tests.integration.clients import served

GENERATOR = PROJECT_ROOT / ".tools" / "bin" / "openapi-python-client"
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


@pytest.mark.anyio
async def test_a_generated_client_makes_downloads_and_segments_an_image(bench: Bench, generated: Path):
    async with served(build_http_app(bench.services)) as url:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, url),
            cwd=generated,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await process.communicate())[0].decode()
    assert output.endswith("all done\n"), output
