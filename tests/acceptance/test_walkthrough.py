"""The README's walk-through by curl, as it stands there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from cli.ports import free_port
from tests.service_process import ROOT, RunningService, wait_until

TOLD = r"(?:job\.succeeded|job\.cancelled|image\.created) [0-9a-f-]{36} {"  # as the receiver prints it


def test_the_walk_through_does_what_it_says(service: RunningService, tmp_path: Path):
    assert shutil.which("curl"), "the README's walk-through needs curl"
    readme = (ROOT / "README.md").read_text()
    section = readme[readme.index("## Jobs, events and webhooks") :]
    (script,) = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)[:1]
    receiver = f"127.0.0.1:{free_port()}"
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
