"""Write `client.py` and `blocking/` of the client: `AsyncClient` and `aio/` without their awaits, by unasync.

`python -m scripts.write_client` from the project's root.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import unasync

PACKAGE = Path(__file__).parents[1] / "client" / "ai_pipeline_client"
OWN = ("__init__.py", "io.py")  # modules of `blocking` that are written by hand
HEADER = "# Generated from {source} by scripts/write_client.py: do not edit.\n"
NAMES = {
    "aio": "blocking",
    "aclose": "close",
    "aread": "read",
    "aiter_sse": "iter_sse",
    "AsyncCallableEvents": "CallableEvents",
    "AsyncCallableImages": "CallableImages",
    "AsyncCallableJobs": "CallableJobs",
    "AsyncClient": "Client",
    "AsyncConnection": "Connection",
    "AsyncEvents": "Events",
    "AsyncFlatMethods": "FlatMethods",
    "AsyncImage": "Image",
    "AsyncImages": "Images",
    "AsyncJobs": "Jobs",
    "AsyncKeys": "Keys",
    "AsyncModels": "Models",
    "AsyncRegion": "Region",
    "AsyncWebhooks": "Webhooks",
}


def sources() -> dict[str, str]:
    """Return the generated files, each with the file it is generated from; paths in the package."""
    parts = sorted(path.name for path in (PACKAGE / "aio").glob("*.py") if path.name not in OWN)
    return {"client.py": "async_client.py", **{f"blocking/{name}": f"aio/{name}" for name in parts}}


def blocking_modules() -> Mapping[str, str]:
    """Return the generated files' contents."""
    generated = sources()
    with tempfile.TemporaryDirectory() as folder:
        for target, source in generated.items():
            written = Path(folder, "async", target)
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_text((PACKAGE / source).read_text())
        rule = unasync.Rule("/async/", "/sync/", additional_replacements=NAMES)
        unasync.unasync_files([str(Path(folder, "async", target)) for target in generated], [rule])
        return {
            target: _formatted(HEADER.format(source=source) + Path(folder, "sync", target).read_text(), target)
            for target, source in generated.items()
        }


def _formatted(source: str, target: str) -> str:
    for command in (("check", "--select", "I", "--fix", "--quiet"), ("format",)):
        ruff = [sys.executable, "-m", "ruff", *command, "-", "--stdin-filename", str(PACKAGE / target)]
        source = subprocess.run(ruff, input=source, capture_output=True, text=True, check=True).stdout
    return source


if __name__ == "__main__":
    for name, text in blocking_modules().items():
        (PACKAGE / name).write_text(text)
