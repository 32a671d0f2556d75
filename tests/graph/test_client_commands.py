"""The commands that ask a running service, and the example, against the real HTTP application."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from cli import main
from graphs.generation import job_worker as job_runner
from graphs.http.app import build_http_app
from graphs.http.auth import AccessControl
from testing.harness import Bench
from tests.graph.clients import InStep, served

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
NOWHERE = "0198a3c0-0000-7000-8000-000000000000"


@pytest.fixture
async def url(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setattr(job_runner, "POLL_S", 0.05)
    async with served(build_http_app(bench.services)) as url:
        yield url


async def command(*arguments: str) -> tuple[int, str]:
    unset = {"PIPELINE_API_KEY": "", "PIPELINE_SERVER": ""}
    result = await asyncio.to_thread(CliRunner().invoke, main.app, arguments, env=unset)
    return result.exit_code, result.stdout


class Shown:
    """How many steps a preview file shows: each of the fake's previews is as bright as its step is late."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __len__(self) -> int:
        return int(cv2.imread(str(self.file)).max()) if self.file.exists() else 0


def size_of(file: Path) -> tuple[int, int]:
    height, width, _ = cv2.imread(str(file)).shape
    return width, height


async def test_an_image_is_made_elsewhere_with_previews_on_the_way(url, bench, tmp_path):
    shown = Shown(tmp_path / "now" / "preview.png")
    bench.workers.gate = InStep(bench, shown)
    out = tmp_path / "out"
    where = ("--server", url, "--out", str(out), "--preview", str(shown.file))
    code, said = await command("generate", "pear", "--seed", "3", "--steps", "4", *where)

    assert code == 0, said
    assert len(shown) == 4
    (job,) = bench.store.jobs.list("public", limit=9)
    folder = out / job.job_id
    result = json.loads((folder / "result.json").read_text())
    assert (result["prompt"], result["seed"], result["steps"]) == ("pear", 3, 4)
    assert result["image_id"] == job.result["image_id"]
    assert len(result["clip_analysis"]) == 5
    assert [region["clip_analysis"][0]["class"] for region in result["segmented_regions"]] == ["apple", "plate"]
    for picture in ("image.png", "overlay.png", "spotlights/0.png", "spotlights/1.png"):
        assert size_of(folder / picture) == (256, 256)
    assert "apple" in said
    assert f"Seed 3. Results in {folder}" in said


async def test_what_the_models_do_not_know_is_said_beside_the_results(url, bench, tmp_path):
    bench.workers.unknown = 0.9
    out = tmp_path / "out"
    code, said = await command("generate", "a dog", "--steps", "2", "--server", url, "--out", str(out))
    assert code == 0, said
    (folder,) = out.iterdir()
    words, picture = json.loads((folder / "result.json").read_text())["warnings"]
    assert '"dog"' in words
    assert "90% unknown" in picture
    assert words in said
    assert picture in said


async def test_several_images_have_a_folder_each(url, bench, tmp_path):
    out = tmp_path / "out"
    code, said = await command("generate", "pear", "--n", "2", "--seed", "8", "--server", url, "--out", str(out))
    assert code == 0, said
    jobs = bench.store.jobs.list("public", limit=9)
    assert {folder.name for folder in out.iterdir()} == {job.job_id for job in jobs}
    seeds = {json.loads((folder / "result.json").read_text())["seed"] for folder in out.iterdir()}
    assert seeds == {8, 9}


async def test_a_single_image_s_preview_is_in_its_folder(url, bench, tmp_path):
    out = tmp_path / "out"

    class InFolder:
        def __len__(self) -> int:
            return max((len(Shown(file)) for file in out.glob("*/preview.png")), default=0)

    bench.workers.gate = InStep(bench, InFolder())
    code, said = await command("generate", "pear", "--steps", "2", "--server", url, "--out", str(out))
    assert code == 0, said
    (folder,) = out.iterdir()
    assert {file.name for file in folder.iterdir()} == {
        "preview.png",
        "image.png",
        "overlay.png",
        "spotlights",
        "result.json",
    }


