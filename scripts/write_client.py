"""Write `client/ai_pipeline_client/client.py`: `AsyncClient` without its awaits, by unasync.

`python -m scripts.write_client` from the project's root.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import unasync

PACKAGE = Path(__file__).parents[1] / "client" / "ai_pipeline_client"
HEADER = "# Generated from async_client.py by scripts/write_client.py: do not edit.\n"
NAMES = {
    "AsyncClient": "Client",
    "aclose": "close",
    "aread": "read",
    "aiter_sse": "iter_sse",
    "async_io": "blocking_io",
}


def blocking_client() -> str:
    """Return the source of `client.py`."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "async", "client.py"), Path(folder, "sync", "client.py")
        source.parent.mkdir()
        source.write_text((PACKAGE / "async_client.py").read_text())
        rule = unasync.Rule("/async/", "/sync/", additional_replacements=NAMES)
        unasync.unasync_files([str(source)], [rule])
        written = HEADER + target.read_text()
    formatter = [sys.executable, "-m", "ruff", "format", "-", "--stdin-filename", str(PACKAGE / "client.py")]
    return subprocess.run(formatter, input=written, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    (PACKAGE / "client.py").write_text(blocking_client())
