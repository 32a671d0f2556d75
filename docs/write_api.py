"""Writes `docs/api.md` from the OpenAPI document: `python -m docs.write_api`. A test compares the two."""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from graphs.events.bus import EventBus
from graphs.http.app import build_http_app
from graphs.services import build_services
from pipeline.settings import ServiceSettings
from pipeline.store import open_store

PAGE = Path(__file__).with_name("api.md")
TAGS = ("images", "analysis", "OpenAI", "jobs", "events", "webhooks", "legacy", "service")
TITLES = {
    "images": "Images",
    "analysis": "What images show",
    "OpenAI": "OpenAI's API",
    "jobs": "Jobs",
    "events": "Events",
    "webhooks": "Webhooks",
    "legacy": "The legacy API",
    "service": "The service itself",
}
HEAD = """# The HTTP API

Written by `python -m docs.write_api` from the service's own OpenAPI document, which it answers at `/openapi.json`, and
at `/docs` to try.

Errors are `application/problem+json` (RFC 9457) with `type, title, status, detail, code, request_id`; the routes of
OpenAI's API answer its error object instead. `X-Request-ID` is taken over and echoed, `X-Session-ID` says whose last
image is meant, and `Idempotency-Key` makes it safe to send a POST again.
"""

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


def page(openapi: Document) -> str:
    """The document as Markdown."""
    operations: defaultdict[str, list[str]] = defaultdict(list)
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            operations[operation["tags"][0]].append("\n".join(_operation(method, path, operation)))
    sections = [f"## {TITLES[tag]}\n\n" + "\n".join(operations.pop(tag)) for tag in TAGS]
    if operations:
        raise ValueError(f"Tags without a section: {', '.join(operations)}")
    schemas = "\n".join("\n".join(_schema(name, shape)) for name, shape in openapi["components"]["schemas"].items())
    return "\n".join([HEAD, *sections, "## Shapes", "", schemas])


def _operation(method: str, path: str, operation: Document) -> Iterator[str]:
    yield f"### `{method.upper()} {path}`\n"
    yield ("Deprecated. " if operation.get("deprecated") else "") + _text(operation["description"]) + "\n"
    parameters = operation.get("parameters", [])
    if parameters:
        yield "| parameter | in | type | |"
        yield "|---|---|---|---|"
        for parameter in parameters:
            name = f"`{parameter['name']}`" + (" *" if parameter.get("required") else "")
            yield f"| {name} | {parameter['in']} | {_type(parameter['schema'])} | {_about(parameter)} |"
        yield ""
    for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
        shape = body["schema"]
        fields = ", ".join(f"`{name}`" for name in shape.get("properties", {}))
        yield f"Body: `{media_type}`, {fields or _type(shape)}\n"
    answers = [_answer(status, response) for status, response in operation["responses"].items()]
    yield f"Answers: {', '.join(answers)}\n"


def _answer(status: str, response: Document) -> str:
    shapes = [_type(body.get("schema", {})) for body in response.get("content", {}).values() if status.startswith("2")]
    named = [shape for shape in shapes if shape.startswith("[")]
    return f"{status} {', '.join(named)}".strip()


def _schema(name: str, shape: Document) -> Iterator[str]:
    yield f"### {name}\n"
    if "description" in shape:
        yield _text(shape["description"]) + "\n"
    if "enum" in shape:
        yield " · ".join(f"`{value}`" for value in shape["enum"]) + "\n"
    if properties := shape.get("properties"):
        yield "| field | type | |"
        yield "|---|---|---|"
        for field, about in properties.items():
            needed = " *" if field in shape.get("required", []) else ""
            yield f"| `{field}`{needed} | {_type(about)} | {_about(about)} |"
        yield ""


def _type(shape: Document) -> str:
    if "$ref" in shape:
        name = shape["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in shape:
        return " or ".join(_type(one) for one in shape["anyOf"])
    if "const" in shape:
        return f"`{shape['const']}`"
    if "enum" in shape:
        return " · ".join(f"`{value}`" for value in shape["enum"])
    if shape.get("type") == "array":
        items = shape.get("items") or {}
        return f"list of {_type(items)}" if items else f"{len(shape.get('prefixItems', []))} numbers"
    kind = str(shape.get("format") or shape.get("type") or "any")
    bounds = [
        f"{sign} {shape[name]}"
        for name, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if name in shape
    ]
    return " ".join([kind, ", ".join(bounds)]).strip()


def _about(shape: Document) -> str:
    text = ("Deprecated. " if shape.get("deprecated") else "") + _text(shape.get("description", ""))
    default = shape.get("default", shape.get("schema", {}).get("default"))
    return f"{text} Default `{default}`.".strip() if default not in (None, "", []) else text


def _text(description: str) -> str:
    return re.sub(r"\s*\n\s*", " ", description).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(document()))
