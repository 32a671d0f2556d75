"""Which build of torch `scripts/setup` installs, with an installer that only records its arguments."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.settings import PROJECT_ROOT

FILES = ("requirements.lock", "pyproject.toml", "client/pyproject.toml", "scripts/setup", "scripts/torch-build")
PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$(dirname "$0")/uv" "$3/bin/uv"; fi
"""
UV = """#!/bin/sh
echo "$*" >> installer.log
if [ "$2" = compile ]; then test "$INDEX" = reachable; fi
"""
BY_LOCK, BY_BACKEND = "--requirement requirements.lock", "--torch-backend cpu --constraint requirements.lock"


class Checkout:
    """A copy of the files that the setup reads, and stubs of the tools that it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for file in FILES:
            (folder / file).parent.mkdir(exist_ok=True)
            shutil.copy(PROJECT_ROOT / file, folder / file)
        self.tool("python3", PYTHON)
        self.tool("uv", UV)

    def tool(self, name: str, script: str = "#!/bin/sh\n") -> None:
        path = self.folder / "tools" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)

    def setup(self, torch: str = "auto", *, index: str = "reachable") -> tuple[str, str]:
        """Run the setup; return the installer's arguments, empty if nothing was installed, and stderr."""
        log = self.folder / "installer.log"
        log.unlink(missing_ok=True)
        environment = {"PATH": f"{self.folder / 'tools'}:{os.defpath}", "PIPELINE_TORCH": torch, "INDEX": index}
        done = subprocess.run(
            [self.folder / "scripts/setup"], env=environment, capture_output=True, text=True, check=True
        )
        lines = log.read_text().splitlines() if log.exists() else []
        installed = [line for line in lines if " install " in line and "--editable" not in line]
        return "\n".join(installed), done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_a_cpu_gets_the_build_without_cuda_with_the_lock_as_constraints(checkout):
    installed, output = checkout.setup("cpu")
    assert BY_BACKEND in installed
    assert BY_LOCK not in installed
    assert "3 GB, without CUDA" in output
    assert checkout.setup("cpu") == ("", "")


def test_if_the_index_is_unreachable_the_registry_s_build_is_installed_and_reported(checkout):
    installed, output = checkout.setup("cpu", index="away")
    assert BY_LOCK in installed
    assert "--torch-backend" not in installed
    assert "can't be reached" in output
    assert "7 GB" in output
    assert checkout.setup("cpu") == ("", "")  # the index isn't queried again
    assert checkout.setup("auto") == ("", "")


@pytest.mark.skipif(
    Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi", path=os.defpath) is not None, reason="a GPU is here"
)
def test_the_default_build_depends_on_the_machine(checkout):
    assert BY_BACKEND in checkout.setup()[0]
    checkout.tool("nvidia-smi")
    assert BY_LOCK in checkout.setup()[0]  # a GPU was added


def test_an_installed_build_is_kept_by_default(checkout):
    assert BY_LOCK in checkout.setup("cuda")[0]
    assert checkout.setup("auto") == ("", "")
    assert BY_BACKEND in checkout.setup("cpu")[0]


def test_the_other_build_is_installed_into_a_new_environment(checkout):
    checkout.setup("cpu")
    left_over = checkout.folder / ".venv" / "left-over"
    left_over.touch()
    checkout.setup("cuda")
    assert not left_over.exists()


def test_an_environment_of_an_earlier_version_is_updated_with_its_build(checkout):
    checkout.setup("cuda")
    marker = checkout.folder / ".venv" / ".installed"
    marker.write_text("another digest  -\n")
    assert BY_LOCK in checkout.setup("auto")[0]


def test_changed_requirements_are_installed(checkout):
    checkout.setup("cpu")
    with (checkout.folder / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert BY_BACKEND in checkout.setup("cpu")[0]


def test_an_unknown_build_is_refused(checkout):
    with pytest.raises(subprocess.CalledProcessError) as refused:
        checkout.setup("rocm")
    assert "say cpu or cuda" in refused.value.stderr
