"""Answers conform to the OpenAPI document, by Schemathesis: examples, coverage, fuzzing and stateful calls.

No answer is a 5xx, and none has an undocumented status, type or shape. `./scripts/test --chaos` runs it for twenty
minutes, the usual test run for half a minute.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from testing.service_process import ROOT, serving

SECONDS, LONG_SECONDS = 30, 1200
FEWEST_CASES = 100  # however slow the machine is
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
ENDLESS = ("/v1/events", "/v1/jobs/{job_id}/events")  # streams without an end
SIDE, STEPS = 64, 2  # of images, so that thousands can be generated


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> int:
    return LONG_SECONDS if request.config.getoption("chaos") else SECONDS


@pytest.fixture
def tiny_profile(tmp_path: Path) -> Path:
    """The miniature models, limited to images that take little time."""
    profile = yaml.safe_load((ROOT / "configs" / "mini.yaml").read_text())
    profile["diffusion"]["limits"] |= {"min_side": 32, "max_side": SIDE, "max_steps": STEPS}
    profile["diffusion"]["defaults"] |= {"width": SIDE, "height": SIDE, "steps": STEPS}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(profile))
    return path


def test_every_answer_is_documented(
    tmp_path: Path, tiny_profile: Path, seconds: int, seed: int, capsys: pytest.CaptureFixture[str]
):
    with serving(tmp_path, "--profile", str(tiny_profile)) as service:
        run = subprocess.run(
            [Path(sys.executable).with_name("schemathesis"), "run", f"{service.url}/openapi.json"]
            + ["--max-time", str(seconds), "--seed", str(seed), "--checks", CHECKS, "--request-timeout", "120"]
            + [argument for path in ENDLESS for argument in ("--exclude-path", path)]
            + [
                "--suppress-health-check",
                "all",
                "--continue-on-failure",
                "--generation-database",
                "none",
                "--no-color",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    cases = re.search(r"(\d+) generated, .*", run.stdout)
    with capsys.disabled():
        print(f"\nseed {seed}: {cases[0] if cases else run.stdout}, {seconds} s", end="")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "unresolvable" not in run.stdout
    assert cases is not None
    assert int(cases[1]) >= FEWEST_CASES
