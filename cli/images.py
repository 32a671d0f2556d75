"""`ai-pipeline images`: the images of a running service, and `ai-pipeline regions`: what they show, and where."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.markup import escape

from ai_pipeline_client import Image, Region
from cli.console import console, error_console
from cli.progress import step_bars
from cli.service import (
    HERE,
    ApiKey,
    AsJson,
    ImageRef,
    Metadata,
    Number,
    Quiet,
    Seed,
    Server,
    Tags,
    connected,
    ids_of,
    image_of,
    numbers,
    own_fields,
    print_json,
    print_pretty,
    print_table,
    tags_and_metadata,
    values_by_key,
    write_picture,
)

images = typer.Typer(
    no_args_is_help=True, help="The images of a running service: list, get, save, upload, update, delete, edit, vary."
)


class PictureFormat(StrEnum):
    """Formats of a file."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


Text = Annotated[str | None, typer.Option(help="What matches this text.")]
Points = Annotated[list[str] | None, typer.Option("--point", metavar="X,Y", help="A point inside; repeatable.")]
Box = Annotated[str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="A box around it, in pixels.")]
Strength = Annotated[float | None, typer.Option(min=0, max=1, help="How much may change, above 0 to 1.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
SaveTo = Annotated[str | None, typer.Option("--out", "-o", help="File to write the new image to; - for stdout.")]


@images.command("list")
def list_images(
    server: Server = HERE,
    api_key: ApiKey = "",
    label: Annotated[str | None, typer.Option(help="One of the five best labels.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Substring of the prompt.")] = None,
    tag: Tags = None,
    metadata: Metadata = None,
    made_from: Annotated[str | None, typer.Option(help="Variations and edits of this image.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Number of images; 0 for all.")] = 20,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List images, newest first."""
    with connected(server, api_key) as client:
        listed: list[Image] = []
        found = client.images.list(
            label=label,
            prompt=prompt,
            tags=tag or (),
            metadata=values_by_key(metadata),
            made_from=made_from,
            include_labels=True,
        )
        for image in found:
            listed.append(image)
            if limit and len(listed) == limit:
                break
    if not (as_json or quiet):
        columns = ("image", "created", "size", "prompt", "shows", "tags")
        print_table(columns, [_row(image) for image in listed])
    for image in listed:
        _print_one(image, as_json=as_json, quiet=quiet)


@images.command()
def get(image: ImageRef, server: Server = HERE, api_key: ApiKey = "") -> None:
    """Print an image's metadata as JSON: how it was made, and what it shows."""
    with connected(server, api_key) as client:
        print_pretty(own_fields(image_of(client, image, include=["labels"])))


@images.command()
def save(
    image: ImageRef,
    server: Server = HERE,
    api_key: ApiKey = "",
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="File to write, by default IMAGE.png; - for stdout.")
    ] = None,
    format_: Annotated[
        PictureFormat | None, typer.Option("--format", help="Format; by the file's suffix if left out.")
    ] = None,
    max_side: Annotated[int | None, typer.Option(help="Longest side in pixels; never enlarges.")] = None,
    quality: Annotated[int | None, typer.Option(min=1, max=100, help="Quality of JPEG and WebP.")] = None,
) -> None:
    """Save an image to a file."""
    with connected(server, api_key) as client:
        found = image_of(client, image)
        kind = format_ or _format_of(out)
        data = found.bytes(format=kind.value, max_side=max_side, quality=quality)
        write_picture(data, out or f"{found.image_id}.{kind}")


@images.command()
def upload(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="PNG, JPEG or WebP files; - for stdin.")],
    server: Server = HERE,
    api_key: ApiKey = "",
    tag: Tags = None,
    metadata: Metadata = None,
    as_json: AsJson = False,
) -> None:
    """Upload images; print their ids."""
    with connected(server, api_key) as client:
        for file in files:
            picture: Any = typer.get_binary_stream("stdin").read() if file == "-" else Path(file)
            image = client.images.upload(picture, **tags_and_metadata(tag, metadata))
            _print_one(image, as_json=as_json, quiet=not as_json)


@images.command()
def update(
    image: ImageRef,
    server: Server = HERE,
    api_key: ApiKey = "",
    tag: Annotated[list[str] | None, typer.Option("--tag", help="The new tags; repeat it for several.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", metavar="KEY=VALUE", help="A value to set; KEY= removes it.")
    ] = None,
) -> None:
    """Change an image's tags and metadata; print it as JSON."""
    with connected(server, api_key) as client:
        changes = {key: value or None for key, value in values_by_key(metadata).items()}
        (image_id,) = ids_of(client, [image])
        print_pretty(own_fields(client.images.update(image_id, metadata=changes, tags=tag)))


@images.command()
def delete(
    images_: Annotated[list[str], typer.Argument(metavar="IMAGE…", help="Ids of images, or `last`.")],
    server: Server = HERE,
    api_key: ApiKey = "",
) -> None:
    """Delete images and everything computed from them."""
    with connected(server, api_key) as client:
        ids = ids_of(client, images_)
        client.images.delete(*ids)
    error_console.print(f"Deleted {len(ids)} image{'s' if len(ids) != 1 else ''}.")


@images.command()
def edit(
    image: ImageRef,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the part shows instead.")],
    server: Server = HERE,
    api_key: ApiKey = "",
    text: Text = None,
    region: Annotated[list[int] | None, typer.Option(help="Id of a region; repeat it for several.")] = None,
    point: Points = None,
    box: Box = None,
    mask: Annotated[Path | None, typer.Option(help="A picture of the image's size, white where it may change.")] = None,
    strength: Strength = None,
    seed: Seed = None,
    steps: Steps = None,
    tag: Tags = None,
    metadata: Metadata = None,
    out: SaveTo = None,
    as_json: AsJson = False,
) -> None:
    """Edit a part of an image (inpainting); all of it, if no part is given. Prints the id of the new image."""
    with connected(server, api_key) as client, step_bars() as report:
        edited = image_of(client, image).edit(
            prompt,
            region=region or None,
            text=text,
            mask=mask,
            points=[_point(each) for each in point or ()],
            box=_box(box),
            strength=strength,
            seed=seed,
            steps=steps,
            on_progress=report,
            **tags_and_metadata(tag, metadata),
        )
        _deliver([edited], out, as_json)