async def test_what_the_service_refuses_is_said_in_a_sentence(url, bench, tmp_path):
    where = ("--out", str(tmp_path / "out"))
    for arguments, sentence in (
        (("generate", " ", "--server", url, *where), "send a few words"),
        (("generate", "pear", "--n", "2", *where), "--server"),
        (("generate", "pear", "--server", url, "--steps", "999", *where), "send 1 to 100"),
        (("jobs", "show", NOWHERE, "--server", url), "There is no job"),
    ):
        code, said = await command(*arguments)
        assert (code, sentence in " ".join(said.split())) == (1, True), said
    assert not (tmp_path / "out").exists()


async def test_a_service_that_wants_a_key_is_given_one(bench, tmp_path):
    _, token = bench.store.keys.create("ann")
    async with served(build_http_app(bench.services, AccessControl(bench.store.keys))) as url:
        where = ("--server", url, "--out", str(tmp_path / "out"))
        code, said = await command("generate", "pear", *where)
        assert code == 1
        assert "API key" in said
        code, said = await command("generate", "pear", *where, "--api-key", token)
        assert code == 0, said


async def test_jobs_and_events_are_told(url, bench):
    await bench.image()
    (job,) = bench.store.jobs.list("public", limit=9)

    code, said = await command("jobs", "list", "--server", url)
    assert (code, job.job_id in said, "succeeded" in said) == (0, True, True)
    code, said = await command("jobs", "show", job.job_id, "--server", url)
    assert json.loads(said)["result"] == dict(job.result)
    code, said = await command("jobs", "cancel", job.job_id, "--server", url)
    assert (code, said) == (0, f"Job {job.job_id} is succeeded.\n")
    code, said = await command("jobs", "follow", job.job_id, "--server", url)
    assert (code, f"Image {job.result['image_id']}" in said) == (0, True)
    code, said = await command("jobs", "retry", job.job_id, "--server", url)
    assert (code, "only one that failed" in said) == (1, True)
    code, said = await command("events", "--type", "image.created,job.succeeded", "--server", url)
    told = [json.loads(line) for line in said.splitlines()]
    assert [event["type"] for event in told] == ["image.created", "job.succeeded"]
    assert told[0]["image_id"] == job.result["image_id"]


async def run(program: str, *arguments: str, where: Path) -> str:
    """What a program says that uses the client as any other would."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, program, *arguments),
        cwd=where,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await running.communicate())[0].decode()
    assert running.returncode == 0, said
    return said


async def test_the_example_does_what_it_says(url, tmp_path):
    said = await run(str(ROOT / "examples" / "client.py"), "--server", url, where=tmp_path)
    assert "step 0 of 15" in said
    assert "It shows: " in said
    assert "  apple: " in said
    assert size_of(tmp_path / "out" / "image.png") == size_of(tmp_path / "out" / "edited.png") == (256, 256)


async def test_the_guide_s_example_does_what_it_says(url, tmp_path):
    guide = (ROOT / "docs" / "guide.md").read_text()
    section = guide[guide.index("## A client in Python") :]
    (program, *_) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "program.py").write_text(program.replace("http://127.0.0.1:8000", url))
    said = await run("program.py", where=tmp_path)
    assert "0 15" in said
    assert len(re.findall(r"^\d+ [0-9a-f-]{36}$", said, re.MULTILINE)) == 3
    assert size_of(tmp_path / "apple.webp") == (96, 96)


def test_a_parameter_that_cannot_be_used_is_refused_in_a_sentence_before_the_launch():
    result = CliRunner().invoke(main.app, ["generate", "pear", "--steps", "0"])
    assert result.exit_code == 1
    assert result.output.strip() == "steps: Input should be greater than or equal to 1"
