"""The guide's walk-throughs by curl, as they stand there, and the examples."""

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

TOLD = r"(?:job\.succeeded|job\.cancelled|image\.created) [0-9a-f-]{36} {"  # as the receiver prints it


def test_the_walk_through_does_what_it_says(service: RunningService, tmp_path: Path):
    assert shutil.which("curl"), "the walk-through needs curl"
    script = script_of("## Jobs, events and webhooks")
    receiver = f"127.0.0.1:{quiet_port()}"
    for said, meant in (
        (".venv/bin/python", str(ROOT / ".venv/bin/python")),
        ("examples/", f"{ROOT}/examples/"),
        ("--port 9000", f"--port {receiver.partition(':')[2]}"),
        ("127.0.0.1:9000", receiver),
    ):
        assert said in script
        script = script.replace(said, meant)
    script = script.replace("localhost:8000", service.url.removeprefix("http://"))
    with (tmp_path / "said.txt").open("w") as output:
        process = subprocess.Popen(
            ["bash", "-c", f"trap 'kill $(jobs -p)' EXIT\n{script}\nread"],  # the receiver is there until the end
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )

        def said() -> str:
            return (tmp_path / "said.txt").read_text()

        try:
            wait_until(lambda: len(re.findall(TOLD, said())) == 3)
        finally:
            process.communicate(b"\n")
    print(said())
    assert '"secret":"whsec_' in said()
    assert "event: generation.stepped" in said()
    assert "event: generation.finished" in said()
    assert '"state":"succeeded"' in said()
    assert re.search(r'"state":"(cancelled|running)"', said())
    assert len(re.findall(r"^event: job\.(succeeded|cancelled)$", said(), re.M)) >= 3


def test_the_resources_do_what_the_readme_says(service: RunningService, tmp_path: Path):
    script = script_of("## Images as resources").replace("localhost:8000", service.url.removeprefix("http://"))
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, check=True, timeout=300)

    said = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert len(said["made"]["images"]) == 2
    assert said["coco"]["annotations"]
    assert said["apple"]["segments"][0]["labels"][0]["label"] == "apple"
    assert said["labels"]["labels"][0]["label"] == "apple"
    assert said["concepts"]["matches"][0]["share"] > 0.9
    assert said["edited"]["images"][0]["request"]["prompt"] == "a green apple"
    assert len(said["like_it"]["images"]) == 3
    assert "green" in said["green"]["images"][0]["request"]["prompt"]
    with Image.open(tmp_path / "green.webp") as thumbnail:
        assert max(thumbnail.size) == 64


def test_the_example_with_openai_s_client_runs(service: RunningService, tmp_path: Path):
    subprocess.run(
        [sys.executable, ROOT / "examples" / "openai_images.py", "--server", service.url, "--out", tmp_path],
        check=True,
        timeout=300,
    )
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"apple-0.png", "apple-1.png", "cup-0.webp", "cup-1.webp", "cup-2.webp", "cup.webp", "green.png"}


def script_of(title: str) -> str:
    """The first script of one of the guide's sections."""
    guide = (ROOT / "docs" / "guide.md").read_text()
    found = re.search(r"```bash\n(.*?)```", guide[guide.index(title) :], re.DOTALL)
    assert found
    return found[1]
