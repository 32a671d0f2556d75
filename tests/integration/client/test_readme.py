"""The client's README: its program runs as it stands, here and on Python 3.9."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image as PILImage

from ai_pipeline_client import Client
from pipeline.settings import PROJECT_ROOT
from testing.debian import ensure
from tests.wheel import LEFT_OUT, UV, build_wheel

pytestmark = pytest.mark.anyio

README = PROJECT_ROOT / "client" / "README.md"
IMAGES = r"""
from PIL import Image
import ai_pipeline_client, numpy, sys
assert green.made_from == image.image_id and apple.mask.dtype == numpy.bool_ and apple.mask.sum() == apple.area
assert Image.open("cutout.png").mode == "RGBA" and max(Image.open("apple.webp").size) <= 512
"""
NO_IMAGES = r"""
import asyncio, typing, sys
assert sys.version_info[:2] == (3, 9), sys.version
try:
    apple.mask
except ImportError as error:
    assert 'pip install "ai-pipeline-client[images]"' in str(error), error
else:
    raise AssertionError("numpy is here")
from ai_pipeline_client import AsyncClient, AsyncImage, AsyncRegion, Image, Region
async def images():
    async with AsyncClient() as client:
        return [image async for image in client.images.list()]
assert len(asyncio.run(images())) == 6
parts = [type(getattr(client, name)) for name in ("images", "jobs", "events", "webhooks", "keys", "models")]
for kind in (Client, AsyncClient, Image, Region, AsyncImage, AsyncRegion, *parts):
    for name in dir(kind):
        if callable(getattr(kind, name)) and not name.startswith("_"):
            typing.get_type_hints(getattr(kind, name))
"""


def program() -> str:
    """Return the README's program."""
    (found,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    return found


def run(python: str | Path, source: str, url: str, folder: Path) -> list[str]:
    """Run a program in a folder against a service; return the lines it prints."""
    PILImage.new("RGB", (64, 64), "orange").save(folder / "photo.jpg")
    environment = {"AI_PIPELINE_URL": url, "PATH": os.defpath}
    if python == sys.executable:
        environment["PYTHONPATH"] = str(PROJECT_ROOT / "client")
    done = subprocess.run([python, "-c", source], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def test_the_program_runs_as_it_stands(url, tmp_path):
    *regions, labels = await asyncio.to_thread(run, sys.executable, program() + IMAGES, url, tmp_path)
    assert [line.split()[0] for line in regions] == ["apple", "plate"]
    assert re.fullmatch(r"(cat|dog) \d+%, (cat|dog) \d+%", labels)
    with Client(url) as client:
        (variation, *_), edit = await asyncio.to_thread(_made, client)
    assert (tmp_path / f"{variation}.png").exists()
    assert edit == "a green apple"


def _made(client: Client) -> tuple[list[int | None], str | None]:
    first, *_ = client.images.list(order="asc")
    made = list(client.images.list(made_from=first, order="asc"))
    return [image.seed for image in made[1:]], made[0].prompt


async def test_the_program_runs_on_python_3_9_without_numpy(url, tmp_path):
    """In an empty environment with the client's wheel and its two dependencies; by PyPy, if that is Debian's."""
    python = await asyncio.to_thread(installed, ensure("Python 3.9 (pypy3)", python_3_9), tmp_path)
    without_numpy = re.sub(r"^apple\.mask .*\n", "", program(), flags=re.MULTILINE)
    *regions, labels = await asyncio.to_thread(run, python, without_numpy + NO_IMAGES, url, tmp_path)
    assert [line.split()[0] for line in regions] == ["apple", "plate"]
    assert labels.count("%") == 2


def python_3_9() -> str | None:
    """Return an interpreter of Python 3.9, if there is one."""
    is_3_9 = "import sys; sys.exit(sys.version_info[:2] != (3, 9))"
    found = [shutil.which("pypy3"), shutil.which("python3.9"), *PROJECT_ROOT.glob(".tools/python/*/bin/python3.9")]
    programs = (str(program) for program in found if program)
    return next((p for p in programs if subprocess.run([p, "-c", is_3_9], capture_output=True).returncode == 0), None)


def installed(interpreter: str, folder: Path) -> Path:
    """Install the client's wheel into an empty environment; return its interpreter."""
    source, environment = folder / "source", folder / "environment"
    shutil.copytree(PROJECT_ROOT / "client", source, ignore=shutil.ignore_patterns(*LEFT_OUT))
    build_wheel(source, folder)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([UV, "venv", "--quiet", "--python", interpreter, environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, wheel], check=True)
    return python
