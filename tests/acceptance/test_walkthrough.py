"""The guide's curl walk-throughs, run as documented, and the examples."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from testing.ports import quiet_port
from testing.service_process import ROOT, RunningService, wait_until

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


def test_the_resources_walk_through_runs_as_documented(service: RunningService, tmp_path: Path):
    script = script_of("## Images as resources").replace("localhost:8000", service.url.removeprefix("http://"))
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, check=True, timeout=300)

    answers = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert len(answers["made"]["images"]) == 2
    assert answers["coco"]["annotations"]
    assert answers["apple"]["segments"][0]["labels"][0]["label"] == "apple"
    assert answers["labels"]["labels"][0]["label"] == "apple"
    assert answers["concepts"]["matches"][0]["share"] > 0.9
    assert answers["edited"]["images"][0]["request"]["prompt"] == "a green apple"
    assert len(answers["like_it"]["images"]) == 3
    assert "green" in answers["green"]["images"][0]["request"]["prompt"]
    with Image.open(tmp_path / "green.webp") as thumbnail:
        assert max(thumbnail.size) == 64


def test_the_openai_client_example_runs(service: RunningService, tmp_path: Path):
    subprocess.run(
        [sys.executable, ROOT / "examples" / "openai_images.py", "--server", service.url, "--out", tmp_path],
        check=True,
        timeout=300,
    )
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"apple-0.png", "apple-1.png", "cup-0.webp", "cup-1.webp", "cup-2.webp", "cup.webp", "green.png"}


def script_of(title: str) -> str:
    """Return the first script of a section of the guide."""
    guide = (ROOT / "docs" / "guide.md").read_text()
    found = re.search(r"```bash\n(.*?)```", guide[guide.index(title) :], re.DOTALL)
    assert found
    return found[1]
