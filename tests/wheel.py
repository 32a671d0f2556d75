"""The project as `pip install` leaves it: a wheel of this checkout in an environment without the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = (".*", "__pycache__", "*.egg-info", "build", "data", "out", "weights", "tests")


def install_wheel(folder: Path) -> Path:
    """Build the wheel and install it; the libraries are those of this environment.

    Returns:
        The command `ai-pipeline`.
    """
    uv, source, environment = Path(sys.executable).with_name("uv"), folder / "source", folder / "environment"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*LEFT_OUT))
    build = ("build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder)
    subprocess.run([uv, *build, source], check=True, capture_output=True)
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    packages = sysconfig.get_path("purelib", vars={"base": environment, "platbase": environment})
    # Found after the wheel's own modules; an editable install among them, which is a .pth of its own, is not followed.
    Path(packages, "libraries.pth").write_text(sysconfig.get_path("purelib"))
    (wheel,) = folder.glob("*.whl")
    subprocess.run([uv, "pip", "install", "--offline", "--no-deps", "--python", python, wheel], check=True)
    shutil.rmtree(source)
    return environment / "bin" / "ai-pipeline"
