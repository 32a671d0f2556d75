"""The commands that call a running service, and the example, against the real HTTP application."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from cli import main
from graphs.generation import job_worker as job_runner
from graphs.http.app import build_http_app
from graphs.http.auth import AccessControl
from pipeline.store import PageQuery
from testing.harness import Bench
from tests.integration.clients import InStep, served

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
UNKNOWN_ID = "0198a3c0-0000-7000-8000-000000000000"


@pytest.fixture
async def url(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setattr(job_runner, "POLL_S", 0.05)
    async with served(build_http_app(bench.services)) as url:
        yield url


async def command(*arguments: str) -> tuple[int, str]:
    unset = dict.fromkeys(("AI_PIPELINE_API_KEY", "AI_PIPELINE_URL", "PIPELINE_API_KEY", "PIPELINE_SERVER"), "")
    result = await asyncio.to_thread(CliRunner().invoke, main.app, arguments, env=unset)
    return result.exit_code, result.output


class PreviewSteps:
    """The number of steps in a preview file: the brightness of a fake preview is its step number."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __len__(self) -> int:
        return int(cv2.imread(str(self.file)).max()) if self.file.exists() else 0


def size_of(file: Path) -> tuple[int, int]:
    height, width, _ = cv2.imread(str(file)).shape
    return width, height


async def test_generate_writes_results_and_previews(url, bench, tmp_path):
    shown = PreviewSteps(tmp_path / "now" / "preview.png")
    bench.workers.gate = InStep(bench, shown)
    out = tmp_path / "out"
    options = ("--server", url, "--out", str(out), "--preview", str(shown.file))
    code, output = await command("generate", "pear", "--seed", "3", "--steps", "4", *options)

    assert code == 0, output
    assert len(shown) == 4
    (job,) = bench.store.jobs.list("public", PageQuery(limit=9))
    folder = out / job.result["image_id"]
    result = json.loads((folder / "result.json").read_text())
    parameters = result["parameters"]
    assert (parameters["prompt"], parameters["seed"], parameters["steps"]) == ("pear", 3, 4)
    assert (result["image_id"], result["job_id"]) == (job.result["image_id"], job.job_id)
    assert len(result["labels"]) == 5
    assert [region["label"] for region in result["regions"]] == ["apple", "plate"]
    for file_name in ("image.png", "overlay.png", "spotlights/0.png", "spotlights/1.png"):
        assert size_of(folder / file_name) == (256, 256)
    assert size_of(folder / "cutouts" / "0.png") == (23, 23)  # the disc alone
    assert "apple" in output
    assert f"Seed 3. Results in {folder}" in output


async def test_warnings_are_printed_with_the_results(url, bench, tmp_path):
    bench.workers.unknown = 0.9
    out = tmp_path / "out"
    code, output = await command("generate", "a dog", "--steps", "2", "--server", url, "--out", str(out))
    assert code == 0, output
    (folder,) = out.iterdir()
    warnings = json.loads((folder / "result.json").read_text())["warnings"]
    prompt_warning, image_warning = [warning["detail"] for warning in warnings]
    assert '"dog"' in prompt_warning
    assert "90% unknown" in image_warning
    assert prompt_warning in output
    assert image_warning in output


async def test_each_of_several_images_has_its_own_folder(url, bench, tmp_path):
    out = tmp_path / "out"
    code, output = await command("generate", "pear", "--n", "2", "--seed", "8", "--server", url, "--out", str(out))
    assert code == 0, output
    jobs = bench.store.jobs.list("public", PageQuery(limit=9))
    assert {folder.name for folder in out.iterdir()} == {job.result["image_id"] for job in jobs}
    seeds = {json.loads((folder / "result.json").read_text())["parameters"]["seed"] for folder in out.iterdir()}
    assert seeds == {8, 9}


