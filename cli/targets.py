"""Prometheus targets of a running service: a file in its data folder, for `file_sd_configs`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

FILE_NAME = "prometheus_targets.json"


@contextmanager
def advertised(folder: Path, *, service_url: str, metrics_url: str) -> Iterator[None]:
    """Publish the addresses of the service and of Ray's exporter until the block ends."""
    groups = [
        {"targets": [urlsplit(url).netloc], "labels": {"job": job}}
        for job, url in (("ray", metrics_url), ("ai-pipeline", service_url))
    ]
    path = folder / FILE_NAME
    staged = path.with_suffix(".new")  # Prometheus may read at any time
    staged.write_text(json.dumps(groups, indent=2))
    staged.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
