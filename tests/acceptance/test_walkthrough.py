"""The guide's curl walk-throughs, run as documented, and the examples."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from testing.debian import ensure
from testing.ports import quiet_port
from testing.service_process import ROOT, RunningService, wait_until

API_GUIDE = (ROOT / "docs" / "api.md").read_text()
RECEIVED = r"(?:job\.succeeded|job\.cancelled|image\.created) [0-9a-f-]{36} {"  # as the receiver prints it


def test_the_jobs_walk_through_runs_as_documented(service: RunningService, tmp_path: Path):
    assert shutil.which("curl"), "the walk-through needs curl"
    script = script_of("## Jobs, events and webhooks")
    receiver = f"127.0.0.1:{quiet_port()}"
    for documented, actual in (
        (".venv/bin/python", str(ROOT / ".venv/bin/python")),
        ("examples/", f"{ROOT}/examples/"),
        ("--port 9000", f"--port {receiver.partition(':')[2]}"),
        ("127.0.0.1:9000", receiver),
    ):
        assert documented in script
        script = script.replace(documented, actual)
    script = script.replace("localhost:8000", service.url.removeprefix("http://"))
    with (tmp_path / "output.txt").open("w") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"trap 'kill $(jobs -p)' EXIT\n{script}\nread"],  # the receiver runs until the end
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

        def output() -> str:
            return (tmp_path / "output.txt").read_text()

        try:
            wait_until(lambda: len(re.findall(RECEIVED, output())) == 3)
        finally:
            process.communicate(b"\n")
    print(output())
    assert '"secret":"whsec_' in output()
    assert "event: generation.stepped" in output()
    assert "event: generation.finished" in output()
    assert '"state":"succeeded"' in output()
    assert re.search(r'"state":"(cancelled|running)"', output())
    assert len(re.findall(r"^event: job\.(succeeded|cancelled)$", output(), re.M)) >= 3


def test_the_walk_through_of_images_runs_as_documented(service: RunningService, tmp_path: Path):
    for program in ("curl", "jq"):
        ensure(program, lambda program=program: shutil.which(program))
    guide = API_GUIDE[: API_GUIDE.index("## Jobs, events and webhooks")]
    script = "".join(re.findall(r"```bash\n(.*?)```", guide, re.DOTALL))
    script = script.replace("curl -s", "curl -sf").replace("localhost:8000", service.url.removeprefix("http://"))
    run = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr

    answers = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    (made,) = answers["made"]["data"]
    assert made["labels"][0]["label"] == "apple"
    assert "apple" in [region["label"] for region in made["regions"]]
    assert [image["image_id"] for image in answers["found"]["data"]] == [made["image_id"]]
    assert answers["coco"]["annotations"]
    assert answers["apple"]["data"][0]["label"] == "apple"
    assert answers["labels"]["labels"][0]["label"] == "apple"
    assert answers["concepts"]["matches"][0]["share"] > 0.9
    assert answers["edited"]["data"][0]["parameters"]["prompt"] == "a green apple"
    assert len(answers["like_it"]["data"]) == 3
    assert answers["point"]["data"][0]["region_id"] >= 1_000_000
    assert '["fruit","red"]' in run.stdout.replace(" ", "")
    assert "event: generation.finished" in run.stdout
    with Image.open(tmp_path / "apple.webp") as thumbnail, Image.open(tmp_path / "cutout.png") as cutout:
        assert max(thumbnail.size) == 64
        assert cutout.mode == "RGBA"
    with Image.open(tmp_path / "mask.png") as mask, Image.open(tmp_path / "apple.png") as whole:
        assert mask.size == whole.size == (256, 256)


def test_the_walk_through_of_webhooks_and_keys_runs_as_documented(service: RunningService, tmp_path: Path):
    for program in ("curl", "jq"):
        ensure(program, lambda program=program: shutil.which(program))
    script = script_of("## Webhooks, keys and limits")
    script = script.replace("curl -s", "curl -sf").replace("localhost:8000", service.url.removeprefix("http://"))
    run = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr

    answers = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert (answers["paused"]["enabled"], answers["enabled"]["enabled"]) == (False, True)
    assert answers["enabled"]["types"] == ["image.created", "job.failed"]
    assert answers["rotated"]["secret"] != answers["hook"]["secret"]
    assert answers["again"]["type"] == "webhook.tested"
    assert [each["delivery_id"] for each in answers["undelivered"]["data"]] == [answers["again"]["delivery_id"]]
    assert answers["me"]["owner"] == "public"
    assert answers["me"]["usage"]["webhooks"] >= 0
    assert answers["keys"]["data"] == []
    assert '"generation"' in run.stdout


def test_the_walk_through_of_the_command_line_runs_as_documented(service: RunningService, tmp_path: Path):
    ensure("jq", lambda: shutil.which("jq"))
    guide = (ROOT / "docs" / "guide.md").read_text()
    found = re.search(r"```bash\n(.*?)```", guide[guide.index("## The command line") :], re.DOTALL)
    assert found
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "ai-pipeline"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cli.main "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "AI_PIPELINE_URL": service.url,
    }
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", found[1]], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    print(run.stdout, run.stderr)
    assert run.returncode == 0, run.stderr

    with Image.open(tmp_path / "last.webp") as last, Image.open(tmp_path / "green.png") as green:
        assert max(last.size) == 64
        assert green.size == (256, 256)
    (cutout,) = (tmp_path / "cutouts").iterdir()
    with Image.open(cutout) as apple, Image.open(tmp_path / "masks" / cutout.name) as mask:
        assert apple.mode == "RGBA"
        assert max(apple.size) < 256 == mask.width
    assert json.loads((tmp_path / "apple.json").read_text())["annotations"]
    assert len(list((tmp_path / "varied").iterdir())) == 2
    made = [json.loads(line) for line in (tmp_path / "made.jsonl").read_text().splitlines()]
    assert [image["parameters"]["prompt"] for image in made] == ["a pear", "a cup"]
    assert re.search(r'\[[12],"apple"\]', run.stdout)  # the last of two that are made at once


def test_the_openai_client_example_runs(service: RunningService, tmp_path: Path):
    subprocess.run(
        [sys.executable, ROOT / "examples" / "openai_images.py", "--server", service.url, "--out", tmp_path],
        check=True,
        timeout=300,
    )
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"apple-0.png", "apple-1.png", "cup-0.webp", "cup-1.webp", "cup-2.webp", "cup.webp", "green.png"}


def script_of(title: str) -> str:
    """Return the first script of a section of the guide to the API."""
    found = re.search(r"```bash\n(.*?)```", API_GUIDE[API_GUIDE.index(title) :], re.DOTALL)
    assert found
    return found[1]