async def test_errors_of_the_service_are_printed_in_a_sentence(url, bench, tmp_path):
    options = ("--out", str(tmp_path / "out"))
    for arguments, sentence, expected in (
        (("generate", " ", "--server", url, *options), "send a few words", 4),
        (("generate", "pear", "--server", url, "--steps", "999", *options), "send 1 to 100", 4),
        (("jobs", "show", UNKNOWN_ID, "--server", url), "There is no job", 3),
        (("images", "get", UNKNOWN_ID, "--server", url), "There is no image", 3),
        (("images", "get", "last", "--server", url), "There is no image yet", 1),
        (("images", "list", "--metadata", "order", "--server", url), "KEY=VALUE", 1),
        (("jobs", "list", "--server", "http://127.0.0.1:1"), "Is the service running?", 5),
    ):
        code, output = await command(*arguments)
        assert (code, sentence in " ".join(output.split())) == (expected, True), output
    assert not (tmp_path / "out").exists()


async def test_the_api_key_option_authenticates(bench, tmp_path):
    _, token = bench.store.keys.create("ann")
    async with served(build_http_app(bench.services, AccessControl(bench.store.keys))) as url:
        options = ("--server", url, "--out", str(tmp_path / "out"))
        code, output = await command("generate", "pear", *options)
        assert code == 4
        assert "API key" in output
        code, output = await command("generate", "pear", *options, "--api-key", token)
        assert code == 0, output


async def test_jobs_and_events_are_printed(url, bench):
    await bench.image()
    (job,) = bench.store.jobs.list("public", PageQuery(limit=9))

    code, output = await command("jobs", "list", "--server", url)
    assert (code, job.job_id in output, "succeeded" in output) == (0, True, True)
    code, output = await command("jobs", "show", job.job_id, "--server", url)
    assert json.loads(output)["result"] == dict(job.result)
    code, output = await command("jobs", "cancel", job.job_id, "--server", url)
    assert (code, output) == (0, f"Job {job.job_id} is succeeded.\n")
    code, output = await command("jobs", "follow", job.job_id, "--server", url)
    assert (code, f"Image {job.result['image_id']}" in output) == (0, True)
    code, output = await command("jobs", "retry", job.job_id, "--server", url)
    assert (code, "only one that failed" in output) == (4, True)
    code, output = await command("events", "--type", "image.created,job.succeeded", "--server", url)
    events = [json.loads(line) for line in output.splitlines()]
    assert [event["type"] for event in events] == ["image.created", "job.succeeded"]
    assert events[0]["image_id"] == job.result["image_id"]


async def run(program: str, *arguments: str, cwd: Path) -> str:
    """Run a program that uses the client; return its output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, program, *arguments),
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    return output


async def test_the_example_runs_as_documented(url, tmp_path):
    output = await run(str(ROOT / "examples" / "client.py"), "--server", url, cwd=tmp_path)
    assert "step 0 of 15" in output
    assert "It shows: " in output
    assert "  apple: " in output
    assert size_of(tmp_path / "out" / "image.png") == size_of(tmp_path / "out" / "edited.png") == (256, 256)


async def test_the_example_in_the_guide_runs_as_documented(url, tmp_path):
    guide = (ROOT / "docs" / "guide.md").read_text()
    section = guide[guide.index("## A client in Python") :]
    (program, *_) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "program.py").write_text(program.replace("http://127.0.0.1:8000", url))
    output = await run("program.py", cwd=tmp_path)
    assert "0 15" in output
    assert len(re.findall(r"^\d+ [0-9a-f-]{36}$", output, re.MULTILINE)) == 3
    assert size_of(tmp_path / "apple.webp") == (96, 96)


def test_the_version_is_printed():
    result = CliRunner().invoke(main.app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"ai-pipeline {version('ai-pipeline')}\n")


async def test_errors_go_to_stderr_and_results_to_stdout(url):
    failed = await asyncio.to_thread(CliRunner().invoke, main.app, ["jobs", "show", UNKNOWN_ID, "--server", url])
    listed = await asyncio.to_thread(CliRunner().invoke, main.app, ["jobs", "list", "--server", url])
    assert (failed.stdout, failed.stderr.startswith("There is no job")) == ("", True)
    assert ("attempts" in listed.stdout, listed.stderr) == (True, "")


def test_an_invalid_parameter_is_rejected_in_a_sentence_before_the_launch():
    result = CliRunner().invoke(main.app, ["generate", "pear", "--steps", "0"])
    assert result.exit_code == 1
    assert result.output.strip() == "steps: Input should be greater than or equal to 1"
