"""What commands that call a running service share: its URL and key, references to images, and output as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import orjson
import typer
from rich.table import Column, Table

from ai_pipeline_client import Client, Image
from cli.console import console, report_errors

HERE = "http://127.0.0.1:8000"
LAST = "last"
ID_CHARS = 36
PIPE_CHARS = 200  # width of the output if it isn't a terminal
LOOK_S = 1.0  # for a service at the default address
ALIASES = ("content", "request")  # older names of fields of an image

Server = Annotated[str, typer.Option(envvar=["AI_PIPELINE_URL", "PIPELINE_SERVER"], help="URL of the service.")]
ApiKey = Annotated[
    str, typer.Option(envvar=["AI_PIPELINE_API_KEY", "PIPELINE_API_KEY"], help="API key, if the service requires one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")]
ImageRef = Annotated[str, typer.Argument(metavar="IMAGE", help="Id of the image, or `last` for the newest.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A tag; repeat it for several.")]
Metadata = Annotated[
    list[str] | None, typer.Option("--metadata", metavar="KEY=VALUE", help="A value by key; repeatable.")
]
Seed = Annotated[int | None, typer.Option("--seed", "-s", help="Seed of the first image; random if left out.")]
Number = Annotated[int, typer.Option("-n", "--n", min=1, max=10, help="Number of images, with consecutive seeds.")]


@contextmanager
def connected(server: str, api_key: str) -> Iterator[Client]:
    """Open a client of a service; its errors end the command with a message."""
    with report_errors(), Client(server, api_key=api_key or None) as client:
        yield client


def service_here() -> str | None:
    """Return the URL of the service at the default address; None if there is none."""
    try:
        answer = httpx.get(HERE, timeout=LOOK_S).json()
    except (httpx.HTTPError, ValueError):
        return None
    return HERE if isinstance(answer, dict) and {"status", "profile"} <= answer.keys() else None


def image_of(client: Client, reference: str, include: Sequence[Any] = ()) -> Image:
    """Return the image of an id, or the newest for `last`.

    Raises:
        NotFound: there is no such image.
        ValueError: there is no image yet.
    """
    if reference != LAST:
        return client.images.get(reference, include=include)
    newest = client.images.page(limit=1).items
    if not newest:
        raise ValueError("There is no image yet. `ai-pipeline generate` or `images upload` makes one.")
    return client.images.get(newest[0], include=include) if include else newest[0]


def ids_of(client: Client, references: Sequence[str]) -> list[str]:
    """Return the ids of images."""
    return [image_of(client, each).image_id if each == LAST else each for each in references]


def values_by_key(pairs: Sequence[str] | None) -> dict[str, str]:
    """Return metadata of `KEY=VALUE` pairs.

    Raises:
        ValueError: one is no such pair.
    """
    if wrong := [pair for pair in pairs or () if "=" not in pair]:
        raise ValueError(f"--metadata {wrong[0]} is no KEY=VALUE, such as order=7.")
    return dict(pair.split("=", 1) for pair in pairs or ())


def numbers(text: str, count: int, option: str) -> tuple[float, ...]:
    """Return the numbers of a text such as `64,64`.

    Raises:
        ValueError: it has other than `count` of them.
    """
    found = re.fullmatch(r"\s*(-?[\d.]+)" + r"\s*,\s*(-?[\d.]+)" * (count - 1) + r"\s*", text)
    if found is None:
        raise ValueError(f"{option} {text}: send {count} numbers of pixels, such as {','.join(['64'] * count)}.")
    return tuple(float(number) for number in found.groups())


def own_fields(image: Image) -> dict[str, Any]:
    """Return an image as the API describes it, without older names of its fields."""
    return {name: value for name, value in image.raw.items() if name not in ALIASES}


def print_json(payload: Any) -> None:
    """Print an object as JSON on one line."""
    print(orjson.dumps(payload).decode(), flush=True)


def print_pretty(payload: Any) -> None:
    """Print an object as indented JSON."""
    console.print_json(orjson.dumps(payload).decode())


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column has ids, which are never cut off."""
    first = Column(headers[0], no_wrap=True, min_width=ID_CHARS)
    table = Table(first, *headers[1:], box=None, width=None if console.is_terminal else PIPE_CHARS)
    for row in rows:
        table.add_row(*row)
    console.print(table, crop=False)


def write_picture(data: bytes, target: str) -> None:
    """Write bytes to a file, or to stdout for `-`."""
    if target == "-":
        typer.get_binary_stream("stdout").write(data)
    else:
        Path(target).write_bytes(data)
        console.print(f"Wrote {target}", soft_wrap=True)


def tags_and_metadata(tags: Sequence[str] | None, metadata: Sequence[str] | None) -> Mapping[str, Any]:
    """Return the arguments of the client that attach tags and metadata to new images."""
    return {"tags": list(tags or ()), "metadata": values_by_key(metadata)}
