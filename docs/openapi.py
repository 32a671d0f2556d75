"""The OpenAPI document of the service as it is configured by default: `python -m docs.openapi` prints it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, cast

from graphs.events.bus import EventBus
from graphs.http.app import build_http_app
from graphs.services import build_services
from pipeline.settings import ServiceSettings
from pipeline.store import open_store

Document = dict[str, Any]


def document() -> Document:
    """The OpenAPI document of the service as it is configured by default."""
    with tempfile.TemporaryDirectory() as folder:
        settings = ServiceSettings(data_dir=Path(folder))
        unused = cast("Any", None)  # no handler runs
        services = build_services(
            settings=settings,
            profile=settings.load_profile(),
            workers=unused,
            models=unused,
            cache=unused,
            store=open_store(settings),
            hub=None,
            put=unused,
            bus=EventBus(),
        )
        return build_http_app(services).openapi()


if __name__ == "__main__":
    print(json.dumps(document(), indent=2, ensure_ascii=False))
