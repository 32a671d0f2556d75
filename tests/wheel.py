"""The project as `pip install` leaves it: wheels of this checkout in an environment without the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = (".*", "__pycache__", "*.egg-info", "build", "data", "out", "weights", "tests")
UV = Path(sys.executable).with_name("uv")


def build_wheel(project: Path, folder: Path) -> None:
    """Build the wheel of a project into a folder, by the tools of this environment."""
    build = ("build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder)
    subprocess.run([UV, *build, project], check=True, capture_output=True)


def install_wheel(folder: Path) -> Path:
    """Build the wheels of the service and of its client, and install them; the libraries are those of this environment.

    Returns:
        The command `ai-pipeline`.
    """
    source, environment = folder / "source", folder / "environment"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for project in (source, source / "client"):
        build_wheel(project, folder)
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    packages = sysconfig.get_path("purelib", vars={"base": environment, "platbase": environment})
    # Found after the wheels' own modules; an editable install among them, which is a .pth of its own, is not followed.
    Path(packages, "libraries.pth").write_text(sysconfig.get_path("purelib"))
    wheels = folder.glob("*.whl")
    subprocess.run([UV, "pip", "install", "--offline", "--no-deps", "--python", python, *wheels], check=True)
    shutil.rmtree(source)
    return environment / "bin" / "ai-pipeline"