@images.command()
def vary(
    image: ImageRef,
    server: Server = HERE,
    api_key: ApiKey = "",
    n: Number = 1,
    strength: Strength = None,
    prompt: Annotated[str | None, typer.Option(help="Its own prompt, or what it shows, if left out.")] = None,
    seed: Seed = None,
    steps: Steps = None,
    tag: Tags = None,
    metadata: Metadata = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help="Folder to write the new images to.")] = None,
    as_json: AsJson = False,
) -> None:
    """Generate variations of an image (img2img). Prints their ids."""
    with connected(server, api_key) as client, step_bars() as report:
        made = image_of(client, image).vary(
            n=n,
            strength=strength,
            prompt=prompt,
            seed=seed,
            steps=steps,
            on_progress=report,
            **tags_and_metadata(tag, metadata),
        )
        if out is not None:
            Path(out).mkdir(parents=True, exist_ok=True)
        for each in made:
            _deliver([each], None if out is None else str(Path(out) / f"{each.image_id}.png"), as_json)


@images.command()
def labels(
    image: ImageRef,
    own: Annotated[list[str] | None, typer.Argument(metavar="[LABEL…]", help="Your own labels.")] = None,
    server: Server = HERE,
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Classify an image, with the model's labels or your own."""
    with connected(server, api_key) as client:
        found = image_of(client, image).labels(own or None).labels
    if as_json:
        print_json([asdict(label) for label in found])
        return
    for label in found[:10]:
        console.print(f"{label.confidence:8.2%}  {escape(label.label)}")


@images.command()
def probe(
    image: ImageRef,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT…", help="Texts to score.")],
    server: Server = HERE,
    api_key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Score how well texts match an image, each by itself."""
    with connected(server, api_key) as client:
        found = image_of(client, image).probe(texts).matches
    if as_json:
        print_json([asdict(match) for match in found])
        return
    for match in found:
        console.print(f"{match.match:8.2%}  {escape(match.concept)}")


def regions(
    image: ImageRef,
    server: Server = HERE,
    api_key: ApiKey = "",
    text: Text = None,
    point: Points = None,
    box: Box = None,
    masks: Annotated[Path | None, typer.Option(help="Folder for the mask of each region, as PNG.")] = None,
    cutouts: Annotated[Path | None, typer.Option(help="Folder for each region alone, as transparent PNG.")] = None,
    coco: Annotated[str | None, typer.Option(help="File for all regions as a COCO document; - for stdout.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the regions of an image, those that match a text, or the one at points or in a box; save their pictures."""
    with connected(server, api_key) as client:
        if coco is not None and (point or box):
            raise ValueError("--coco has all regions, or those of --text: leave --point and --box out.")
        found_image = image_of(client, image)
        if point or box:
            points = [_point(each) for each in point or ()]
            found = [found_image.region_at(*points, box=_box(box))]
        else:
            found = found_image.regions(text)
        for region in found:
            _save_into(masks, region, "mask_picture")
            _save_into(cutouts, region, "cutout")
        if coco is not None:
            write_picture(orjson.dumps(found_image.coco(text)), coco)
    if as_json:
        for region in found:
            print_json(asdict(region))
    elif coco != "-":
        _print_regions(found)


def _save_into(folder: Path | None, region: Region, picture: str) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        getattr(region, picture)().save(folder / f"{region.region_id}.png")


def _print_regions(found: Sequence[Region]) -> None:
    for region in found:
        x0, y0, x1, y1 = region.box
        match = "" if region.match is None else f"  matches {region.match:.0%}"
        place = f"{x1 - x0} × {y1 - y0} at {x0}, {y0}"
        console.print(f"{region.region_id:>8}  {escape(region.label):16} {region.confidence:7.2%}  {place}{match}")


def _deliver(made: Sequence[Image], out: str | None, as_json: bool) -> None:
    """Write new images, and print them or their ids."""
    for image in made:
        if out is not None:
            data = image.bytes(format=_format_of(out).value)
            if out == "-":
                write_picture(data, out)
                return
            Path(out).write_bytes(data)
        _print_one(image, as_json=as_json, quiet=not as_json)


def _print_one(image: Image, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(own_fields(image))
    elif quiet:
        print(image.image_id, file=sys.stdout, flush=True)


def _row(image: Image) -> tuple[str, ...]:
    shown = image.included_labels
    return (
        image.image_id,
        f"{image.created_at:%Y-%m-%d %H:%M:%S}",
        f"{image.width} × {image.height}",
        escape(image.prompt or "(uploaded)"),
        escape(shown[0].label) if shown else "",
        escape(", ".join(image.tags)),
    )


def _format_of(out: str | None) -> PictureFormat:
    suffix = Path(out or "").suffix.lower().lstrip(".")
    return (
        PictureFormat("jpeg" if suffix == "jpg" else suffix) if suffix in ("jpg", *PictureFormat) else PictureFormat.PNG
    )


def _point(text: str) -> tuple[float, float]:
    x, y = numbers(text, 2, "--point")
    return x, y


def _box(text: str | None) -> tuple[float, float, float, float] | None:
    if text is None:
        return None
    x0, y0, x1, y1 = numbers(text, 4, "--box")
    return x0, y0, x1, y1
